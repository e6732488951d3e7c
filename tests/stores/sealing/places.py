"""Stores with a key ring, of each kind, to look at from both sides."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol

from pymongo import MongoClient

from keymux.stores.mongo import MongoStore
from keymux.stores.opening import SealedStore
from keymux.stores.sealing.port import SHARED
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import SqliteStore
from tests.contract.records import ACME


class SealedPlace(Protocol):
    """A database and the file of its ring."""

    ring: RingFile
    told: list[str]

    def store(self, vault: Vault) -> SealedStore:
        """One more store on the database."""

    def stored(self, collection: str, field: str = "apiKey") -> dict[str, str]:
        """What is stored, by record."""

    def put(self, collection: str, record_id: str, value: str) -> None:
        """Change a secret behind the store's back."""

    def forget_answers(self) -> None:
        """Remove the known answers."""

    def dump(self) -> bytes:
        """All there is."""


def _field(collection: str) -> str:
    return SHARED.get(collection, "apiKey")


class SealedFile:
    """The embedded store."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keymux.db"
        self.ring = RingFile(folder / "ring.json")
        self.told: list[str] = []

    def store(self, vault: Vault) -> SealedStore:
        """One more connection."""
        return SqliteStore(self.path, vault=vault, tell=self.told.append)

    def stored(self, collection: str, field: str = "apiKey") -> dict[str, str]:
        """What is stored, by record."""
        with closing(sqlite3.connect(self.path)) as connection:
            return dict(connection.execute(f"SELECT _id, {field} FROM {collection}"))  # noqa: S608 -- ours

    def put(self, collection: str, record_id: str, value: str) -> None:
        """One statement."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                f"UPDATE {collection} SET {_field(collection)} = ? WHERE _id = ?",  # noqa: S608 -- ours
                (value, record_id),
            )

    def forget_answers(self) -> None:
        """One statement."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("DELETE FROM meta")

    def dump(self) -> bytes:
        """The bytes of the file and of its log."""
        files = (self.path, self.path.with_name("keymux.db-wal"))
        return b"".join(path.read_bytes() for path in files if path.exists())


class SealedDatabase:
    """The shared store."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self.ring = RingFile(folder / "ring.json")
        self.told: list[str] = []

    def store(self, vault: Vault) -> SealedStore:
        """One more client."""
        return MongoStore(self.uri, self.told.append, vault=vault)

    def client(self) -> MongoClient[dict[str, Any]]:
        """A plain client, to look behind the store's back."""
        return MongoClient(self.uri)

    def stored(self, collection: str, field: str = "apiKey") -> dict[str, str]:
        """What is stored, by record."""
        with self.client() as client:
            found = client.get_default_database()[collection].find()
            return {str(one["_id"]): one[field] for one in found}

    def put(self, collection: str, record_id: str, value: str) -> None:
        """One update."""
        with self.client() as client:
            client.get_default_database()[collection].update_one(
                {"_id": record_id}, {"$set": {_field(collection): value}}
            )

    def forget_answers(self) -> None:
        """All but the schema."""
        with self.client() as client:
            client.get_default_database()["keymux_meta"].delete_many({"_id": {"$ne": "schema"}})

    def dump(self) -> bytes:
        """Every document of every collection."""
        with self.client() as client:
            database = client.get_default_database()
            names = database.list_collection_names()
            return repr([list(database[name].find()) for name in names]).encode()


@asynccontextmanager
async def opened(place: SealedPlace, *, may_make: bool = True) -> AsyncIterator[SealedStore]:
    """A store that was prepared for one provider."""
    store = place.store(Vault(RingFile(place.ring.path), may_make=may_make))
    try:
        await store.prepare([ACME])
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def unsealed(place: SealedPlace) -> AsyncIterator[SealedStore]:
    """A store of a time when nothing was sealed."""
    store = place.store(Vault(None))
    try:
        await store.prepare([ACME])
        yield store
    finally:
        await store.close()
