"""What exchanges add to the counters of the keys that were used.

Counts come in batches, and each key remembers the last batches that it was given. So a batch may be
added again by whoever does not know whether that was done: it counts once.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct
from pymongo import UpdateOne

from keymux.core.records import ExchangeRow
from keymux.stores.mongo.database import Database, Stored, collection_name
from keymux.stores.mongo.fields import WrongField, date, named, number, text
from keymux.stores.mongo.writing import portions
from keymux.stores.port import StoreUnusable

REMEMBERED = 60
"""Batches that a key remembers."""


class Count(Struct):
    """What some exchanges add to the counters of a key."""

    requests: int = 0
    tokens: int = 0
    last_used_at: int = 0


Counts = dict[tuple[str, str], Count]
"""By provider and key."""


def counted(rows: Iterable[ExchangeRow]) -> Counts:
    """A request for each attempt, tokens to the key that served."""
    counts: Counts = {}
    for row in rows:
        for attempt in row.attempts:
            count = counts.setdefault((attempt.provider, attempt.key), Count())
            count.requests += 1
            count.last_used_at = max(count.last_used_at, row.at + attempt.started_ms)
        if row.key:
            counts.setdefault((row.provider, row.key), Count()).tokens += row.usage.total
    return counts


def documents_of(counts: Counts) -> list[Stored]:
    """Counts as they are stored."""
    return [
        {
            "provider": provider,
            "key": key,
            "requests": count.requests,
            "tokens": count.tokens,
            "lastUsedAt": count.last_used_at,
        }
        for (provider, key), count in counts.items()
    ]


def counts_of(documents: Iterable[object]) -> Counts:
    """The counts that are stored; what is none of ours is passed over."""
    counts: Counts = {}
    for one in documents:
        if isinstance(one, Mapping):
            with suppress(WrongField):
                counts[text(one, "provider"), text(one, "key")] = Count(
                    number(one, "requests"), number(one, "tokens"), number(one, "lastUsedAt")
                )
    return counts


async def add(database: Database, batches: Mapping[str, Counts]) -> None:
    """Add batches to the keys that are there; those that a key was given before are passed over.

    Args:
        database: where they are.
        batches: counts by the name of their batch, fewer than a key remembers.
    """
    found: dict[str, dict[str, list[tuple[str, Count]]]] = {}
    for batch, counts in batches.items():
        for (provider, key), count in counts.items():
            found.setdefault(provider, {}).setdefault(key, []).append((batch, count))
    for provider, keys in sorted(found.items()):
        try:
            name = collection_name(provider, "keys")
        except StoreUnusable:
            continue  # from a config of long ago
        updates = [UpdateOne(named(key), _added(keys[key])) for key in sorted(keys)]
        for portion in portions(updates):
            await database.collection(name).bulk_write(portion, ordered=False)


def _added(given: Sequence[tuple[str, Count]]) -> list[dict[str, Any]]:
    """A pipeline, one stage for each batch."""
    return [{"$set": _unless_known(batch, count)} for batch, count in given]


def _unless_known(batch: str, count: Count) -> dict[str, Any]:
    batches = {"$cond": [{"$eq": [{"$type": "$counting"}, "array"]}, "$counting", []]}
    changed: dict[str, Any] = {
        "requestsCount": raised("$requestsCount", count.requests),
        "tokensUsed": raised("$tokensUsed", count.tokens),
        "counting": {"$slice": [{"$concatArrays": [batches, [batch]]}, -REMEMBERED]},
    }
    if count.last_used_at:
        # in the order of types a date comes after a number and a text
        changed["lastUsedAt"] = {"$max": ["$lastUsedAt", date(count.last_used_at)]}
    is_known = {"$in": [batch, batches]}
    return {field: {"$cond": [is_known, f"${field}", then]} for field, then in changed.items()}


def raised(field: str, more: int) -> dict[str, Any]:
    """A field and more; one that is no number was written by somebody else and is left alone."""
    known = {"$ifNull": [field, 0]}
    return {"$cond": [{"$isNumber": known}, {"$add": [known, more]}, field]}
