"""The key ring: the keys that seal secrets, and the one that new seals are made with."""

import json
import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KNOWN = {"current", "keys", "next", "rotating"}


class BadRing(Exception):  # noqa: N818 -- it is the ring that is bad
    """A key ring cannot be used; the message says why and repeats nothing of it."""


class KeyRing(Struct, frozen=True):
    """Keys by their ids.

    Attributes:
        current: id of the key that new seals are made with.
        keys: 32 bytes each.
        next: id of the key that will be the current one, empty if none was prepared.
        rotating: whether secrets may still be sealed with a key that is on its way out.
    """

    current: str
    keys: dict[str, bytes]
    next: str = ""
    rotating: bool = False

    def __repr__(self) -> str:
        return f"<KeyRing {self.current} of {len(self.keys)}>"

    def text(self) -> str:
        """As it is written to a file."""
        written: dict[str, Any] = {
            "current": self.current,
            "keys": {kid: b64encode(key).decode() for kid, key in self.keys.items()},
        }
        if self.next:
            written["next"] = self.next
        if self.rotating:
            written["rotating"] = True
        return json.dumps(written, indent=2) + "\n"

    def with_next(self) -> "KeyRing":
        """The ring with one more key, which is not used yet."""
        kid = new_key_id()
        return replace(self, keys={**self.keys, kid: secrets.token_bytes(KEY_BYTES)}, next=kid)

    def turned(self) -> "KeyRing":
        """The ring with its next key as the current one."""
        return replace(self, current=self.next, next="", rotating=True)

    def without(self, old: set[str], *, rotating: bool = False) -> "KeyRing":
        """The ring without some keys, as it is when a rotation is done, or still is not."""
        kept = {kid: key for kid, key in self.keys.items() if kid not in old}
        return replace(self, keys=kept, rotating=rotating)


def new_key_id() -> str:
    """A name that no other key has."""
    return f"k{secrets.token_hex(4)}"


def new_ring() -> KeyRing:
    """A ring with one key."""
    kid = new_key_id()
    return KeyRing(kid, {kid: secrets.token_bytes(KEY_BYTES)})


def parse(text: str) -> KeyRing:
    """The ring that a text holds.

    Raises:
        BadRing: it holds none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRing("is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), dict):
        raise BadRing('is no key ring: {"current": "...", "keys": {"...": "..."}}')
    if found.keys() - _KNOWN:
        raise BadRing("has fields that this keymux does not know")
    keys = {kid: _key(kid, value) for kid, value in found["keys"].items()}
    current, upcoming = str(found.get("current")), str(found.get("next", ""))
    if current not in keys:
        raise BadRing("names a current key that is not in it")
    if upcoming and upcoming not in keys:
        raise BadRing("names a next key that is not in it")
    return KeyRing(current, keys, upcoming, rotating=found.get("rotating") is True)


def _key(kid: str, value: object) -> bytes:
    if not _KEY_ID.fullmatch(kid):
        raise BadRing("has a key id with odd letters, or more than 32")
    try:
        key = b64decode(value, validate=True) if isinstance(value, str) else b""
    except (Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise BadRing(f"has a key {kid} that is not {KEY_BYTES} bytes in base64")
    return key
