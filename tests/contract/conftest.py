"""A store of each kind, for the tests of the contract."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from keymux.stores.port import Store
from tests.contract.mongo import MongoPlace
from tests.contract.places import PLACES, Place, opened
from tests.contract.records import ACME, OTHER
from tests.stores.mongo.server import any_server, database_on, running


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that keymux runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def replica_set() -> Iterator[str]:
    """A server with transactions, or the one that the tests are pointed at."""
    with any_server() as found:
        yield found


@pytest.fixture(scope="session")
def standalone() -> Iterator[str]:
    """A server without transactions."""
    with running("--standalone") as own:
        yield own.uri


SERVERS = {"MongoDB replica set": "replica_set", "MongoDB standalone": "standalone"}


@pytest.fixture(params=[*PLACES, *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database."""
    if request.param in PLACES:
        yield PLACES[request.param](tmp_path)
        return
    with database_on(request.getfixturevalue(SERVERS[request.param])) as uri:
        yield MongoPlace(uri)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """A store with two providers."""
    async with opened(place) as found:
        await found.prepare([ACME, OTHER])
        yield found
