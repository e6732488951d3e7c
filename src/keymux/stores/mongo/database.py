"""The client of a MongoDB server: made when it is first needed, and what it promises.

Everything is written with ``w: majority, j: true``, so that what is acknowledged survives the loss
of a server. Where the server has transactions, `Database.transact` is one. A standalone server has
none: there the same steps are done one after the other, each of them so that it may be repeated,
and in an order that lets a later attempt finish what an earlier one began.
"""

import asyncio
import random
import re
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from keymux.stores.mongo.troubles import AGAIN, BAD_ADDRESS, UNKNOWN_COMMIT, is_duplicate, told
from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.sealing.vault import Vault

T = TypeVar("T")
Stored = dict[str, Any]
Collection = AsyncCollection[Stored]
Session = AsyncClientSession | None
"""A transaction; None where the server has none."""

PATIENCE_S = 5.0
_DEFAULT_NAME = "keymux"
_OLDEST_WIRE = 9  # MongoDB 4.4
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1
_CODEC = CodecOptions[Stored](
    datetime_conversion=DatetimeConversion.DATETIME_MS, unicode_decode_error_handler="replace"
)


def collection_name(provider: str, kind: str) -> str:
    """The name of a provider's collection."""
    if not _NAME.match(provider):
        raise StoreUnusable(f"no provider can be called {provider!r}")
    return f"{provider}_{kind}"


def without_credentials(uri: str) -> str:
    """Where a database is, as people may see it."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


class Database:
    """One database of a server or a replica set.

    Args:
        uri: its address, with credentials and options.
        patience_s: how long to wait for a server, an answer, and others who write.
        vault: for the secrets in it.

    Attributes:
        where: the address without credentials.
        has_transactions: whether the server has them; known once it was reached.
        audited: a number that the audit had reached when it was last looked at.
    """

    def __init__(
        self, uri: str, patience_s: float = PATIENCE_S, vault: Vault | None = None
    ) -> None:
        self.vault = vault or Vault(None)
        self.where = without_credentials(uri)
        self.has_transactions = False
        self.audited = 0
        self._uri = uri
        self._patience_s = patience_s
        self._client: AsyncMongoClient[Stored] | None = None
        self._database: AsyncDatabase[Stored] | None = None
        self._opening = asyncio.Lock()
        self._luck = random.Random()  # noqa: S311 -- spreads attempts

    # -- work ----------------------------------------------------------------------------------
    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work that is no transaction.

        Raises:
            StoreUnavailable: the server cannot be reached or written now.
            StoreUnusable: it can never work like this.
        """
        with told(self.where):
            await self._open()
            return await work()

    async def transact(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do all of some work or nothing, as often as others come in between.

        Raises:
            StoreUnavailable: the server cannot be reached or written now, or too many others write.
            StoreUnusable: it can never work like this.
        """
        with told(self.where):
            client = await self._open()
            if not self.has_transactions:
                return await work(None)
            async with client.start_session() as session:
                return await self._repeated(session, work)

    async def _repeated(
        self, session: AsyncClientSession, work: Callable[[Session], Awaitable[T]]
    ) -> T:
        ends, pause = time.monotonic() + self._patience_s, _PAUSE_S
        while True:
            try:
                return await self._attempt(session, work, ends)
            except PyMongoError as error:
                if not (error.has_error_label(AGAIN) or is_duplicate(error)):
                    raise
                if time.monotonic() > ends:
                    raise StoreUnavailable(f"{self.where}: too many others write now") from None
            await asyncio.sleep(pause * self._luck.uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _attempt(
        self, session: AsyncClientSession, work: Callable[[Session], Awaitable[T]], ends: float
    ) -> T:
        async with await session.start_transaction(write_concern=self._write_concern()):
            result = await work(session)
            while True:
                try:
                    await session.commit_transaction()
                except PyMongoError as error:
                    if not error.has_error_label(UNKNOWN_COMMIT) or time.monotonic() > ends:
                        raise
                else:
                    return result

    def collection(self, name: str) -> Collection:
        """A collection, read from the primary and written so that it lasts."""
        if self._database is None:
            raise StoreUnavailable(f"{self.where}: not open yet")
        return self._database[name]

    def lasting(self, name: str) -> Collection:
        """A collection as it is read by those who must never see what a failover takes back."""
        level = "majority" if self.has_transactions else "local"
        return self.collection(name).with_options(read_concern=ReadConcern(level))

    @property
    def database(self) -> AsyncDatabase[Stored]:
        """The database, open."""
        if self._database is None:
            raise StoreUnavailable(f"{self.where}: not open yet")
        return self._database

    # -- the client ----------------------------------------------------------------------------
    async def _open(self) -> AsyncMongoClient[Stored]:
        """The client, after the server has said what it is."""
        if self._client is not None and self._database is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                self._client = self._connect()
            if self._database is None:
                hello = await self._client.admin.command("hello")
                self._take_in(hello)
                self._database = self._client.get_default_database(
                    _DEFAULT_NAME,
                    codec_options=_CODEC,
                    read_preference=ReadPreference.PRIMARY,
                    write_concern=self._write_concern(),
                )
            return self._client

    def _connect(self) -> AsyncMongoClient[Stored]:
        wait_ms = int(self._patience_s * 1000)
        asked = self._uri.partition("?")[2].lower()
        waits: dict[str, Any] = {
            name: wait_ms
            for name in (
                "serverSelectionTimeoutMS",
                "connectTimeoutMS",
                "socketTimeoutMS",
                "waitQueueTimeoutMS",
            )
            if f"{name.lower()}=" not in asked
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # an odd option would be passed over
            try:
                return AsyncMongoClient(self._uri, appname="keymux", **waits)
            except (ValueError, UserWarning):  # their words may quote the password
                raise StoreUnusable(f"{self.where}: {BAD_ADDRESS}") from None

    def _take_in(self, hello: Stored) -> None:
        if int(hello.get("maxWireVersion", 0)) < _OLDEST_WIRE:
            raise StoreUnusable(f"{self.where}: keymux needs MongoDB 4.4 or newer")
        self.has_transactions = "setName" in hello or hello.get("msg") == "isdbgrid"

    def _write_concern(self) -> WriteConcern:
        return WriteConcern("majority", j=True, wtimeout=int(self._patience_s * 1000))

    async def close(self) -> None:
        """Give the connections back."""
        client, self._client, self._database = self._client, None, None
        if client is not None:
            await client.close()
