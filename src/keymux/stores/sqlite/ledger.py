"""The ledger: settled exchanges, and the counters of the keys that served them."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence

import msgspec
from msgspec import Struct

from keymux.core.records import (
    AttemptRecord,
    ExchangeRow,
    Outcome,
    Transition,
    UsageLine,
)
from keymux.core.vocabulary import Quality, Usage
from keymux.ids import LAST_MOMENT, first_id_at
from keymux.stores.port import Batch, UsageQuery
from keymux.stores.sqlite import audit, keys
from keymux.stores.sqlite.database import Database, providers, table, transaction

_FIELDS = (
    "_id",
    "at",
    "caller",
    "format",
    "operation",
    "asked",
    "model",
    "stream",
    "outcome",
    "fault",
    "status",
    "provider",
    "key",
    "attempts",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWrite5mTokens",
    "cacheWrite1hTokens",
    "reasoningTokens",
    "quality",
    "costMicros",
    "boundMicros",
    "firstMs",
    "tookMs",
    "upstreamId",
)
_INSERT = f"INSERT INTO exchanges ({', '.join(_FIELDS)}) VALUES "  # noqa: S608 -- constants
_MARKS = f"({', '.join('?' * len(_FIELDS))})"
_CONFLICT = " ON CONFLICT (_id) DO NOTHING"
_ID_SLACK_MS = 3_600_000
_ROWS_AT_ONCE = (256, 64, 16, 4, 1)
_GROUPS = {
    "day": "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
    "model": "model",
    "provider": "provider",
    "key": "key",
    "caller": "caller",
}

_encode = msgspec.json.Encoder().encode
_read_attempts = msgspec.json.Decoder(tuple[AttemptRecord, ...]).decode


class _Count(Struct):
    """What some exchanges add to the counters of a key."""

    requests: int = 0
    tokens: int = 0
    last_used_at: int = 0


class SqliteLedger:
    """See `keymux.stores.port.Ledger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, batch: Batch) -> None:
        """Write a batch in one transaction; what is there already is left alone."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                fresh = _unknown(connection, batch.rows) if batch.rows else []
                insert(connection, fresh)
                known = providers(connection)
                _count(connection, fresh, known)
                for transition in batch.transitions:
                    _apply(connection, transition, known)

        await self._database.run(work)

    async def tidy(self) -> None:
        """Nothing is left for later."""

    async def find(self, exchange_id: str) -> ExchangeRow | None:
        """One exchange."""

        def work(connection: sqlite3.Connection) -> ExchangeRow | None:
            row = connection.execute(
                "SELECT * FROM exchanges WHERE _id = ?", (exchange_id,)
            ).fetchone()
            return None if row is None else row_of(row)

        return await self._database.run(work)

    async def latest(self, limit: int) -> list[ExchangeRow]:
        """The last ones, newest first."""
        statement = "SELECT * FROM exchanges ORDER BY _id DESC LIMIT ?"
        return await self._database.run(
            lambda connection: [row_of(row) for row in connection.execute(statement, (limit,))]
        )

    async def usage(self, query: UsageQuery) -> list[UsageLine]:
        """Usage added up."""
        return await self._database.run(lambda connection: _usage(connection, query))


def _unknown(connection: sqlite3.Connection, rows: Sequence[ExchangeRow]) -> list[ExchangeRow]:
    """The rows that are not there yet, each once."""
    by_id = {row.id: row for row in rows}
    marks = ", ".join("?" * len(by_id))
    known = {
        row[0]
        for row in connection.execute(
            f"SELECT _id FROM exchanges WHERE _id IN ({marks})",  # noqa: S608 -- marks only
            tuple(by_id),
        )
    }
    return [row for exchange_id, row in by_id.items() if exchange_id not in known]


def insert(connection: sqlite3.Connection, rows: Sequence[ExchangeRow]) -> None:
    """Many rows in few statements: each statement lets go of the interpreter and wants it back."""
    done = 0
    for size in _ROWS_AT_ONCE:
        statement = _INSERT + ", ".join([_MARKS] * size) + _CONFLICT
        while len(rows) - done >= size:
            values: list[object] = []
            for row in rows[done : done + size]:
                values += _values(row)
            connection.execute(statement, values)
            done += size


def _count(
    connection: sqlite3.Connection, rows: Iterable[ExchangeRow], known: Collection[str]
) -> None:
    """Add the rows to the counters: a request for each attempt, tokens to the key that served."""
    counts: dict[tuple[str, str], _Count] = {}
    for row in rows:
        for attempt in row.attempts:
            count = counts.setdefault((attempt.provider, attempt.key), _Count())
            count.requests += 1
            count.last_used_at = max(count.last_used_at, row.at + attempt.started_ms)
        if row.key:
            counts.setdefault((row.provider, row.key), _Count()).tokens += row.usage.total
    for (provider, key), count in counts.items():
        if provider not in known:
            continue  # the config names it no more, and its tables were removed by hand
        connection.execute(
            f"UPDATE {table(provider, 'keys')} SET requestsCount = requestsCount + ?, "  # noqa: S608 -- checked name
            "tokensUsed = tokensUsed + ?, lastUsedAt = max(coalesce(lastUsedAt, 0), ?) "
            "WHERE _id = ?",
            (count.requests, count.tokens, count.last_used_at, key),
        )


def _apply(connection: sqlite3.Connection, transition: Transition, known: Collection[str]) -> None:
    if transition.provider_state is None:
        keys.apply(connection, transition, known)
        return
    state = transition.provider_state
    entry = audit.Entry(
        id=transition.id,
        at=transition.at,
        actor=transition.actor,
        action="provider.transition",
        provider=transition.provider,
        subject=transition.provider,
        before=transition.before,
        after=transition.after,
        reason=transition.reason,
    )
    if not audit.write(connection, entry):
        return
    connection.execute(
        "UPDATE provider_states SET status = ?, cooldownUntil = ?, statusReason = ?, step = ?, "
        "generation = ?, updatedAt = ? WHERE provider = ? AND generation <= ? "
        "AND status NOT IN ('quarantined', 'disabled')",
        (
            state.status,
            state.cooldown_until,
            state.reason,
            state.step,
            state.generation,
            transition.at,
            transition.provider,
            state.generation,
        ),
    )


def _values(row: ExchangeRow) -> tuple[object, ...]:
    usage = row.usage
    return (
        row.id,
        row.at,
        row.caller,
        row.format,
        row.operation,
        row.asked,
        row.model,
        row.stream,
        row.outcome,
        row.fault,
        row.status,
        row.provider,
        row.key,
        _encode(row.attempts).decode(),
        usage.input,
        usage.output,
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.reasoning,
        row.quality,
        row.cost_micros,
        row.bound_micros,
        row.first_ms,
        row.took_ms,
        row.upstream_id,
    )


def row_of(row: sqlite3.Row) -> ExchangeRow:
    """The exchange that a row stands for."""
    return ExchangeRow(
        id=row["_id"],
        at=row["at"],
        caller=row["caller"],
        format=row["format"],
        operation=row["operation"],
        asked=row["asked"],
        model=row["model"],
        stream=bool(row["stream"]),
        outcome=Outcome(row["outcome"]),
        fault=row["fault"],
        status=row["status"],
        provider=row["provider"],
        key=row["key"],
        attempts=_read_attempts(row["attempts"]),
        usage=Usage(
            input=row["inputTokens"],
            output=row["outputTokens"],
            cache_read=row["cacheReadTokens"],
            cache_write_5m=row["cacheWrite5mTokens"],
            cache_write_1h=row["cacheWrite1hTokens"],
            reasoning=row["reasoningTokens"],
        ),
        quality=Quality(row["quality"]),
        cost_micros=row["costMicros"],
        bound_micros=row["boundMicros"],
        first_ms=row["firstMs"],
        took_ms=row["tookMs"],
        upstream_id=row["upstreamId"],
    )


def _usage(connection: sqlite3.Connection, query: UsageQuery) -> list[UsageLine]:
    groups = [_GROUPS[name] for name in query.by]
    listed = "".join(f"{group}, " for group in groups)
    grouped = f"GROUP BY {', '.join(groups)} ORDER BY {', '.join(groups)}" if groups else ""
    statement = (
        f"SELECT {listed}count(*), sum(outcome <> 'ok'), "  # noqa: S608 -- names from the table above
        "coalesce(sum(inputTokens), 0), coalesce(sum(outputTokens), 0), "
        "coalesce(sum(cacheReadTokens), 0), coalesce(sum(cacheWrite5mTokens), 0), "
        "coalesce(sum(cacheWrite1hTokens), 0), coalesce(sum(reasoningTokens), 0), "
        "coalesce(sum(costMicros), 0), sum(costMicros IS NULL) "
        f"FROM exchanges WHERE _id >= ? AND _id < ? AND at >= ? AND at < ? {grouped}"
    )
    until = LAST_MOMENT if query.until is None else query.until
    # ids find the rows quickly; the moment of an exchange is a little later than its id says
    first = first_id_at(max(0, query.since - _ID_SLACK_MS))
    last = first_id_at(min(LAST_MOMENT, until + _ID_SLACK_MS))
    bounds = (first, last, query.since, until)
    return [
        _line(tuple(row), len(groups))
        for row in connection.execute(statement, bounds)
        if row[len(groups)]
    ]


def _line(row: tuple[object, ...], groups: int) -> UsageLine:
    figures = [int(str(value)) for value in row[groups:]]
    return UsageLine(
        group=tuple(str(value) for value in row[:groups]),
        exchanges=figures[0],
        failed=figures[1],
        usage=Usage(*figures[2:8]),
        cost_micros=figures[8],
        unpriced=figures[9],
    )
