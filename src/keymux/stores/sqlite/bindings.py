"""Bindings: a table for each provider."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from keymux.core.egress import BindingRecord, Repaired
from keymux.ids import record_id
from keymux.stores.egress import Successor, clamped, heir
from keymux.stores.port import NoSuchRecord
from keymux.stores.sqlite import audit, inheritance
from keymux.stores.sqlite.database import Database, table, transaction
from keymux.stores.sqlite.inheritance import key_column, record_of
from keymux.stores.sqlite.keys import now_ms

_AT_ONCE = 500


class SqliteBindings:
    """See `keymux.stores.port.Bindings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, provider: str) -> list[BindingRecord]:
        """All of them, oldest first."""
        return await self._database.run(lambda connection: _all(connection, provider))

    async def of_keys(self, provider: str, key_ids: Collection[str]) -> list[BindingRecord]:
        """Those of some keys, oldest first."""
        wanted = list(dict.fromkeys(key_ids))
        name, column = table(provider, "bindings"), key_column(provider)

        def work(connection: sqlite3.Connection) -> list[BindingRecord]:
            found: list[BindingRecord] = []
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                statement = f"SELECT * FROM {name} WHERE {column} IN ({marks})"  # noqa: S608 -- checked name
                found += [record_of(provider, row) for row in connection.execute(statement, some)]
            return sorted(found, key=lambda one: (one.created_at, one.id))

        return await self._database.run(work)

    async def add(self, provider: str, records: Sequence[BindingRecord], actor: str) -> list[str]:
        """Insert those whose pair of proxy and key is not there yet; gives their ids."""
        now = now_ms()

        def work(connection: sqlite3.Connection) -> list[str]:
            done = []
            with transaction(connection):
                for record in records:
                    fresh = replace(record, created_at=record.created_at or now)
                    if inheritance.insert(connection, provider, fresh):
                        done.append(record.id)
                        entry = _entry(provider, record.key_id, actor, "binding.add")
                        audit.write(connection, replace(entry, after=record.proxy_id))
            return done

        return await self._database.run(work)

    async def set_priority(self, provider: str, binding_id: str, priority: int, actor: str) -> None:
        """Change a priority.

        Raises:
            NoSuchRecord: there is no such binding.
        """
        wanted = clamped(priority)

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                found = _find(connection, provider, binding_id)
                _set(connection, provider, binding_id, ("priority", wanted))
                entry = replace(
                    _entry(provider, found.key_id, actor, "binding.priority"),
                    before=str(found.priority),
                    after=str(wanted),
                    reason=f"proxy {found.proxy_id}",
                )
                audit.write(connection, entry)

        await self._database.run(work)

    async def set_active(self, provider: str, binding_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not.

        Raises:
            NoSuchRecord: there is no such binding.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                found = _find(connection, provider, binding_id)
                _set(connection, provider, binding_id, ("isActive", active))
                action = "binding.enable" if active else "binding.disable"
                entry = replace(
                    _entry(provider, found.key_id, actor, action),
                    reason=f"proxy {found.proxy_id}",
                )
                audit.write(connection, entry)

        await self._database.run(work)

    async def remove(self, provider: str, binding_ids: Sequence[str], actor: str) -> None:
        """Delete some, those that are there."""
        statement = f"DELETE FROM {table(provider, 'bindings')} WHERE _id = ?"  # noqa: S608 -- checked name

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                for found in _some(connection, provider, binding_ids):
                    connection.execute(statement, (found.id,))
                    entry = _entry(provider, found.key_id, actor, "binding.remove")
                    audit.write(connection, replace(entry, before=found.proxy_id))

        await self._database.run(work)

    async def repair(self, provider: str, actor: str) -> Repaired:
        """Move or delete the bindings whose key is gone."""

        def work(connection: sqlite3.Connection) -> Repaired:
            with transaction(connection):
                return _repair(connection, provider, actor)

        return await self._database.run(work)


def _all(connection: sqlite3.Connection, provider: str) -> list[BindingRecord]:
    statement = f"SELECT * FROM {table(provider, 'bindings')} ORDER BY createdAt, _id"  # noqa: S608 -- checked name
    return [record_of(provider, row) for row in connection.execute(statement)]


def _some(
    connection: sqlite3.Connection, provider: str, binding_ids: Iterable[str]
) -> list[BindingRecord]:
    statement = f"SELECT * FROM {table(provider, 'bindings')} WHERE _id = ?"  # noqa: S608 -- checked name
    found = [
        connection.execute(statement, (binding_id,)).fetchone()
        for binding_id in dict.fromkeys(binding_ids)
    ]
    return [record_of(provider, row) for row in found if row is not None]


def _find(connection: sqlite3.Connection, provider: str, binding_id: str) -> BindingRecord:
    found = _some(connection, provider, [binding_id])
    if not found:
        raise NoSuchRecord(binding_id)
    return found[0]


def _set(
    connection: sqlite3.Connection, provider: str, binding_id: str, change: tuple[str, int]
) -> None:
    column, value = change
    statement = f"UPDATE {table(provider, 'bindings')} SET {column} = ? WHERE _id = ?"  # noqa: S608 -- checked name
    connection.execute(statement, (value, binding_id))


def _entry(provider: str, key_id: str, actor: str, action: str) -> audit.Entry:
    return audit.Entry(
        id=record_id("aud"),
        at=now_ms(),
        actor=actor,
        action=action,
        provider=provider,
        subject=key_id,
    )


# -- repair ----------------------------------------------------------------------------------------
def _repair(connection: sqlite3.Connection, provider: str, actor: str) -> Repaired:
    every = _all(connection, provider)
    pool = f"SELECT _id FROM {table(provider, 'keys')}"  # noqa: S608 -- checked name
    there = {row[0] for row in connection.execute(pool)}
    gone = dict.fromkeys(one.key_id for one in every if one.key_id not in there)
    successors = _successors(connection, provider) if gone else []
    repaired = deleted = 0
    for key_id in gone:
        new = heir(key_id, successors)
        moved = len(inheritance.copy(connection, provider, key_id, new)) if new else 0
        repaired += moved
        deleted += inheritance.drop(connection, provider, key_id) - moved
        lost = _entry(provider, key_id, actor, "binding.repair")
        audit.write(connection, replace(lost, after=new))
        if moved:
            gained = _entry(provider, new, actor, "binding.repair")
            audit.write(connection, replace(gained, before=key_id))
    proxies = {row[0] for row in connection.execute("SELECT _id FROM proxies")}
    lonely = sum(one.proxy_id not in proxies for one in _all(connection, provider))
    return Repaired(len(every), repaired, deleted, lonely)


def _successors(connection: sqlite3.Connection, provider: str) -> list[Successor]:
    statement = (
        "SELECT spare._id, spare.usedFor, coalesce(key._id, ''), coalesce(spare.usedAt, 0) "  # noqa: S608 -- checked names
        f"FROM {table(provider, 'backup_keys')} AS spare "
        f"LEFT JOIN {table(provider, 'keys')} AS key ON key.keyHash = spare.keyHash "
        "WHERE spare.isUsed = 1 AND spare.usedFor != ''"
    )
    return [Successor(*row) for row in connection.execute(statement)]
