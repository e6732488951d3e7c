"""A database on a MongoDB-protocol server, for the tests of the contract."""

from typing import Any

from bson import json_util
from pymongo import MongoClient

from keymux.stores.mongo import MongoStore
from keymux.stores.port import Store


class MongoPlace:
    """A database on a server.

    Args:
        uri: of the database, with its name.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.told: list[str] = []

    def open(self) -> Store:
        """One more client."""
        return MongoStore(self.uri, self.told.append)

    def client(self) -> MongoClient[dict[str, Any]]:
        """A plain client, to look behind the store's back; its default database is the place."""
        return MongoClient(self.uri)

    def make_newer(self) -> None:
        """Raise the number of the schema."""
        with self.client() as client:
            client.get_default_database()["keymux_meta"].update_one(
                {"_id": "schema"}, {"$set": {"version": 999}}
            )

    def content(self) -> object:
        """All collections with their indexes and documents."""
        with self.client() as client:
            database = client.get_default_database()
            return {
                name: json_util.dumps(
                    [sorted(database[name].index_information()), list(database[name].find())]
                )
                for name in database.list_collection_names()
            }

    def set_status(self, provider: str, key_id: str, status: str) -> None:
        """One update."""
        with self.client() as client:
            client.get_default_database()[f"{provider}_keys"].update_one(
                {"_id": key_id}, {"$set": {"status": str(status)}}
            )
