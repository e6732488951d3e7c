"""Backup keys: a table for each provider, and the promotion that moves one into the pool."""

import sqlite3
from collections.abc import Sequence

from msgspec import Struct

from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.core.secrets import hash_of
from keymux.ids import record_id
from keymux.stores.port import NoSuchRecord
from keymux.stores.sealing.vault import Place, Vault
from keymux.stores.sqlite import audit, inheritance, keys
from keymux.stores.sqlite.database import Database, table, transaction
from keymux.stores.sqlite.keys import now_ms
from keymux.stores.sqlite.reading import Reader


class SqliteBackupKeys:
    """See `keymux.stores.port.BackupKeys`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self, provider: str) -> list[BackupKeyRecord]:
        """All of them, oldest first; those that cannot be opened are told of and left out."""
        name = table(provider, "backup_keys")
        statement = f"SELECT * FROM {name} ORDER BY createdAt, _id"  # noqa: S608 -- checked name
        return await self._database.run(
            lambda connection: self._reader.opened(
                name, [record_of(row) for row in connection.execute(statement)]
            )
        )

    async def count(self, provider: str) -> tuple[int, int]:
        """How many are spare, and how many were used."""
        name = table(provider, "backup_keys")
        statement = f"SELECT count(*), coalesce(sum(isUsed), 0) FROM {name}"  # noqa: S608 -- checked name

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            every, used = connection.execute(statement).fetchone()
            return every - used, used

        return await self._database.run(work)

    async def add(self, provider: str, records: Sequence[BackupKeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is known neither as key nor as backup key; gives their ids."""
        vault = self._database.vault

        def work(connection: sqlite3.Connection) -> list[str]:
            with transaction(connection):
                return [
                    record.id
                    for record in records
                    if _insert(connection, vault, provider, record, actor)
                ]

        return await self._database.run(work)

    async def promote(self, provider: str, dead_key: str, *, at: int, actor: str) -> str | None:
        """Let the oldest unused one take over for a dead key, once; gives the new key's id."""

        def work(connection: sqlite3.Connection) -> str | None:
            with transaction(connection):
                return _Promotion(connection, self._reader, provider, at, actor).of(dead_key)

        return await self._database.run(work)

    async def restore(self, provider: str, backup_id: str, actor: str) -> None:
        """Make a used one a spare again and take its key out of the pool.

        Raises:
            NoSuchRecord: there is no such backup key.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _restore(connection, provider, backup_id, actor)

        await self._database.run(work)

    async def remove(self, provider: str, backup_id: str, actor: str) -> None:
        """Delete one.

        Raises:
            NoSuchRecord: there is no such backup key.
        """
        statement = f"DELETE FROM {table(provider, 'backup_keys')} WHERE _id = ?"  # noqa: S608 -- checked name

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if connection.execute(statement, (backup_id,)).rowcount != 1:
                    raise NoSuchRecord(backup_id)
                _audit(connection, actor, "backup.remove", provider, backup_id)

        await self._database.run(work)


def _insert(
    connection: sqlite3.Connection,
    vault: Vault,
    provider: str,
    record: BackupKeyRecord,
    actor: str,
) -> bool:
    digest, name = hash_of(record.secret), table(provider, "backup_keys")
    in_pool = f"SELECT 1 FROM {table(provider, 'keys')} WHERE keyHash = ?"  # noqa: S608 -- checked name
    if connection.execute(in_pool, (digest,)).fetchone():
        return False
    statement = (
        f"INSERT INTO {name} (_id, apiKey, keyHash, label, createdAt) "  # noqa: S608 -- checked name
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    sealed = vault.seal(Place(name, record.id, "apiKey"), record.secret)
    values = (record.id, sealed, digest, record.label, record.created_at or now_ms())
    if connection.execute(statement, values).rowcount != 1:
        return False
    _audit(connection, actor, "backup.add", provider, record.id)
    return True


class _Promotion(Struct, frozen=True):
    """A promotion within a transaction.

    Attributes:
        at: when.
        actor: by whom.
    """

    connection: sqlite3.Connection
    reader: Reader
    provider: str
    at: int
    actor: str

    def of(self, dead_key: str) -> str | None:
        """Let the oldest spare that can be used take over; gives the new key's id."""
        dead = keys.find(self.connection, self.provider, dead_key)
        if dead is None:
            return None
        if dead.replaced_by:
            return dead.replaced_by
        for spare in self._spares():
            if self._joins(spare):
                inheritance.copy(self.connection, self.provider, dead.id, spare.id, self.at)
                self._take_over(dead, spare)
                return spare.id
            self._mark(spare, "")  # its secret is in the pool already
        return None

    def _spares(self) -> list[BackupKeyRecord]:
        name = table(self.provider, "backup_keys")
        statement = f"SELECT * FROM {name} WHERE isUsed = 0 ORDER BY createdAt, _id"  # noqa: S608 -- checked name
        found = [record_of(row) for row in self.connection.execute(statement)]
        return self.reader.opened(name, found)

    def _joins(self, spare: BackupKeyRecord) -> bool:
        fresh = KeyRecord(id=spare.id, secret=spare.secret, label=spare.label, created_at=self.at)
        return keys.insert(self.connection, self.reader.vault, self.provider, fresh, self.actor)

    def _take_over(self, dead: KeyRecord, spare: BackupKeyRecord) -> None:
        self._mark(spare, dead.id)
        self.connection.execute(
            f"UPDATE {table(self.provider, 'keys')} SET replacedBy = ?, updatedAt = ? "  # noqa: S608 -- checked name
            "WHERE _id = ?",
            (spare.id, self.at, dead.id),
        )
        entry = audit.Entry(
            id=record_id("aud"),
            at=self.at,
            actor=self.actor,
            action="backup.promote",
            provider=self.provider,
            subject=spare.id,
            before=dead.id,
            after=spare.id,
            reason=dead.state.reason,
        )
        audit.write(self.connection, entry)

    def _mark(self, spare: BackupKeyRecord, dead_key: str) -> None:
        """No spare any more; without a dead key it was of no use."""
        name = table(self.provider, "backup_keys")
        self.connection.execute(
            f"UPDATE {name} SET isUsed = 1, activated = ?, usedFor = ?, usedAt = ?, "  # noqa: S608 -- checked name
            "apiKey = resealed(?, _id, 'apiKey', apiKey) WHERE _id = ?",
            (bool(dead_key), dead_key, self.at, name, spare.id),
        )


