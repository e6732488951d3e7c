"""Upstream keys: a table for each provider."""

import sqlite3
import time
from collections.abc import Collection, Sequence

import msgspec

from keymux.core.health import AFTER, Event, Status
from keymux.core.records import KeyRecord, KeyState, Shade, Transition
from keymux.core.secrets import hash_of
from keymux.ids import record_id
from keymux.stores.port import NoSuchRecord
from keymux.stores.sqlite import audit
from keymux.stores.sqlite.database import Database, table, transaction

_read_shades = msgspec.json.Decoder(dict[str, Shade]).decode
_STATUSES = frozenset(Status)
_OPERATORS = frozenset({Status.DISABLED, Status.QUARANTINED})


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class SqliteKeys:
    """See `keymux.stores.port.Keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, provider: str) -> list[KeyRecord]:
        """All of them, oldest first."""
        statement = f"SELECT * FROM {table(provider, 'keys')} ORDER BY createdAt, _id"  # noqa: S608 -- checked name
        return await self._database.run(
            lambda connection: [_record(row) for row in connection.execute(statement)]
        )

    async def find(self, provider: str, key_id: str) -> KeyRecord | None:
        """One of them."""
        return await self._database.run(lambda connection: find(connection, provider, key_id))

    async def add(self, provider: str, records: Sequence[KeyRecord], actor: str) -> list[str]:
        """Insert those whose secret is not known yet; gives the ids that were inserted."""

        def work(connection: sqlite3.Connection) -> list[str]:
            with transaction(connection):
                return [
                    record.id for record in records if insert(connection, provider, record, actor)
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
                return _change(connection, provider, key_id, event, (actor, reason))

        return await self._database.run(work)

    async def remove(self, provider: str, key_id: str, actor: str) -> None:
        """Delete one.

        Raises:
            NoSuchRecord: there is no such key.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                if not delete(connection, provider, key_id, actor):
                    raise NoSuchRecord(key_id)

        await self._database.run(work)


def find(connection: sqlite3.Connection, provider: str, key_id: str) -> KeyRecord | None:
    """One key, or None."""
    statement = f"SELECT * FROM {table(provider, 'keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    row = connection.execute(statement, (key_id,)).fetchone()
    return None if row is None else _record(row)


