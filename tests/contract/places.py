"""Where stores are kept while the contract is checked: one class for each kind of store."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Protocol

from keymux.stores.port import Store
from keymux.stores.sqlite import SqliteStore


class Place(Protocol):
    """A database that any number of stores can be opened on, in this process and in others."""

    def open(self) -> Store:
        """One more store on the database, which is empty at first."""

    def make_newer(self) -> None:
        """Make the database look as if a later keymux had written it."""

    def content(self) -> object:
        """All there is in the database, to see whether it was touched."""

    def set_status(self, provider: str, key_id: str, status: str) -> None:
        """Change the status of an upstream key behind the store's back."""


class SqlitePlace:
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keymux.db"

    def open(self) -> Store:
        """One more connection to the file."""
        return SqliteStore(self.path)

    def make_newer(self) -> None:
        """Raise the number of the schema."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA user_version = 999")

    def content(self) -> object:
        """The statements that would build it again."""
        with closing(sqlite3.connect(self.path)) as connection:
            return list(connection.iterdump())

    def set_status(self, provider: str, key_id: str, status: str) -> None:
        """One statement."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                f"UPDATE {provider}_keys SET status = ? WHERE _id = ?",  # noqa: S608 -- ours
                (status, key_id),
            )


PLACES: dict[str, Callable[[Path], Place]] = {"SQLite in a file": SqlitePlace}


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Store]:
    """A store on a database, closed at the end."""
    store = place.open()
    try:
        yield store
    finally:
        await store.close()
