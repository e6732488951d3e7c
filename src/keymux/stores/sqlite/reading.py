"""Records as they are stored, opened; one that cannot be opened is told of and left out."""

import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from keymux.core.egress import ProxyRecord
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
        secret = self._opened(Place(collection, record.id, "apiKey"), record.secret)
        return None if secret is None else replace(record, secret=secret)

    def open_proxy(self, record: ProxyRecord) -> ProxyRecord | None:
        """The proxy with its password, or None."""
        place = Place("proxies", record.id, "password")
        password = self._opened(place, record.address.password)
        if password is None:
            return None
        return replace(record, address=replace(record.address, password=password))

    def _opened(self, place: Place, stored: str) -> str | None:
        try:
            return self.vault.open(place, stored)
        except CannotOpen as error:
            self.tell_once(str(error))
            return None

    def tell_once(self, text: str) -> None:
        """Tell of a trouble, unless it was told before."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

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
