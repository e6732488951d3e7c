"""Records as they are stored, opened; one that cannot be opened is told of and left out."""

import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from keymux.core.records import BackupKeyRecord, KeyRecord, ProviderState
from keymux.stores.sealing.vault import CannotOpen, Place, Vault
from keymux.stores.states import status_of

R = TypeVar("R", KeyRecord, BackupKeyRecord)


class Reader:
    """Opens the secrets of records.

    Args:
        vault: that opens them.
        tell: told of each trouble once.
    """

    def __init__(self, vault: Vault, tell: Callable[[str], None]) -> None:
        self.vault = vault
        self.tell = tell
        self._told: set[str] = set()

    def open(self, collection: str, record: R) -> R | None:
        """The record with its secret, or None."""
        try:
            secret = self.vault.open(Place(collection, record.id, "apiKey"), record.secret)
        except CannotOpen as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                self.tell(str(error))
            return None
        return replace(record, secret=secret)

    def opened(self, collection: str, records: Iterable[R]) -> list[R]:
        """The records that can be opened."""
        found = (self.open(collection, record) for record in records)
        return [record for record in found if record is not None]


def state_of(row: sqlite3.Row) -> ProviderState:
    """The health of a provider that a row stands for."""
    return ProviderState(
        status=status_of(row["status"]),
        cooldown_until=row["cooldownUntil"],
        reason=row["statusReason"],
        step=row["step"],
        generation=row["generation"],
    )
