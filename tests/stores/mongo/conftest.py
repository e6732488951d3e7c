"""A MongoDB-protocol server, and databases on it."""

import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from keymux.stores.mongo import MongoStore
from tests.contract.records import ACME
from tests.stores.mongo.server import any_server, database_on, running
from tests.stores.mongo.watching import WATCHER, Watcher


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A server with transactions, or the one that the tests are pointed at."""
    with any_server() as found:
        yield found


@pytest.fixture(scope="session")
def standalone() -> Iterator[str]:
    """A server without transactions."""
    with running("--standalone") as own:
        yield own.uri


@pytest.fixture
def uri(server: str) -> Iterator[str]:
    """An empty database."""
    with database_on(server) as found:
        yield found


@pytest.fixture
def lone_uri(standalone: str) -> Iterator[str]:
    """An empty database on the server without transactions."""
    with database_on(standalone) as found:
        yield found


@pytest.fixture
def database(uri: str) -> Iterator[Database[dict[str, Any]]]:
    """The database as other programs see it."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client.get_default_database()


@pytest.fixture
def told() -> list[str]:
    """What the store told of."""
    return []


@pytest.fixture
async def store(uri: str, told: list[str]) -> AsyncIterator[MongoStore]:
    """A store that is not prepared yet."""
    found = MongoStore(uri, told.append)
    yield found
    await found.close()


@pytest.fixture
async def ready(store: MongoStore) -> MongoStore:
    """A store with a provider."""
    await store.prepare([ACME])
    return store


@pytest.fixture
def watching() -> Iterator[Watcher]:
    """The watcher, idle again afterwards."""
    yield WATCHER
    WATCHER.act = None


@pytest.fixture(autouse=True)
def _what_the_driver_leaves() -> Iterator[None]:
    """A driver that is closed while it connects leaves the socket to the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
