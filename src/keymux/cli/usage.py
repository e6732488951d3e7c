"""``keymux usage``: tokens and cost, added up from the ledger."""

import csv
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import typer

from keymux.cli import options
from keymux.cli.moments import moment, now_ms, read_moment
from keymux.cli.money import brief_dollars, dollars
from keymux.cli.place import Place
from keymux.cli.saying import MISUSED, fail, note, say, say_json
from keymux.cli.tables import Column, Row, compact, listing, plain
from keymux.core.records import UsageLine
from keymux.core.vocabulary import Usage
from keymux.stores.port import Store, UsageQuery

app = options.command()

_GROUPS = ("day", "model", "provider", "key", "caller")


def _brief_unpriced(value: object) -> str:
    return f"{value} unknown" if value else ""


_FIGURES = (
    Column("exchanges", "exch.", compact, right=True, whole=True),
    Column("failed", "failed", compact, right=True, whole=True),
    Column("inputTokens", "input", compact, right=True, whole=True),
    Column("outputTokens", "output", compact, right=True, whole=True),
    Column("cacheReadTokens", "cached", compact, right=True, whole=True),
    Column("cacheWriteTokens", "wrote", compact, right=True, whole=True),
    Column("costUsd", "cost $", brief_dollars, right=True),
    Column("unpriced", brief=_brief_unpriced),
)


@app.command("usage", epilog="Example: keymux usage --by model,provider --since 30d --csv")
def usage(
    *,
    by: Annotated[
        str, typer.Option(help=f"Any of {', '.join(_GROUPS)}, separated by commas.")
    ] = "day",
    since: Annotated[
        str, typer.Option(help="A date, or a stretch of time before now such as 24h, 7d, 4w.")
    ] = "7d",
    until: Annotated[
        str, typer.Option(help="The same; this moment is not included.", show_default="now")
    ] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Add up exchanges, tokens and cost; days and dates are UTC."""
    if as_csv and as_json:
        fail("give --csv or --json, not both", code=MISUSED)
    query = _query(by, since, until)
    place = Place(config)
    lines, callers = place.use(partial(_read, query=query))
    rows = [_row(query.by, line, callers) for line in lines]
    total = _row((), _total(lines), callers)
    groups = _group_columns(query.by)
    if as_json:
        span = {"since": moment(query.since), "until": moment(query.until)}
        say_json({**span, "lines": rows, "total": total})
    elif as_csv:
        _say_csv(rows, (*groups, *_FIGURES))
    else:
        listing(rows, (*groups, *_FIGURES), as_json=False, nothing="no exchanges in that time")
        _say_total(total)


def _query(by: str, since: str, until: str) -> UsageQuery:
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",")))
    unknown = [name for name in names if name not in _GROUPS]
    if unknown:
        fail(f"--by: cannot add up by {unknown[0]!r}; use {', '.join(_GROUPS)}", code=MISUSED)
    now = now_ms()
    start = _read_moment("--since", since, now)
    end = _read_moment("--until", until, now) if until else None
    if end is not None and end <= start:
        fail("--until: that is not after --since", code=MISUSED)
    return UsageQuery(by=names, since=start, until=end)


def _read_moment(option: str, text: str, now: int) -> int:
    try:
        return read_moment(text, now)
    except ValueError as error:
        fail(f"{option}: {text!r} is no time; {error}", code=MISUSED)


async def _read(store: Store, query: UsageQuery) -> tuple[list[UsageLine], Mapping[str, str]]:
    lines = await store.ledger.usage(query)
    clients = await store.clients.load() if "caller" in query.by else []
    return lines, {client.id: client.label for client in clients}


def _group_columns(by: Sequence[str]) -> tuple[Column, ...]:
    found: list[Column] = []
    for name in by:
        found.append(Column(name, name, whole=name == "day"))
        if name == "caller":
            found.append(Column("callerLabel"))
    return tuple(found)


def _row(by: Sequence[str], line: UsageLine, callers: Mapping[str, str]) -> Row:
    row: dict[str, object] = dict(zip(by, line.group, strict=True))
    if "caller" in row:
        row["callerLabel"] = callers.get(str(row["caller"]), "")
    used = line.usage
    return row | {
        "exchanges": line.exchanges,
        "failed": line.failed,
        "inputTokens": used.input,
        "outputTokens": used.output,
        "cacheReadTokens": used.cache_read,
        "cacheWriteTokens": used.cache_write_5m + used.cache_write_1h,
        "reasoningTokens": used.reasoning,
        "costMicros": line.cost_micros,
        "costUsd": dollars(line.cost_micros),
        "unpriced": line.unpriced,
    }


def _total(lines: Sequence[UsageLine]) -> UsageLine:
    used = Usage()
    for line in lines:
        used = used.plus(line.usage)
    return UsageLine(
        group=(),
        exchanges=sum(line.exchanges for line in lines),
        failed=sum(line.failed for line in lines),
        usage=used,
        cost_micros=sum(line.cost_micros for line in lines),
        unpriced=sum(line.unpriced for line in lines),
    )


def _say_csv(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([column.field for column in columns])
    out.writerows([plain(row[column.field]) for column in columns] for row in rows)


def _say_total(total: Row) -> None:
    """Below a table; beside the rows of a pipe, so that those stay rows."""
    speak = say if sys.stdout.isatty() else note
    speak(
        f"total: {total['exchanges']} exchanges, {total['failed']} failed; "
        f"${total['costUsd']}, {total['unpriced']} of unknown cost"
    )
    speak(
        f"tokens: {compact(total['inputTokens'])} input, {compact(total['outputTokens'])} output, "
        f"{compact(total['cacheReadTokens'])} from cache, "
        f"{compact(total['cacheWriteTokens'])} to cache"
    )