def _restore(connection: sqlite3.Connection, provider: str, backup_id: str, actor: str) -> None:
    statement = f"SELECT * FROM {table(provider, 'backup_keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    row = connection.execute(statement, (backup_id,)).fetchone()
    if row is None:
        raise NoSuchRecord(backup_id)
    keys.delete(connection, provider, backup_id, actor)
    name = table(provider, "backup_keys")
    connection.execute(
        f"UPDATE {name} SET isUsed = 0, activated = 0, usedFor = NULL, usedAt = NULL, "  # noqa: S608 -- checked name
        "apiKey = resealed(?, _id, 'apiKey', apiKey) WHERE _id = ?",
        (name, backup_id),
    )
    _audit(connection, actor, "backup.restore", provider, backup_id)


def _audit(
    connection: sqlite3.Connection, actor: str, action: str, provider: str, subject: str
) -> None:
    entry = audit.Entry(
        id=record_id("aud"),
        at=now_ms(),
        actor=actor,
        action=action,
        provider=provider,
        subject=subject,
    )
    audit.write(connection, entry)


def record_of(row: sqlite3.Row) -> BackupKeyRecord:
    """The backup key that a row stands for, with its secret as it is stored."""
    return BackupKeyRecord(
        id=row["_id"],
        secret=row["apiKey"],
        label=row["label"],
        is_used=bool(row["isUsed"]),
        activated=bool(row["activated"]),
        used_for=row["usedFor"] or "",
        used_at=row["usedAt"],
        created_at=row["createdAt"],
    )
