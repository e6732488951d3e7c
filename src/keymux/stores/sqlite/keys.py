"""Upstream keys: a table for each provider."""

import sqlite3
import time
from collections.abc import Collection, Sequence

import msgspec
from msgspec.structs import replace

from keymux.core.health import Event
from keymux.core.records import KeyRecord, KeyState, Shade, Transition
from keymux.core.secrets import hash_of
from keymux.ids import record_id
from keymux.stores import states
from keymux.stores.port import NoSuchRecord
from keymux.stores.sealing.vault import Place, Vault
from keymux.stores.sqlite import audit, inheritance
from keymux.stores.sqlite.database import Database, table, transaction
from keymux.stores.sqlite.reading import Reader
from keymux.stores.states import Seen

_read_shades = msgspec.json.Decoder(dict[str, Shade]).decode


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class SqliteKeys:
    """See `keymux.stores.port.Keys`."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def load(self, provider: str) -> list[KeyRecord]:
        """All of them, oldest first; those that cannot be opened are told of and left out."""
        name = table(provider, "keys")
        statement = f"SELECT * FROM {name} ORDER BY createdAt, _id"  # noqa: S608 -- checked name
        return await self._database.run(
            lambda connection: self._reader.opened(
                name, [record_of(row) for row in connection.execute(statement)]
            )
        )

    async def find(self, provider: str, key_id: str) -> KeyRecord | None:
        """One of them; None also if it cannot be opened."""

        def work(connection: sqlite3.Connection) -> KeyRecord | None:
            record = find(connection, provider, key_id)
            return record and self._reader.open(table(provider, "keys"), record)

        return await self._database.run(work)

    async def find_some(self, provider: str, key_ids: Collection[str]) -> list[KeyRecord]:
        """Those of some that are there and can be opened, in any order."""
        name, wanted = table(provider, "keys"), tuple(key_ids)
        marks = ", ".join("?" * len(wanted))
        statement = f"SELECT * FROM {name} WHERE _id IN ({marks})"  # noqa: S608 -- checked name
        return await self._database.run(
            lambda connection: self._reader.opened(
                name, [record_of(row) for row in connection.execute(statement, wanted)]
            )
        )

    async def add(self, provider: str, records: Sequence[KeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is not known yet; gives the ids that were inserted."""
        vault = self._database.vault

        def work(connection: sqlite3.Connection) -> list[str]:
            with transaction(connection):
                return [
                    record.id
                    for record in records
                    if insert(connection, vault, provider, record, actor)
                ]

        return await self._database.run(work)

    async def change(
        self, provider: str, key_id: str, event: Event, *, actor: str, reason: str
    ) -> KeyRecord:
        """An operator's DISABLE, ENABLE, RESET or RESTORE.

        Raises:
            NoSuchRecord: there is no such key.
        """

        def work(connection: sqlite3.Connection) -> KeyRecord:
            with transaction(connection):
                changed = _change(connection, provider, key_id, event, (actor, reason))
            opened = self._reader.open(table(provider, "keys"), changed)
            return opened or replace(changed, secret="")

        return await self._database.run(work)

    async def remove(self, provider: str, key_id: str, actor: str) -> None:
        """Delete one.

        Raises:
            NoSuchRecord: there is no such key.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                record = find(connection, provider, key_id)
                if record is None:
                    raise NoSuchRecord(key_id)
                if record.replaced_by and find(connection, provider, record.replaced_by):
                    _hand_over(connection, provider, record, actor)
                delete(connection, provider, key_id, actor)

        await self._database.run(work)


def find(connection: sqlite3.Connection, provider: str, key_id: str) -> KeyRecord | None:
    """One key with its secret as it is stored, or None."""
    statement = f"SELECT * FROM {table(provider, 'keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    row = connection.execute(statement, (key_id,)).fetchone()
    return None if row is None else record_of(row)


def insert(
    connection: sqlite3.Connection, vault: Vault, provider: str, record: KeyRecord, actor: str
) -> bool:
    """Add a key unless its secret is there; within the caller's transaction."""
    name = table(provider, "keys")
    statement = (
        f"INSERT INTO {name} "  # noqa: S608 -- checked name
        "(_id, apiKey, keyHash, label, quotaGroup, createdAt, updatedAt) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    created = record.created_at or now_ms()
    values = (
        record.id,
        vault.seal(Place(name, record.id, "apiKey"), record.secret),
        hash_of(record.secret),
        record.label,
        record.group,
        created,
        created,
    )
    if connection.execute(statement, values).rowcount != 1:
        return False
    _audit(connection, actor, "key.add", provider, record.id)
    return True


def delete(connection: sqlite3.Connection, provider: str, key_id: str, actor: str) -> bool:
    """Remove a key and its bindings within the caller's transaction; False if it was not there."""
    statement = f"DELETE FROM {table(provider, 'keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    if connection.execute(statement, (key_id,)).rowcount != 1:
        return False
    inheritance.drop(connection, provider, key_id)
    _audit(connection, actor, "key.remove", provider, key_id)
    return True


def _hand_over(
    connection: sqlite3.Connection, provider: str, record: KeyRecord, actor: str
) -> None:
    """Give the key that took over the bindings that it lacks."""
    heir = record.replaced_by
    for one in inheritance.copy(connection, provider, record.id, heir):
        _audit(connection, actor, "binding.add", provider, heir, after=one.proxy_id)


def _audit(
    connection: sqlite3.Connection,
    actor: str,
    action: str,
    provider: str,
    subject: str,
    *,
    after: str = "",
) -> None:
    entry = audit.Entry(
        id=record_id("aud"),
        at=now_ms(),
        actor=actor,
        action=action,
        provider=provider,
        subject=subject,
        after=after,
    )
    audit.write(connection, entry)


def _change(
    connection: sqlite3.Connection, provider: str, key_id: str, event: Event, why: tuple[str, str]
) -> KeyRecord:
    actor, reason = why
    record = find(connection, provider, key_id)
    if record is None:
        raise NoSuchRecord(key_id)
    changed = states.after_operator(record, event, reason=reason, at=now_ms())
    _store_state(connection, provider, changed)
    entry = audit.Entry(
        id=record_id("aud"),
        at=changed.updated_at,
        actor=actor,
        action=f"key.{event}",
        provider=provider,
        subject=key_id,
        before=states.seen(record.state).status,
        after=states.seen(changed.state).status,
        reason=reason,
    )
    audit.write(connection, entry)
    return changed


def apply(connection: sqlite3.Connection, transition: Transition, known: Collection[str]) -> None:
    """Write a transition of the server's within the caller's transaction; the audit always gets it.

    Args:
        connection: within a transaction.
        transition: of a key.
        known: the providers that have tables.
    """
    entry = audit.Entry(
        id=transition.id,
        at=transition.at,
        actor=transition.actor,
        action="key.transition",
        provider=transition.provider,
        subject=transition.key,
        before=transition.before,
        after=transition.after,
        reason=states.reason_of(transition),
    )
    if not audit.write(connection, entry) or transition.provider not in known:
        return
    record = find(connection, transition.provider, transition.key)
    changed = states.after_transition(record, transition) if record else None
    if changed is not None:
        _store_state(connection, transition.provider, changed)


def _store_state(connection: sqlite3.Connection, provider: str, record: KeyRecord) -> None:
    state, seen = record.state, states.seen(record.state)
    name = table(provider, "keys")
    statement = (
        f"UPDATE {name} SET status = ?, statusReason = ?, cooldownUntil = ?, "  # noqa: S608 -- checked name
        "modelCooldowns = ?, step = ?, generation = ?, consecutiveFailures = ?, suspectedAt = ?, "
        "lastError = ?, replacedBy = ?, updatedAt = ?, "
        "apiKey = resealed(?, _id, 'apiKey', apiKey) WHERE _id = ?"
    )
    connection.execute(
        statement,
        (
            seen.status,
            seen.reason,
            seen.until,
            msgspec.json.encode(state.shades).decode(),
            state.step,
            state.generation,
            state.failures,
            state.suspected_at,
            record.last_error,
            record.replaced_by,
            record.updated_at,
            name,
            record.id,
        ),
    )


def _shades(text: str) -> dict[str, Shade]:
    try:
        return _read_shades(text)
    except msgspec.MsgspecError:  # changed by hand, which is no reason to refuse all keys
        return {}


def record_of(row: sqlite3.Row) -> KeyRecord:
    """The key that a row stands for, with its secret as it is stored."""
    shades = _shades(row["modelCooldowns"])
    stored = Seen(states.status_of(row["status"]), row["cooldownUntil"], row["statusReason"])
    own = states.unseen(stored, shades)
    return KeyRecord(
        id=row["_id"],
        secret=row["apiKey"],
        label=row["label"],
        group=row["quotaGroup"],
        last_error=row["lastError"],
        tokens_used=row["tokensUsed"],
        requests_count=row["requestsCount"],
        replaced_by=row["replacedBy"],
        created_at=row["createdAt"],
        last_used_at=row["lastUsedAt"],
        updated_at=row["updatedAt"],
        state=KeyState(
            status=own.status,
            cooldown_until=own.until,
            reason=own.reason,
            step=row["step"],
            generation=row["generation"],
            failures=row["consecutiveFailures"],
            suspected_at=row["suspectedAt"],
            shades=shades,
        ),
    )
