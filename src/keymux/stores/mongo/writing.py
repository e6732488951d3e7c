"""Writing that may be repeated, with a transaction and without one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pymongo.errors import BulkWriteError

from keymux.stores.mongo.database import Collection, Session, Stored
from keymux.stores.mongo.troubles import is_duplicate

T = TypeVar("T")

_AT_ONCE = 250
"""Documents are encoded on the event loop: this many take a few milliseconds."""


def portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as nobody has to wait for."""
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


async def insert_new(
    collection: Collection, documents: Sequence[Stored], session: Session
) -> list[Stored]:
    """Insert documents; gives those that were not there.

    Within a transaction there must be none of them: a duplicate ends it, and it is repeated.
    """
    done: list[Stored] = []
    for portion in portions(documents):
        try:
            await collection.insert_many(portion, ordered=False, session=session)
        except BulkWriteError as error:
            if session is not None or not is_duplicate(error):
                raise
            known = {one["index"] for one in error.details["writeErrors"]}
            done += [one for index, one in enumerate(portion) if index not in known]
        else:
            done += portion
    return done


async def without_known(
    collection: Collection, documents: Sequence[Stored], session: Session
) -> list[Stored]:
    """The documents whose id and key hash are not there, and come first in the list."""
    ids = await values_in(collection, "_id", [one["_id"] for one in documents], session)
    hashes = await values_in(collection, "keyHash", [one["keyHash"] for one in documents], session)
    fresh: list[Stored] = []
    for one in documents:
        if one["_id"] not in ids and one["keyHash"] not in hashes:
            ids.add(one["_id"])
            hashes.add(one["keyHash"])
            fresh.append(one)
    return fresh


async def values_in(
    collection: Collection, field: str, values: Iterable[object], session: Session
) -> set[Any]:
    """Which of some values are there in a field that has an index."""
    found = collection.find(
        {field: {"$in": list(values)}}, projection={field: True}, session=session
    )
    return {document[field] async for document in found}


def as_found(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What finds a document again only if some of its fields are as they were."""
    return {"_id": document["_id"], **{name: document.get(name) for name in names}}
