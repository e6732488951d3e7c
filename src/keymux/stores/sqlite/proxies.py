"""Egress proxies: one table, shared by all providers."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from keymux.core.egress import (
    ExitState,
    Observation,
    ProxyAddress,
    ProxyRecord,
    ProxyType,
    status_of,
)
from keymux.ids import record_id
from keymux.stores.egress import Change, after_observation, identity, named_apart, trusted
from keymux.stores.port import NoSuchRecord
from keymux.stores.sealing.vault import Place
from keymux.stores.sqlite import audit
from keymux.stores.sqlite.database import Database, transaction
from keymux.stores.sqlite.keys import now_ms
from keymux.stores.sqlite.reading import Reader

PROXIES = "proxies"
_read_exits = msgspec.json.Decoder(dict[str, ExitState]).decode


class SqliteProxies:
    """See `keymux.stores.port.Proxies`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self) -> list[ProxyRecord]:
        """All of them, oldest first; those that cannot be opened are told of and left out."""
        return await self._database.run(
            lambda connection: named_apart(
                records(self._reader, connection.execute("SELECT * FROM proxies"))
            )
        )

    async def find_some(self, proxy_ids: Collection[str]) -> list[ProxyRecord]:
        """Those of some that are there and can be opened, in any order."""
        wanted = set(proxy_ids)  # all are read, because a name is told apart from all others
        return [record for record in await self.load() if record.id in wanted]

    async def add(self, records: Sequence[ProxyRecord], actor: str) -> list[str]:
        """Insert those whose name is free and whose address is not known yet; gives their ids."""

        def work(connection: sqlite3.Connection) -> list[str]:
            with transaction(connection):
                return self._add(connection, records, actor)

        return await self._database.run(work)

    def _add(
        self, connection: sqlite3.Connection, fresh: Sequence[ProxyRecord], actor: str
    ) -> list[str]:
        known = connection.execute("SELECT _id, name, type, host, port, username FROM proxies")
        taken: set[object] = set()
        for record_id_, name, kind, host, port, username in known:
            taken |= {("_id", record_id_), ("name", name)}
            taken.add((kind, host.lower(), port, username))
        done = []
        for record in fresh:
            own = {("_id", record.id), ("name", record.name), identity(record.address)}
            if not own & taken:
                taken |= own
                self._insert(connection, record)
                entry = _entry(actor, "proxy.add", record.id)
                audit.write(connection, msgspec.structs.replace(entry, after=record.name))
                done.append(record.id)
        return done

    def _insert(self, connection: sqlite3.Connection, record: ProxyRecord) -> None:
        row = row_of(record)
        place = Place(PROXIES, record.id, "password")
        row["password"] = self._database.vault.seal(place, record.address.password)
        row["createdAt"] = record.created_at or now_ms()
        marks = ", ".join("?" * len(row))
        statement = f"INSERT INTO proxies ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 -- our own names
        connection.execute(statement, tuple(row.values()))

    async def set_active(self, proxy_id: str, *, active: bool, actor: str) -> None:
        """Let it be used, or not.

        Raises:
            NoSuchRecord: there is no such proxy.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = _find(connection, proxy_id)
                if row is None:
                    raise NoSuchRecord(proxy_id)
                exits = _exits(row["exits"])
                exits = trusted(exits) if active else exits
                connection.execute(
                    "UPDATE proxies SET isActive = ?, exits = ?, status = ?, "
                    "password = resealed('proxies', _id, 'password', password) WHERE _id = ?",
                    (active, _text_of(exits), status_of(exits.values()), proxy_id),
                )
                action = "proxy.enable" if active else "proxy.disable"
                audit.write(connection, _entry(actor, action, proxy_id))

        await self._database.run(work)

    async def set_password(self, proxy_id: str, password: str, actor: str) -> None:
        """Use another password.

        Raises:
            NoSuchRecord: there is no such proxy.
        """
        vault = self._database.vault

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = _find(connection, proxy_id)
                if row is None:
                    raise NoSuchRecord(proxy_id)
                exits = trusted(_exits(row["exits"]))
                stored = vault.seal(Place("proxies", proxy_id, "password"), password)
                connection.execute(
                    "UPDATE proxies SET password = ?, exits = ?, status = ? WHERE _id = ?",
                    (stored, _text_of(exits), status_of(exits.values()), proxy_id),
                )
                audit.write(connection, _entry(actor, "proxy.password", proxy_id))

        await self._database.run(work)

    async def observe(self, proxy_id: str, seen: Observation, actor: str) -> None:
        """Note what was found out; nothing happens if the proxy is gone."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _observe(connection, proxy_id, seen, actor)

        await self._database.run(work)

    async def remove(self, proxy_id: str, actor: str) -> None:
        """Delete one, whatever is bound to it.

        Raises:
            NoSuchRecord: there is no such proxy.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = _find(connection, proxy_id)
                if row is None:
                    raise NoSuchRecord(proxy_id)
                connection.execute("DELETE FROM proxies WHERE _id = ?", (proxy_id,))
                entry = _entry(actor, "proxy.remove", proxy_id)
                audit.write(connection, msgspec.structs.replace(entry, before=row["name"]))

        await self._database.run(work)


def _find(connection: sqlite3.Connection, proxy_id: str) -> sqlite3.Row | None:
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM proxies WHERE _id = ?", (proxy_id,)
    ).fetchone()
    return found


def _entry(actor: str, action: str, proxy_id: str) -> audit.Entry:
    return audit.Entry(
        id=record_id("aud"),
        at=now_ms(),
        actor=actor,
        action=action,
        provider="",
        subject=proxy_id,
    )


def _observe(connection: sqlite3.Connection, proxy_id: str, seen: Observation, actor: str) -> None:
    row = _find(connection, proxy_id)
    if row is None or row["type"] not in set(ProxyType):
        return
    after, changes = after_observation(_record_of(row), seen)
    connection.execute(
        "UPDATE proxies SET exits = ?, status = ?, lastLatencyMs = ?, lastCheckedAt = ?, "
        "lastError = ?, failCount = ?, "
        "password = resealed('proxies', _id, 'password', password) WHERE _id = ?",
        (
            _text_of(after.exits),
            after.status,
            after.last_latency_ms,
            after.last_checked_at,
            after.last_error,
            after.fail_count,
            proxy_id,
        ),
    )
    for one in changes:
        if one.is_seen:
            audit.write(connection, _transition(proxy_id, one, seen.at, actor))


def _transition(proxy_id: str, change: Change, at: int, actor: str) -> audit.Entry:
    return audit.Entry(
        id=record_id("aud"),
        at=at,
        actor=actor,
        action="proxy.transition",
        provider=change.provider,
        subject=proxy_id,
        before=change.before.status,
        after=change.after.status,
        reason=change.after.reason,
    )


# -- rows ------------------------------------------------------------------------------------------
def records(reader: Reader, rows: Iterable[sqlite3.Row]) -> list[ProxyRecord]:
    """The proxies that rows stand for; those that cannot be used are told of and left out."""
    found = []
    for row in rows:
        if row["type"] not in set(ProxyType):
            reader.tell_once(
                f"{PROXIES}: {row['_id']!r} is left out: keymux knows no proxies of its type"
            )
            continue
        record = reader.open_proxy(_record_of(row))
        if record is not None:
            found.append(record)
    return found


def _record_of(row: sqlite3.Row) -> ProxyRecord:
    address = ProxyAddress(
        type=ProxyType(row["type"]),
        host=row["host"],
        port=row["port"],
        username=row["username"],
        password=row["password"],
    )
    return ProxyRecord(
        id=row["_id"],
        name=row["name"],
        address=address,
        is_active=bool(row["isActive"]),
        exits=_exits(row["exits"]),
        last_latency_ms=row["lastLatencyMs"],
        last_checked_at=row["lastCheckedAt"],
        last_error=row["lastError"],
        fail_count=row["failCount"],
        created_at=row["createdAt"],
    )


def _exits(text: str) -> dict[str, ExitState]:
    try:
        return _read_exits(text)
    except msgspec.MsgspecError:  # changed by hand: how it is will be found out again
        return {}


def _text_of(exits: Mapping[str, ExitState]) -> str:
    return msgspec.json.encode(exits).decode()


def row_of(record: ProxyRecord) -> dict[str, object]:
    """The row of a proxy, with its password in the clear."""
    address = record.address
    return {
        "_id": record.id,
        "name": record.name,
        "type": address.type,
        "host": address.host,
        "port": address.port,
        "username": address.username,
        "password": address.password,
        "status": record.status,
        "isActive": record.is_active,
        "exits": _text_of(record.exits),
        "lastLatencyMs": record.last_latency_ms,
        "lastCheckedAt": record.last_checked_at,
        "lastError": record.last_error,
        "failCount": record.fail_count,
        "createdAt": record.created_at,
    }
