"""Which store an address names."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from keymux.stores.port import Store
from keymux.stores.sqlite import SqliteStore


def open_store(database: Path | None, address: str, tell: Callable[[str], None]) -> Store:
    """A store; nothing is opened yet.

    Args:
        database: the file of the embedded store, None for the shared one.
        address: of the shared store.
        tell: told of what is wrong with some of the records there, in sentences.
    """
    if database is not None:
        return SqliteStore(database)
    # the driver takes 14 MB and 0.15 s, which is not asked of those who do without
    mongo = import_module("keymux.stores.mongo")
    return cast("Store", mongo.MongoStore(address, tell))
