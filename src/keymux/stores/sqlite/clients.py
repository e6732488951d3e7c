"""Client keys, of which only the hash is kept."""

import sqlite3

import msgspec

from keymux.core.records import ClientKeyRecord
from keymux.ids import record_id
from keymux.stores.port import NoSuchRecord
from keymux.stores.sqlite import audit
from keymux.stores.sqlite.database import Database, transaction
from keymux.stores.sqlite.keys import now_ms

_read_models = msgspec.json.Decoder(tuple[str, ...]).decode


class SqliteClientKeys:
    """See `keymux.stores.port.ClientKeys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[ClientKeyRecord]:
        """All of them, oldest first, revoked ones too."""
        statement = "SELECT * FROM client_keys ORDER BY createdAt, _id"
        return await self._database.run(
            lambda connection: [record_of(row) for row in connection.execute(statement)]
        )

    async def add(self, record: ClientKeyRecord, actor: str) -> bool:
        """Insert one; False if its hash is known already."""
        values = (
            record.id,
            record.key_hash,
            record.shown,
            record.label,
            msgspec.json.encode(record.models).decode(),
            record.created_at or now_ms(),
        )

        def work(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                done = connection.execute(
                    "INSERT INTO client_keys (_id, keyHash, shown, label, models, createdAt) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    values,
                )
                if done.rowcount == 1:
                    _audit(connection, actor, "client.add", record.id)
                return done.rowcount == 1

        return await self._database.run(work)

    async def revoke(self, key_id: str, *, at: int, actor: str) -> None:
        """Never accept it again.

        Raises:
            NoSuchRecord: there is no such client key.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                done = connection.execute(
                    "UPDATE client_keys SET revokedAt = coalesce(revokedAt, ?) WHERE _id = ?",
                    (at, key_id),
                )
                if done.rowcount != 1:
                    raise NoSuchRecord(key_id)
                _audit(connection, actor, "client.revoke", key_id)

        await self._database.run(work)


def _audit(connection: sqlite3.Connection, actor: str, action: str, subject: str) -> None:
    entry = audit.Entry(
        id=record_id("aud"), at=now_ms(), actor=actor, action=action, provider="", subject=subject
    )
    audit.write(connection, entry)


def record_of(row: sqlite3.Row) -> ClientKeyRecord:
    """The client key that a row stands for."""
    return ClientKeyRecord(
        id=row["_id"],
        key_hash=row["keyHash"],
        shown=row["shown"],
        label=row["label"],
        models=_read_models(row["models"]),
        created_at=row["createdAt"],
        revoked_at=row["revokedAt"],
    )
