"""What a store can do with secrets without opening them."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from keymux.stores.sealing.vault import Place

OF_PROVIDERS = {"keys": "apiKey", "backup_keys": "apiKey"}
"""The collections of a provider that hold secrets, and the field they are in."""
SHARED = {"proxies": "password"}
"""The other collections that do."""


class Secret(Struct, frozen=True):
    """A secret as it is stored."""

    place: Place
    stored: str

    def __repr__(self) -> str:
        return f"<Secret {self.place}>"


class Change(Struct, frozen=True):
    """A secret that is to be stored otherwise, unless somebody else has changed it meanwhile."""

    place: Place
    before: str
    after: str

    def __repr__(self) -> str:
        return f"<Change {self.place}>"


class Answers(Protocol):
    """Known answers: a constant, sealed with each key that secrets of the store may be sealed with.

    They prove that a ring fits before anything is sealed with it or served.
    """

    async def load(self) -> dict[str, str]:
        """By key id."""

    async def add(self, kid: str, answer: str, *, is_first: bool, actor: str) -> bool:
        """Add one; False if it was to be the first and somebody else's is there.

        It is audited if there is an actor.
        """

    async def remove(self, kid: str, actor: str) -> bool:
        """Remove one, and audit it; False if a secret is sealed with that key."""


class Secrets(Protocol):
    """All secrets of a store, as they are stored."""

    async def collections(self) -> list[str]:
        """Those that hold secrets."""

    async def load(self, collection: str) -> list[Secret]:
        """The secrets of one."""

    async def passed_over(self, collection: str) -> list[str]:
        """What has a secret there and cannot be used, a line each, without the secret."""

    async def replace(self, changes: Sequence[Change]) -> int:
        """Store secrets otherwise; gives how many were as they should be before."""

    async def wipe(self) -> str:
        """Remove what is left of earlier values; says what may be left all the same."""

    async def audit(self, action: str, subject: str, actor: str) -> None:
        """Write down what an operator did."""
