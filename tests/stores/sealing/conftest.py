"""A store of each kind that seals its secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.mongo.server import another_server, database_on, running
from tests.stores.sealing.places import SealedDatabase, SealedFile, SealedPlace


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A MongoDB-protocol server, or the one that the tests are pointed at."""
    if found := another_server():
        yield found
        return
    with running() as own:
        yield own.uri


@pytest.fixture(params=["SQLite in a file", "MongoDB"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SealedPlace]:
    """A database that is empty, and no ring."""
    if request.param == "SQLite in a file":
        yield SealedFile(tmp_path)
        return
    with database_on(request.getfixturevalue("server")) as uri:
        yield SealedDatabase(uri, tmp_path)
