"""What becomes of bindings when a backup key takes over for a key, or when a key goes."""

import sqlite3

from keymux.core.egress import BindingRecord
from keymux.ids import record_id
from keymux.stores.egress import clamped
from keymux.stores.sqlite.database import table


def key_column(provider: str) -> str:
    """The column with the key of a binding."""
    table(provider, "bindings")  # the name gets into statements
    return f"{provider}KeyId"


def record_of(provider: str, row: sqlite3.Row) -> BindingRecord:
    """The binding that a row stands for."""
    return BindingRecord(
        id=row["_id"],
        proxy_id=row["proxyId"],
        key_id=row[key_column(provider)],
        priority=clamped(row["priority"]),
        is_active=bool(row["isActive"]),
        created_at=row["createdAt"],
    )


def insert(connection: sqlite3.Connection, provider: str, record: BindingRecord) -> bool:
    """Add a binding unless its pair is there; within the caller's transaction."""
    statement = (
        f"INSERT INTO {table(provider, 'bindings')} "  # noqa: S608 -- checked name
        f"(_id, proxyId, {key_column(provider)}, priority, isActive, createdAt) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    values = (
        record.id,
        record.proxy_id,
        record.key_id,
        clamped(record.priority),
        record.is_active,
        record.created_at,
    )
    return connection.execute(statement, values).rowcount == 1


def put(connection: sqlite3.Connection, provider: str, record: BindingRecord) -> None:
    """Add a binding as it is elsewhere, in place of the one that bears its id."""
    statement = f"DELETE FROM {table(provider, 'bindings')} WHERE _id = ?"  # noqa: S608 -- checked name
    connection.execute(statement, (record.id,))
    insert(connection, provider, record)


def of_key(connection: sqlite3.Connection, provider: str, key_id: str) -> list[BindingRecord]:
    """The bindings of a key, oldest first."""
    statement = (
        f"SELECT * FROM {table(provider, 'bindings')} "  # noqa: S608 -- checked name
        f"WHERE {key_column(provider)} = ? ORDER BY createdAt, _id"
    )
    return [record_of(provider, row) for row in connection.execute(statement, (key_id,))]


def copy(
    connection: sqlite3.Connection, provider: str, source: str, target: str, at: int | None = None
) -> list[BindingRecord]:
    """Give a key the bindings of another one that it lacks; gives those that were made.

    Args:
        connection: within a transaction.
        provider: of both keys.
        source: the key that has bindings.
        target: the key that gets them.
        at: when they are made; as they were when left out.
    """
    known = {one.proxy_id for one in of_key(connection, provider, target)}
    done = []
    for one in of_key(connection, provider, source):
        if one.proxy_id not in known:
            known.add(one.proxy_id)
            fresh = BindingRecord(
                id=record_id("bnd"),
                proxy_id=one.proxy_id,
                key_id=target,
                priority=one.priority,
                is_active=one.is_active,
                created_at=one.created_at if at is None else at,
            )
            insert(connection, provider, fresh)
            done.append(fresh)
    return done


def drop(connection: sqlite3.Connection, provider: str, key_id: str) -> int:
    """Delete the bindings of a key; gives how many there were."""
    statement = f"DELETE FROM {table(provider, 'bindings')} WHERE {key_column(provider)} = ?"  # noqa: S608 -- checked name
    return connection.execute(statement, (key_id,)).rowcount
