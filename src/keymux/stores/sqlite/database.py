"""The connection, its thread, and the schema."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from keymux.stores.port import StoreUnavailable, StoreUnusable

T = TypeVar("T")

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0

_SCHEMA = files("keymux.stores.sqlite") / "schema"
_PAGE_BYTES = 16_384  # fewer and larger writes: rows are some hundred bytes and only added
_OUR_APPLICATION = 0x6B6D7578  # "kmux"


class Database:
    """One SQLite file.

    All work is done on one thread, in the order it was asked for, so there is one writer and the
    event loop never waits for a disk.

    Args:
        path: of the file; it is created if its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keymux-sqlite")
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work on the connection's thread.

        Raises:
            StoreUnavailable: locked, full, not writable, or gone.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreUnusable(f"{self.path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        old_mask_is_wide = not self.path.exists()
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        if old_mask_is_wide:
            self.path.chmod(0o600)  # upstream keys are in it
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def close(self) -> None:
        """Close the connection and end the thread."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing; the write lock is taken at the start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def prepare(connection: sqlite3.Connection, names: Sequence[str]) -> list[str]:
    """Create what is missing and bring the schema up to date, in one transaction.

    Returns:
        What was done, a line each.

    Raises:
        StoreUnusable: it is somebody else's database, or a newer one.
    """
    with transaction(connection):
        version = _version(connection)
        done = [_migrate(connection, step) for step in range(version + 1, SCHEMA_VERSION + 1)]
        if done:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id = {_OUR_APPLICATION}")
        known = providers(connection)
        for provider in names:
            if provider not in known:
                _add_provider(connection, provider)
                done.append(f"tables for the provider {provider}")
    return done


def _version(connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != _OUR_APPLICATION:
        raise StoreUnusable("the file is a database of another program; nothing was changed")
    if version > SCHEMA_VERSION:
        raise StoreUnusable(
            f"the database has schema {version}, this keymux knows {SCHEMA_VERSION}: "
            "use the keymux that wrote it, or a newer one; nothing was changed"
        )
    return version


def _migrate(connection: sqlite3.Connection, step: int) -> str:
    for statement in _statements(f"{step}.sql"):
        connection.execute(statement)
    for provider in providers(connection):
        for statement in _statements(f"{step}.provider.sql", provider):
            connection.execute(statement)
    return f"schema {step}"


def providers(connection: sqlite3.Connection) -> set[str]:
    """Providers that have tables."""
    return {row[0] for row in connection.execute("SELECT provider FROM provider_states")}


def _add_provider(connection: sqlite3.Connection, provider: str) -> None:
    for step in range(1, SCHEMA_VERSION + 1):
        for statement in _statements(f"{step}.provider.sql", provider):
            connection.execute(statement)
    connection.execute("INSERT INTO provider_states (provider) VALUES (?)", (provider,))


def _statements(name: str, provider: str = "") -> list[str]:
    text = (_SCHEMA / name).read_text(encoding="utf-8")
    if provider:
        text = text.format(provider=provider)
    return [statement for statement in text.split(";\n") if statement.strip()]
