"""Writing that may be repeated, with a transaction and without one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pymongo.errors import BulkWriteError

from keymux.stores.mongo.database import Collection, Session, Stored
from keymux.stores.mongo.troubles import is_duplicate

T = TypeVar("T")

_AT_ONCE = 250
"""Documents are encoded on the event loop: this many take a few milliseconds."""
IN_ONE_TRANSACTION = 1000
"""A server keeps what is not committed in its memory."""


def portions(items: Sequence[T], size: int = _AT_ONCE) -> Iterator[Sequence[T]]:
    """As many at a time as nobody has to wait for."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
    ids, hashes = await names_in(collection, session)
    fresh: list[Stored] = []
    for one in documents:
        if one["_id"] not in ids and one["keyHash"] not in hashes:
            ids.add(one["_id"])
            hashes.add(one["keyHash"])
            fresh.append(one)
    return fresh


async def names_in(collection: Collection, session: Session) -> tuple[set[Any], set[Any]]:
    """All ids and all key hashes; collections of keys are small enough to be looked through."""
    fields = {"_id": True, "keyHash": True}
    there = await collection.find(projection=fields, session=session).to_list()
    return {one["_id"] for one in there}, {one.get("keyHash") for one in there}


async def ids_in(collection: Collection, ids: Sequence[str], session: Session) -> set[str]:
    """Which ids are there."""
    found: set[str] = set()
    for portion in portions(ids):
        wanted = {"_id": {"$in": list(portion)}}
        there = collection.find(wanted, projection={"_id": True}, session=session)
        found |= {document["_id"] async for document in there}
    return found


def as_found(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What finds a document again only if some of its fields are as they were."""
    return {"_id": document["_id"], **{name: document.get(name) for name in names}}
