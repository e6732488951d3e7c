"""Making what is missing, and refusing what is not ours.

Indexes are compared by the fields they are on, so those that operators have made are taken as they
are. One process at a time makes things; the lock it takes ends by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure

from keymux.core.records import ProviderState
from keymux.ids import record_id
from keymux.stores.mongo.database import Database, Stored, collection_name
from keymux.stores.mongo.documents import provider_fields
from keymux.stores.mongo.egress_documents import key_field
from keymux.stores.mongo.fields import WrongField, number
from keymux.stores.mongo.hashes import add_hashes, lacks_hashes
from keymux.stores.mongo.keys import now_ms
from keymux.stores.mongo.layout import META, OURS, Index, layout
from keymux.stores.mongo.reading import Reader
from keymux.stores.mongo.transitions import PROVIDERS
from keymux.stores.port import StoreUnavailable, StoreUnusable

SCHEMA_VERSION = 1
LOCK_MS = 15_000
_LOCK_TRIES, _LOCK_EVERY_S = 400, 0.05
_SAMPLE = 50
_INDEX_TROUBLES = frozenset({85, 86, 11_000})  # other options, another name, duplicates


class _Missing(Struct, frozen=True):
    """What is to be made."""

    schema: bool
    providers: tuple[str, ...]
    collections: tuple[str, ...]
    indexes: tuple[tuple[str, Index], ...]
    unhashed: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        return not (
            self.schema or self.providers or self.collections or self.indexes or self.unhashed
        )


class Schema:
    """What is in a database, and what has to be.

    Args:
        database: to look after.
        reader: of documents, which tells of troubles.
    """

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    async def prepare(self, providers: Sequence[str]) -> list[str]:
        """Create what is missing; says what was done.

        Raises:
            StoreUnusable: it is no database of ours, or a newer one.
            StoreUnavailable: another process has been making things for too long.
        """
        if (await self._missing(providers)).is_nothing:
            return []
        async with self._alone():
            return await self._make(await self._missing(providers))

    # -- looking -------------------------------------------------------------------------------
    async def _missing(self, providers: Sequence[str]) -> _Missing:
        version = await self._version()
        known = await self._known_providers()
        wanted = layout(sorted({*providers, *known}))
        listed = await self._database.database.list_collections()
        there = {one["name"]: one["type"] async for one in listed}
        fresh = [provider for provider in providers if provider not in known]
        await self._refuse_foreign(there, fresh, is_new=not version)
        pools = [
            collection_name(provider, kind)
            for provider in providers
            for kind in ("keys", "backup_keys")
        ]
        return _Missing(
            schema=version < SCHEMA_VERSION,
            providers=tuple(fresh),
            collections=tuple(name for name in wanted if name not in there),
            indexes=tuple(
                [
                    (name, index)
                    for name, indexes in wanted.items()
                    for index in await self._missing_indexes(name, indexes)
                ]
            ),
            unhashed=tuple(
                [
                    name
                    for name in pools
                    if name in there and await lacks_hashes(self._database.collection(name))
                ]
            ),
        )

    async def _version(self) -> int:
        found = await self._database.collection(META).find_one({"_id": "schema"})
        try:
            version = number(found, "version") if found else 0
        except WrongField:
            version = 0
        if found and not version:
            raise StoreUnusable(
                f"{self._database.where}: {META} is something else's: the version of the schema in "
                "it is no number; nothing was changed"
            )
        if version > SCHEMA_VERSION:
            raise StoreUnusable(
                f"{self._database.where} has schema {version}, this keymux knows {SCHEMA_VERSION}: "
                "use the keymux that wrote it, or a newer one; nothing was changed"
            )
        return version

    async def _known_providers(self) -> set[str]:
        documents = self._database.collection(PROVIDERS).find(projection={"_id": True})
        return {str(document["_id"]) async for document in documents}

    async def _missing_indexes(self, name: str, indexes: Sequence[Index]) -> list[Index]:
        if not indexes:
            return []
        found = await self._database.collection(name).index_information()
        there = {tuple(tuple(field) for field in index["key"]) for index in found.values()}
        return [index for index in indexes if tuple(index.key) not in there]

    # -- refusing ------------------------------------------------------------------------------
    async def _refuse_foreign(
        self, there: dict[str, str], fresh: Sequence[str], *, is_new: bool
    ) -> None:
        """Nothing is done to a database in which something else bears a name of ours."""
        marks: dict[str, tuple[str, ...]] = dict(OURS) if is_new else {}
        for provider in fresh:
            marks[collection_name(provider, "keys")] = ("apiKey",)
            marks[collection_name(provider, "backup_keys")] = ("apiKey",)
            marks[collection_name(provider, "bindings")] = (key_field(provider),)
        for name in layout(fresh):
            if there.get(name, "collection") != "collection":
                raise StoreUnusable(f"{self._database.where}: {name} is no plain collection")
        for name, fields in marks.items():
            sample = await self._database.collection(name).find(limit=_SAMPLE).to_list()
            if sample and not any(_has(document, fields) for document in sample):
                raise StoreUnusable(
                    f"{self._database.where}: the collection {name} is something else's: its "
                    f"documents have no {' and '.join(fields)}; nothing was changed"
                )

    # -- making --------------------------------------------------------------------------------
    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        meta, owner = self._database.collection(META), record_id("lock")
        for _ in range(_LOCK_TRIES):
            try:
                await meta.update_one(
                    {"_id": "lock", "until": {"$lt": now_ms()}},
                    {"$set": {"until": now_ms() + LOCK_MS, "owner": owner}},
                    upsert=True,
                )
            except DuplicateKeyError:
                await asyncio.sleep(_LOCK_EVERY_S)
            else:
                break
        else:
            raise StoreUnavailable(f"{self._database.where}: another process is preparing it")
        try:
            yield
        finally:
            await meta.delete_one({"_id": "lock", "owner": owner})

    async def _make(self, missing: _Missing) -> list[str]:
        done: list[str] = []
        for name in missing.collections:
            if name != META:  # the lock has made it
                indexes = [index for where, index in missing.indexes if where == name]
                done.append(await self._make_collection(name, indexes))
        for name, index in missing.indexes:
            if name not in missing.collections:
                done += await self._make_index(name, index)
        for name in missing.unhashed:
            done += await add_hashes(self._database.collection(name), name, self._reader)
        for provider in missing.providers:
            await self._add_provider(provider)
        if missing.schema:
            await self._database.collection(META).update_one(
                {"_id": "schema"}, {"$set": {"version": SCHEMA_VERSION}}, upsert=True
            )
            done.append(f"schema {SCHEMA_VERSION}")
        return done

    async def _make_collection(self, name: str, indexes: Sequence[Index]) -> str:
        await self._database.database.create_collection(name, check_exists=False)
        if indexes:
            models = [IndexModel(index.key, **index.options) for index in indexes]
            await self._database.collection(name).create_indexes(models)
        listed = "; ".join(", ".join(index.fields) for index in indexes)
        return f"collection {name}" + (f", indexes on {listed}" if listed else "")

    async def _make_index(self, name: str, index: Index) -> list[str]:
        fields = ", ".join(index.fields)
        try:
            await self._database.collection(name).create_index(index.key, **index.options)
        except OperationFailure as error:
            if error.code not in _INDEX_TROUBLES:
                raise
            self._reader.tell(
                f"{name}: no index on ({fields}): there are duplicates, or an index in its way"
            )
            return []
        return [f"index on {name} ({fields})"]

    async def _add_provider(self, provider: str) -> None:
        await self._database.collection(PROVIDERS).update_one(
            {"_id": provider},
            {"$setOnInsert": provider_fields(ProviderState(), now_ms())},
            upsert=True,
        )


def _has(document: Stored, fields: Sequence[str]) -> bool:
    return all(field in document for field in fields)
