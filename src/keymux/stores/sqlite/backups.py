"""Backup keys: a table for each provider, and the promotion that moves one into the pool."""

import sqlite3
from collections.abc import Sequence

from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.core.secrets import hash_of
from keymux.ids import record_id
from keymux.stores.port import NoSuchRecord
from keymux.stores.sqlite import audit, keys
from keymux.stores.sqlite.database import Database, table, transaction
from keymux.stores.sqlite.keys import now_ms


class SqliteBackupKeys:
    """See `keymux.stores.port.BackupKeys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, provider: str) -> list[BackupKeyRecord]:
        """All of them, oldest first."""
        statement = f"SELECT * FROM {table(provider, 'backup_keys')} ORDER BY createdAt, _id"  # noqa: S608 -- checked name
        return await self._database.run(
            lambda connection: [_record(row) for row in connection.execute(statement)]
        )

    async def add(self, provider: str, records: Sequence[BackupKeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is known neither as key nor as backup key; gives their ids."""

        def work(connection: sqlite3.Connection) -> list[str]:
            with transaction(connection):
                return [
                    record.id for record in records if _insert(connection, provider, record, actor)
                ]

        return await self._database.run(work)

    async def promote(self, provider: str, dead_key: str, *, at: int, actor: str) -> str | None:
        """Let the oldest unused one take over for a dead key, once; gives the new key's id."""

        def work(connection: sqlite3.Connection) -> str | None:
            with transaction(connection):
                return _promote(connection, provider, dead_key, (at, actor))

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
    connection: sqlite3.Connection, provider: str, record: BackupKeyRecord, actor: str
) -> bool:
    digest = hash_of(record.secret)
    in_pool = f"SELECT 1 FROM {table(provider, 'keys')} WHERE keyHash = ?"  # noqa: S608 -- checked name
    if connection.execute(in_pool, (digest,)).fetchone():
        return False
    statement = (
        f"INSERT INTO {table(provider, 'backup_keys')} (_id, apiKey, keyHash, label, createdAt) "  # noqa: S608 -- checked name
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    values = (record.id, record.secret, digest, record.label, record.created_at or now_ms())
    if connection.execute(statement, values).rowcount != 1:
        return False
    _audit(connection, actor, "backup.add", provider, record.id)
    return True


def _promote(
    connection: sqlite3.Connection, provider: str, dead_key: str, when: tuple[int, str]
) -> str | None:
    at, actor = when
    dead = keys.find(connection, provider, dead_key)
    if dead is None:
        return None
    if dead.replaced_by:
        return dead.replaced_by
    spare = _oldest_spare(connection, provider)
    while spare is not None and not _joins(connection, provider, spare, (at, actor)):
        _mark(connection, provider, spare, "", at)  # its secret is in the pool already
        spare = _oldest_spare(connection, provider)
    if spare is None:
        return None
    _mark(connection, provider, spare, dead_key, at)
    connection.execute(
        f"UPDATE {table(provider, 'keys')} SET replacedBy = ?, updatedAt = ? WHERE _id = ?",  # noqa: S608 -- checked name
        (spare.id, at, dead_key),
    )
    entry = audit.Entry(
        id=record_id("aud"),
        at=at,
        actor=actor,
        action="backup.promote",
        provider=provider,
        subject=spare.id,
        before=dead_key,
        after=spare.id,
        reason=dead.state.reason,
    )
    audit.write(connection, entry)
    return spare.id


def _oldest_spare(connection: sqlite3.Connection, provider: str) -> BackupKeyRecord | None:
    statement = (
        f"SELECT * FROM {table(provider, 'backup_keys')} WHERE isUsed = 0 "  # noqa: S608 -- checked name
        "ORDER BY createdAt, _id LIMIT 1"
    )
    row = connection.execute(statement).fetchone()
    return None if row is None else _record(row)


def _joins(
    connection: sqlite3.Connection, provider: str, spare: BackupKeyRecord, when: tuple[int, str]
) -> bool:
    at, actor = when
    fresh = KeyRecord(id=spare.id, secret=spare.secret, label=spare.label, created_at=at)
    return keys.insert(connection, provider, fresh, actor)


def _mark(
    connection: sqlite3.Connection, provider: str, spare: BackupKeyRecord, dead_key: str, at: int
) -> None:
    """No spare any more; without a dead key it was of no use."""
    connection.execute(
        f"UPDATE {table(provider, 'backup_keys')} "  # noqa: S608 -- checked name
        "SET isUsed = 1, activated = ?, usedFor = ?, usedAt = ? WHERE _id = ?",
        (bool(dead_key), dead_key, at, spare.id),
    )


def _restore(connection: sqlite3.Connection, provider: str, backup_id: str, actor: str) -> None:
    statement = f"SELECT * FROM {table(provider, 'backup_keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    row = connection.execute(statement, (backup_id,)).fetchone()
    if row is None:
        raise NoSuchRecord(backup_id)
    keys.delete(connection, provider, backup_id, actor)
    connection.execute(
        f"UPDATE {table(provider, 'backup_keys')} SET isUsed = 0, activated = 0, usedFor = NULL, "  # noqa: S608 -- checked name
        "usedAt = NULL WHERE _id = ?",
        (backup_id,),
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


def _record(row: sqlite3.Row) -> BackupKeyRecord:
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