def insert(connection: sqlite3.Connection, provider: str, record: KeyRecord, actor: str) -> bool:
    """Add a key unless its secret is there; within the caller's transaction."""
    statement = (
        f"INSERT INTO {table(provider, 'keys')} "  # noqa: S608 -- checked name
        "(_id, apiKey, keyHash, label, quotaGroup, createdAt, updatedAt) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    created = record.created_at or now_ms()
    values = (
        record.id,
        record.secret,
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
    """Remove a key within the caller's transaction; False if it was not there."""
    statement = f"DELETE FROM {table(provider, 'keys')} WHERE _id = ?"  # noqa: S608 -- checked name
    if connection.execute(statement, (key_id,)).rowcount != 1:
        return False
    _audit(connection, actor, "key.remove", provider, key_id)
    return True


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


def _change(
    connection: sqlite3.Connection, provider: str, key_id: str, event: Event, why: tuple[str, str]
) -> KeyRecord:
    actor, reason = why
    record = find(connection, provider, key_id)
    if record is None:
        raise NoSuchRecord(key_id)
    before = record.state
    keeps = event in {Event.DISABLE, Event.ENABLE}
    status = AFTER[event][before.status]
    is_well = status is Status.HEALTHY
    after = KeyState(
        status=status,
        cooldown_until=before.cooldown_until if keeps and not is_well else None,
        reason=reason,
        generation=before.generation + 1,
        shades=before.shades if keeps else {},
    )
    changed = msgspec.structs.replace(
        record,
        state=after,
        replaced_by="" if is_well else record.replaced_by,
        updated_at=now_ms(),
    )
    _store_state(connection, provider, changed)
    entry = audit.Entry(
        id=record_id("aud"),
        at=now_ms(),
        actor=actor,
        action=f"key.{event}",
        provider=provider,
        subject=key_id,
        before=_status(before),
        after=_status(after),
        reason=reason,
    )
    audit.write(connection, entry)
    return changed


def apply(connection: sqlite3.Connection, transition: Transition, known: Collection[str]) -> None:
    """Write a transition of the server's within the caller's transaction.

    What an operator decided, or a later transition, is not overwritten; the audit gets it anyway.
    A transition for one model changes the cooldown of that model and nothing else, so that
    processes which see different models do not overwrite each other.

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
        reason=_with_model(transition),
    )
    state = transition.key_state
    if not audit.write(connection, entry) or state is None or transition.provider not in known:
        return
    record = find(connection, transition.provider, transition.key)
    if record is None or record.state.generation > state.generation:
        return
    if record.state.status in _OPERATORS:
        return
    failed = transition.after is not Status.HEALTHY
    changed = msgspec.structs.replace(
        record,
        state=_after(record.state, transition.model, state),
        last_error=transition.reason if failed else record.last_error,
        updated_at=transition.at,
    )
    _store_state(connection, transition.provider, changed)


def _after(stored: KeyState, model: str, told: KeyState) -> KeyState:
    """The stored state after a transition, of the key itself or of one model."""
    if not model:
        told = _later(stored, told) if stored.generation == told.generation else told
        return msgspec.structs.replace(told, shades=stored.shades)
    shades = {name: shade for name, shade in stored.shades.items() if name != model}
    if model in told.shades:
        shades[model] = told.shades[model]
    return msgspec.structs.replace(stored, shades=shades)


def _later(stored: KeyState, told: KeyState) -> KeyState:
    """Of two states that processes came to at once, the one that keeps the key away for longer."""
    if stored.cooldown_until is None or told.status in _OPERATORS:
        return told
    if told.cooldown_until is None or told.cooldown_until < stored.cooldown_until:
        return stored
    return told


def _with_model(transition: Transition) -> str:
    return f"{transition.reason} ({transition.model})" if transition.model else transition.reason


def _store_state(connection: sqlite3.Connection, provider: str, record: KeyRecord) -> None:
    state = record.state
    statement = (
        f"UPDATE {table(provider, 'keys')} SET status = ?, statusReason = ?, cooldownUntil = ?, "  # noqa: S608 -- checked name
        "modelCooldowns = ?, step = ?, generation = ?, consecutiveFailures = ?, suspectedAt = ?, "
        "lastError = ?, replacedBy = ?, updatedAt = ? WHERE _id = ?"
    )
    connection.execute(
        statement,
        (
            _status(state),
            state.reason or _shade_reason(state),
            _until(state),
            msgspec.json.encode(state.shades).decode(),
            state.step,
            state.generation,
            state.failures,
            state.suspected_at,
            record.last_error,
            record.replaced_by,
            record.updated_at,
            record.id,
        ),
    )


def _worst(state: KeyState) -> Shade | None:
    """The cooldown of a single model that lasts longest, if the key itself is well."""
    if state.status is not Status.HEALTHY or not state.shades:
        return None
    return max(state.shades.values(), key=lambda shade: shade.until or 0)


def _status(state: KeyState) -> str:
    """The status that operators see: a key that cools for a model is not healthy to them."""
    worst = _worst(state)
    return (worst.status if worst else state.status).value


def _until(state: KeyState) -> int | None:
    worst = _worst(state)
    return worst.until if worst else state.cooldown_until


def _shade_reason(state: KeyState) -> str:
    worst = _worst(state)
    return worst.reason if worst else ""


def status_of(word: str) -> Status:
    """A stored status; a word that was put there by hand and means nothing keeps the traffic away.

    It is no reason to turn away all the other keys, and only an operator can say what was meant.
    """
    return Status(word) if word in _STATUSES else Status.DISABLED


def _shades(text: str) -> dict[str, Shade]:
    try:
        return _read_shades(text)
    except msgspec.MsgspecError:  # changed by hand, as above
        return {}


def _record(row: sqlite3.Row) -> KeyRecord:
    status, until = status_of(row["status"]), row["cooldownUntil"]
    shades = _shades(row["modelCooldowns"])
    worst = _worst(KeyState(shades=shades))
    derived = worst is not None and (worst.status, worst.until) == (status, until)
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
            status=Status.HEALTHY if derived else status,
            cooldown_until=None if derived else until,
            reason="" if derived else row["statusReason"],
            step=row["step"],
            generation=row["generation"],
            failures=row["consecutiveFailures"],
            suspected_at=row["suspectedAt"],
            shades=shades,
        ),
    )
