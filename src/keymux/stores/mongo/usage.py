"""Usage added up by the server."""

from datetime import UTC, datetime
from typing import Any

from keymux.core.records import UsageLine
from keymux.core.vocabulary import Usage
from keymux.ids import LAST_MOMENT, first_id_at
from keymux.stores.mongo.database import Collection, Stored
from keymux.stores.mongo.fields import date
from keymux.stores.port import UsageQuery

_ID_SLACK_MS = 3_600_000
_GROUPS: dict[str, object] = {
    "day": {"$dateToString": {"date": "$at", "format": "%Y-%m-%d"}},
    "model": "$model",
    "provider": "$provider",
    "key": "$key",
    "caller": "$caller",
}
_TOKENS = (
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWrite5mTokens",
    "cacheWrite1hTokens",
    "reasoningTokens",
)
_LAST_DATE = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)


async def usage(collection: Collection, query: UsageQuery) -> list[UsageLine]:
    """Usage of some time, in groups."""
    names = [f"group{place}" for place in range(len(query.by))]
    groups = {name: _GROUPS[by] for name, by in zip(names, query.by, strict=True)}
    steps: list[dict[str, Any]] = [
        {"$match": _within(query)},
        {"$group": {"_id": groups or None, **_sums()}},
    ]
    if names:
        steps.append({"$sort": {f"_id.{name}": 1 for name in names}})
    found = await collection.aggregate(steps)
    return [_line(document, names) async for document in found]


def _within(query: UsageQuery) -> dict[str, Any]:
    since = max(0, min(query.since, _LAST_DATE))
    until = _LAST_DATE if query.until is None else max(0, min(query.until, _LAST_DATE))
    # ids find the rows quickly; the moment of an exchange is a little later than its id says
    first = first_id_at(max(0, since - _ID_SLACK_MS))
    last = first_id_at(min(LAST_MOMENT, until + _ID_SLACK_MS))
    return {"_id": {"$gte": first, "$lt": last}, "at": {"$gte": date(since), "$lt": date(until)}}


def _sums() -> dict[str, Any]:
    return {
        "exchanges": {"$sum": 1},
        "failed": {"$sum": {"$cond": [{"$ne": ["$outcome", "ok"]}, 1, 0]}},
        **{name: {"$sum": f"${name}"} for name in _TOKENS},
        "costMicros": {"$sum": "$costMicros"},
        "unpriced": {"$sum": {"$cond": [{"$isNumber": "$costMicros"}, 0, 1]}},
    }


def _line(document: Stored, names: list[str]) -> UsageLine:
    return UsageLine(
        group=tuple(str(document["_id"][name]) for name in names),
        exchanges=int(document["exchanges"]),
        failed=int(document["failed"]),
        usage=Usage(*(int(document[name]) for name in _TOKENS)),
        cost_micros=int(document["costMicros"]),
        unpriced=int(document["unpriced"]),
    )
