"""All records of the embedded store, to be brought to another store or from one."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from keymux.core.egress import BindingRecord, ProxyRecord
from keymux.core.records import (
    AuditRow,
    BackupKeyRecord,
    ClientKeyRecord,
    ExchangeRow,
    KeyRecord,
)
from keymux.core.secrets import hash_of
from keymux.stores import states
from keymux.stores.moving import AuditCopy, Copied, Kind, Mark, Part, StateCopy
from keymux.stores.port import StoreUnusable
from keymux.stores.sealing.port import OF_PROVIDERS, SHARED
from keymux.stores.sealing.vault import Place
from keymux.stores.sqlite import backups, clients, inheritance, keys, ledger, proxies
from keymux.stores.sqlite.database import SCHEMA_VERSION, Database, providers, table, transaction
from keymux.stores.sqlite.reading import Reader, state_of

_MARK = "migration"
Row = dict[str, object]
_read_mark = msgspec.json.Decoder(Mark).decode


class SqliteEverything:
    """See `keymux.stores.moving.Target`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def providers(self) -> list[str]:
        """Those that have records here.

        Raises:
            StoreUnusable: the file has another schema.
        """

        def work(connection: sqlite3.Connection) -> list[str]:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version != SCHEMA_VERSION:
                raise StoreUnusable(
                    f"{self._database.path} has schema {version}, this keymux knows "
                    f"{SCHEMA_VERSION}: run `keymux init-db` there first"
                )
            return sorted(providers(connection))

        return await self._database.run(work)

    async def count(self, part: Part) -> int:
        """How many records there are, also those that cannot be read."""

        def work(connection: sqlite3.Connection) -> int:
            if part.provider and part.provider not in providers(connection):
                return 0
            statement = f"SELECT count(*) FROM {_table(part)}"  # noqa: S608 -- checked name
            return int(connection.execute(statement).fetchone()[0])

        return await self._database.run(work)

    async def read(self, part: Part, after: str, limit: int) -> tuple[list[Copied], str]:
        """Some records after a place, and the place after them, empty at the end."""

        def work(connection: sqlite3.Connection) -> tuple[list[Copied], str]:
            if part.kind is Kind.EXCHANGES:
                return _exchanges(connection, after, limit)
            if part.kind is Kind.AUDIT:
                return _lines(connection, after, limit)
            if part.provider and part.provider not in providers(connection):
                return [], ""
            return self._all(connection, part), ""

        return await self._database.run(work)

    def _all(self, connection: sqlite3.Connection, part: Part) -> list[Copied]:
        name = _table(part)
        rows = connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608 -- checked name
        if part.kind is Kind.KEYS:
            return [*self._reader.opened(name, map(keys.record_of, rows))]
        if part.kind is Kind.BACKUP_KEYS:
            return [*self._reader.opened(name, map(backups.record_of, rows))]
        if part.kind is Kind.PROXIES:
            return [*proxies.records(self._reader, rows)]
        if part.kind is Kind.BINDINGS:
            return [inheritance.record_of(part.provider, row) for row in rows]
        if part.kind is Kind.CLIENTS:
            return [clients.record_of(row) for row in rows]
        return [StateCopy(row["provider"], state_of(row)) for row in rows]

    async def write(self, part: Part, records: Sequence[Copied]) -> None:
        """Write records; exchanges and lines of the audit that are there stay as they are."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if part.kind is Kind.EXCHANGES:
                    rows = [record for record in records if isinstance(record, ExchangeRow)]
                    ledger.insert(connection, rows)
                    return
                for record in records:
                    if isinstance(record, BindingRecord):
                        inheritance.put(connection, part.provider, record)
                    else:
                        _put(connection, part, self._row(part, record))

        await self._database.run(work)

    def _row(self, part: Part, record: Copied) -> Row:
        row = _ROWS[type(record)](record)
        field = (OF_PROVIDERS if part.provider else SHARED).get(part.kind)
        if field:
            place = Place(_table(part), str(row["_id"]), field)
            row[field] = self._database.vault.seal(place, str(row[field]))
        return row

    async def mark(self) -> Mark | None:
        """Where the records come from, if they come from another store."""

        def work(connection: sqlite3.Connection) -> Mark | None:
            found = connection.execute("SELECT value FROM meta WHERE name = ?", (_MARK,)).fetchone()
            return _read_mark(found[0]) if found else None

        return await self._database.run(work)

    async def set_mark(self, mark: Mark) -> None:
        """Say where they come from."""
        value = msgspec.json.encode(mark).decode()
        await self._database.run(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_MARK, value)
            )
        )


def _table(part: Part) -> str:
    return table(part.provider, part.kind) if part.provider else str(part.kind)


def _exchanges(connection: sqlite3.Connection, after: str, limit: int) -> tuple[list[Copied], str]:
    found = connection.execute(
        "SELECT * FROM exchanges WHERE _id > ? ORDER BY _id LIMIT ?", (after, limit)
    ).fetchall()
    return [ledger.row_of(row) for row in found], found[-1]["_id"] if found else ""


def _lines(connection: sqlite3.Connection, after: str, limit: int) -> tuple[list[Copied], str]:
    found = connection.execute(
        "SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (int(after or 0), limit)
    ).fetchall()
    names = AuditRow.__struct_fields__
    lines: list[Copied] = [
        AuditCopy(row["_id"], AuditRow(*(row[name] for name in names))) for row in found
    ]
    return lines, str(found[-1]["seq"]) if found else ""


def _put(connection: sqlite3.Connection, part: Part, row: Row) -> None:
    """Insert a row or change the one that is there; a line of the audit never changes."""
    key = "provider" if part.kind is Kind.STATES else "_id"
    values = ", ".join("?" * len(row))
    changes = ", ".join(f"{name} = excluded.{name}" for name in row if name != key)
    then = "NOTHING" if part.kind is Kind.AUDIT else f"UPDATE SET {changes}"
    statement = (
        f"INSERT INTO {_table(part)} ({', '.join(row)}) VALUES ({values}) "  # noqa: S608 -- our own names
        f"ON CONFLICT ({key}) DO {then}"
    )
    connection.execute(statement, tuple(row.values()))


# -- rows ------------------------------------------------------------------------------------------
def _key_row(record: KeyRecord) -> Row:
    seen, state = states.seen(record.state), record.state
    return {
        "_id": record.id,
        "apiKey": record.secret,
        "keyHash": hash_of(record.secret),
        "label": record.label,
        "quotaGroup": record.group,
        "status": seen.status,
        "statusReason": seen.reason,
        "cooldownUntil": seen.until,
        "modelCooldowns": msgspec.json.encode(state.shades).decode(),
        "step": state.step,
        "generation": state.generation,
        "consecutiveFailures": state.failures,
        "suspectedAt": state.suspected_at,
        "lastError": record.last_error,
        "tokensUsed": record.tokens_used,
        "requestsCount": record.requests_count,
        "replacedBy": record.replaced_by,
        "createdAt": record.created_at,
        "lastUsedAt": record.last_used_at,
        "updatedAt": record.updated_at,
    }


def _backup_row(record: BackupKeyRecord) -> Row:
    return {
        "_id": record.id,
        "apiKey": record.secret,
        "keyHash": hash_of(record.secret),
        "label": record.label,
        "isUsed": record.is_used,
        "activated": record.activated,
        "usedFor": record.used_for or None,
        "usedAt": record.used_at,
        "createdAt": record.created_at,
    }


def _client_row(record: ClientKeyRecord) -> Row:
    return {
        "_id": record.id,
        "keyHash": record.key_hash,
        "shown": record.shown,
        "label": record.label,
        "models": msgspec.json.encode(record.models).decode(),
        "createdAt": record.created_at,
        "revokedAt": record.revoked_at,
    }


def _state_row(record: StateCopy) -> Row:
    return {
        "provider": record.provider,
        "status": record.state.status,
        "cooldownUntil": record.state.cooldown_until,
        "statusReason": record.state.reason,
        "step": record.state.step,
        "generation": record.state.generation,
    }


def _audit_row(record: AuditCopy) -> Row:
    return {"_id": record.id, **msgspec.structs.asdict(record.row)}


_ROWS: Mapping[type, Callable[..., Row]] = MappingProxyType(
    {
        ProxyRecord: proxies.row_of,
        KeyRecord: _key_row,
        BackupKeyRecord: _backup_row,
        ClientKeyRecord: _client_row,
        StateCopy: _state_row,
        AuditCopy: _audit_row,
    }
)
