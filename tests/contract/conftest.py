"""A store of each kind, for the tests of the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keymux.stores.port import Store
from tests.contract.places import PLACES, Place, opened
from tests.contract.records import ACME, OTHER


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that keymux runs on."""
    return "asyncio"


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database."""
    return PLACES[request.param](tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """A store with two providers."""
    async with opened(place) as found:
        await found.prepare([ACME, OTHER])
        yield found
