"""A store of each kind that seals its secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.mongo.server import any_server, database_on
from tests.stores.sealing.places import SealedDatabase, SealedFile, SealedPlace


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A MongoDB-protocol server, or the one that the tests are pointed at."""
    with any_server() as found:
        yield found


@pytest.fixture(params=["SQLite in a file", "MongoDB"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SealedPlace]:
    """A database that is empty, and no ring."""
    if request.param == "SQLite in a file":
        yield SealedFile(tmp_path)
        return
    with database_on(request.getfixturevalue("server")) as uri:
        yield SealedDatabase(uri, tmp_path)
