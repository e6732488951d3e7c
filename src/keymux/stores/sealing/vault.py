"""Sealing and opening: AES-256-GCM, bound to the place where the secret stands.

A sealed secret is ``v1:<key id>:<nonce>:<ciphertext>``, both in base64url. The place is
authenticated along with it, so a ciphertext that is copied to another record opens nowhere. Nonces
are 96 random bits: one key may seal four thousand million secrets.

What is not sealed is a *legacy* secret, from a time or a program that stored them as they are: it
is given back unchanged, and sealed when it is next written.
"""

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.sealing.ring import BadRing, KeyRing, new_ring
from keymux.stores.sealing.ring_file import RingFile, RingSource

_MARK = "v1"
_NONCE_BYTES = 12
_SEALED = re.compile(r"v1:([A-Za-z0-9_-]{1,32}):([A-Za-z0-9_-]{16}):([A-Za-z0-9_-]{22,})")
# A seal whose first letters were changed, or that a later keymux made, is no legacy secret.
_NEARLY_SEALED = re.compile(
    r".{3}[A-Za-z0-9_-]{1,32}:[A-Za-z0-9_-]{16}:[A-Za-z0-9_-]{22,}", re.DOTALL
)


class Place(Struct, frozen=True):
    """Where a secret stands.

    Attributes:
        collection: or table.
        id: of the record.
        field: of it.
    """

    collection: str
    id: str
    field: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.id}/{self.field}"


class CannotOpen(Exception):  # noqa: N818 -- names what happened
    """A sealed secret cannot be opened; the message says where it stands and why."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(
            f"{place.collection}: {place.id!r} is left out: its {place.field} cannot be opened: "
            f"{why}"
        )


def is_sealed(text: str) -> bool:
    """Whether a stored text is, or was meant to be, a sealed secret."""
    return text.startswith(f"{_MARK}:") or _NEARLY_SEALED.fullmatch(text) is not None


def key_id_of(text: str) -> str:
    """The id of the key that a stored text is sealed with; empty for a legacy secret."""
    found = _SEALED.fullmatch(text)
    return found[1] if found else "?" if is_sealed(text) else ""


class Vault:
    """Seals and opens the secrets of one store.

    Args:
        source: of the key ring; None to keep secrets as they are, and open none.
        plain: store new secrets as they are although there is a ring.
        may_make: whether a new store gets a new ring by itself.
    """

    def __init__(
        self, source: RingSource | None, *, plain: bool = False, may_make: bool = False
    ) -> None:
        self.source = source
        self.is_plain = plain or source is None
        self.may_make = may_make
        self._ring: KeyRing | None = None
        self._ciphers: dict[tuple[str, bytes], AESGCM] = {}

    # -- the ring ------------------------------------------------------------------------------
    def ring(self) -> KeyRing | None:
        """The ring as it is now, None if there is none.

        Raises:
            StoreUnusable: it cannot be used.
        """
        if self.source is None:
            return None
        try:
            self._ring = self.source.latest()
        except BadRing as error:
            raise StoreUnusable(f"{self.source.where} {error}") from None
        return self._ring

    def make_ring(self) -> tuple[KeyRing, bool]:
        """A ring where there was none, and whether this process made it.

        Raises:
            StoreUnusable: it cannot be made.
        """
        fresh = new_ring()
        if self.source is None:
            raise StoreUnusable("this store keeps no sealed secrets")
        try:
            self._ring = self.source.make(fresh)
        except BadRing as error:
            raise StoreUnusable(f"{self.source.where} {error}") from None
        return self._ring, self._ring == fresh

    def take_back(self, ring: KeyRing) -> None:
        """Remove a ring that was just made: it came too late."""
        if isinstance(self.source, RingFile):
            self.source.take_back(ring)

    # -- secrets -------------------------------------------------------------------------------
    def seal(self, place: Place, text: str) -> str:
        """The text as it is to be stored there.

        The ring is looked at each time: a key that is on its way out must not be used any more.

        Raises:
            StoreUnavailable: the ring is not there now.
            StoreUnusable: the ring cannot be used, or the text cannot be told from a sealed one.
        """
        if self.is_plain or not text:
            if is_sealed(text):
                raise StoreUnusable("what looks like a sealed secret cannot be stored in plain")
            return text
        ring = self.ring()
        if ring is None:
            where = self.source.where if self.source else "the key ring"
            raise StoreUnavailable(f"{where} is not there: make one with `keymux secrets init`")
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._cipher(ring.current, ring.keys[ring.current])
        sealed = cipher.encrypt(nonce, text.encode(), str(place).encode())
        return f"{_MARK}:{ring.current}:{_encoded(nonce)}:{_encoded(sealed)}"

    def open(self, place: Place, stored: str) -> str:
        """The secret that is stored there.

        Raises:
            CannotOpen: it is sealed, and the seal is broken, another place's, or another ring's.
        """
        if not is_sealed(stored):
            return stored
        parts = _SEALED.fullmatch(stored)
        if parts is None:
            raise CannotOpen(place, "it was changed, or a newer keymux has sealed it")
        kid, nonce, sealed = parts.groups()
        key = self._key(place, kid)
        try:
            text = self._cipher(kid, key).decrypt(
                _decoded(nonce), _decoded(sealed), str(place).encode()
            )
        except (InvalidTag, ValueError):
            raise CannotOpen(
                place, "it was changed, or moved there from another record, or the key is wrong"
            ) from None
        return text.decode()

    def resealed(self, place: Place, stored: str) -> str:
        """A legacy secret sealed as far as that is possible now; all others as they are."""
        if is_sealed(stored):
            return stored
        try:
            return self.seal(place, stored)
        except (StoreUnavailable, StoreUnusable):
            return stored  # as it was, until a time when it can be sealed

    def _key(self, place: Place, kid: str) -> bytes:
        if self._ring is None or kid not in self._ring.keys:
            try:
                self.ring()
            except StoreUnusable as error:
                raise CannotOpen(place, str(error)) from None
        if self._ring is None or kid not in self._ring.keys:
            raise CannotOpen(place, f"it is sealed with the key {kid}, which the ring lacks")
        return self._ring.keys[kid]

    def _cipher(self, kid: str, key: bytes) -> AESGCM:
        found = self._ciphers.get((kid, key))
        if found is None:
            found = self._ciphers[kid, key] = AESGCM(key)
        return found


def _encoded(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    value = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encoded(value) != text:
        raise ValueError("not as it was written")
    return value
