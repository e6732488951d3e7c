"""Secrets as they are stored, and the known answers that prove a key ring."""

import sqlite3
import time
from collections.abc import Iterator, Sequence

from keymux.ids import record_id
from keymux.stores.port import StoreUnavailable
from keymux.stores.sealing.port import OF_PROVIDERS, SHARED, Change, Secret
from keymux.stores.sealing.vault import Place, key_id_of
from keymux.stores.sqlite import audit
from keymux.stores.sqlite.database import Database, providers, table, transaction

_PREFIX = "key/"
_WIPE = "wipe"


class SqliteAnswers:
    """See `keymux.stores.sealing.port.Answers`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[str, str]:
        """By key id."""
        return await self._database.run(_answers)

    async def add(self, kid: str, answer: str, *, is_first: bool, actor: str) -> bool:
        """Add one; False if it was to be the first and somebody else's is there."""

        def work(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                known = _answers(connection)
                if kid in known:
                    return True
                if is_first and known:
                    return False
                _set(connection, _PREFIX + kid, answer)
                if actor:
                    _audit(connection, "secrets.key", kid, actor)
                return True

        return await self._database.run(work)

    async def remove(self, kid: str, actor: str) -> bool:
        """Remove one, and audit it; False if a secret is sealed with that key."""

        def work(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                if any(
                    key_id_of(secret.stored) == kid
                    for collection in _collections(connection)
                    for secret in _secrets(connection, collection)
                ):
                    return False
                gone = connection.execute("DELETE FROM meta WHERE name = ?", (_PREFIX + kid,))
                if gone.rowcount == 1:
                    _audit(connection, "secrets.retire", kid, actor)
                return True

        return await self._database.run(work)


class SqliteSecrets:
    """See `keymux.stores.sealing.port.Secrets`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def collections(self) -> list[str]:
        """Those that hold secrets."""
        return await self._database.run(lambda connection: list(_collections(connection)))

    async def load(self, collection: str) -> list[Secret]:
        """The secrets of one."""
        return await self._database.run(lambda connection: list(_secrets(connection, collection)))

    async def passed_over(self, collection: str) -> list[str]:  # noqa: ARG002 -- as the port has it
        """Nothing: the tables take no other records."""
        return []

    async def replace(self, changes: Sequence[Change]) -> int:
        """Store secrets otherwise; gives how many were as they should be before."""

        def work(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                _set(connection, _WIPE, "1")
                return sum(_replace(connection, change) for change in changes)

        return await self._database.run(work)

    async def wipe(self) -> str:
        """Build the file anew, so that no free page holds an earlier value, and empty the log."""
        return await self._database.run(_wipe)

    async def audit(self, action: str, subject: str, actor: str) -> None:
        """Write down what an operator did."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _audit(connection, action, subject, actor)

        await self._database.run(work)


def _answers(connection: sqlite3.Connection) -> dict[str, str]:
    found = connection.execute(
        "SELECT name, value FROM meta WHERE name GLOB ?", (f"{_PREFIX}*",)
    ).fetchall()
    return {row["name"].removeprefix(_PREFIX): row["value"] for row in found}


def _set(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _collections(connection: sqlite3.Connection) -> Iterator[str]:
    for provider in sorted(providers(connection)):
        yield from (table(provider, kind) for kind in OF_PROVIDERS)
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    for name in SHARED:
        if connection.execute(known, (name,)).fetchone():
            yield name


def _field(collection: str) -> str:
    return SHARED.get(collection, "apiKey")


def _secrets(connection: sqlite3.Connection, collection: str) -> Iterator[Secret]:
    field = _field(collection)
    statement = f"SELECT _id, {field} FROM {collection} ORDER BY _id"  # noqa: S608 -- names from the list above
    for row in connection.execute(statement):
        yield Secret(Place(collection, row[0], field), row[1] or "")


def _replace(connection: sqlite3.Connection, change: Change) -> int:
    collection, field = change.place.collection, change.place.field
    statement = f"UPDATE {collection} SET {field} = ? WHERE _id = ? AND {field} = ?"  # noqa: S608 -- names from the list above
    done = connection.execute(statement, (change.after, change.place.id, change.before))
    return done.rowcount


def _wipe(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM meta WHERE name = ?", (_WIPE,)).fetchone():
        return ""
    connection.execute("VACUUM")
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StoreUnavailable(
            "all secrets are sealed, but the file is in use and may still hold earlier values"
        )
    connection.execute("DELETE FROM meta WHERE name = ?", (_WIPE,))
    return "blocks that the disk has set free, snapshots and earlier backups"


def _audit(connection: sqlite3.Connection, action: str, subject: str, actor: str) -> None:
    entry = audit.Entry(
        id=record_id("aud"),
        at=time.time_ns() // 1_000_000,
        actor=actor,
        action=action,
        provider="",
        subject=subject,
    )
    audit.write(connection, entry)
