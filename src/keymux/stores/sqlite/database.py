"""The connection, its thread, and the schema."""

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.sealing.vault import Place, Vault

T = TypeVar("T")

SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 5.0
_TRIES = 100

_SCHEMA = files("keymux.stores.sqlite") / "schema"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_WAL_BYTES = 64 * 2**20
_PAGE_BYTES = 16_384  # fewer and larger writes: rows are some hundred bytes and only added
_OUR_APPLICATION = 0x6B6D7578  # "kmux"


class Database:
    """One SQLite file.

    All work is done on one thread, in the order it was asked for, so there is one writer and the
    event loop never waits for a disk.

    Args:
        path: of the file; it is created if its folder exists.
        patience_s: how long to wait for another process that writes.
        vault: for the secrets in it.
    """

    def __init__(
        self, path: Path, patience_s: float = BUSY_TIMEOUT_S, vault: Vault | None = None
    ) -> None:
        self.path = path
        self.vault = vault or Vault(None)
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keymux-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        """Do some work on the connection's thread.

        Args:
            work: what to do.
            create: make the file if there is none.

        Raises:
            StoreUnavailable: locked, full, not writable, or gone.
            StoreUnusable: it is no database of ours.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._do, work, create)

    def _do(self, work: Callable[[sqlite3.Connection], T], create: bool) -> T:  # noqa: FBT001 -- handed to a thread
        try:
            return work(self._open(create=create))
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                self._close()  # a file that can be written again is only seen by a new connection
            raise StoreUnavailable(f"{self.path}: {error}") from error
        except (sqlite3.Error, OverflowError, ValueError) as error:  # ValueError: not what we wrote
            self._close()
            raise StoreUnusable(f"{self.path}: {error}") from error

    def _open(self, *, create: bool) -> sqlite3.Connection:
        """The connection, as long as its file is where it was.

        A file that was deleted or replaced can still be written by those who have it open, and what
        they write is lost.
        """
        if self._connection is not None and self._file == _identity(self.path):
            return self._connection
        if self._connection is not None:
            raise StoreUnavailable(
                f"{self.path} was deleted or replaced while in use: put it back, or restart keymux"
            )
        if create:
            _make_private(self.path)
        elif _identity(self.path) is None:
            raise StoreUnavailable(f"{self.path}: there is no such file")
        self._connection = _connect(self.path, self._patience_s)
        self._connection.create_function("resealed", 4, self._resealed)
        self._file = _identity(self.path)
        return self._connection

    def _resealed(self, collection: str, record_id: str, field: str, stored: str) -> str:
        """For statements that write a record: a legacy secret is sealed along with it."""
        return self.vault.resealed(Place(collection, record_id, field), stored)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_busy(error: sqlite3.Error) -> bool:
    name = getattr(error, "sqlite_errorname", "")  # not all come from SQLite itself
    return str(name).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_private(path: Path) -> None:
    """Create the file, readable by nobody else: upstream keys will be in it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error


def _connect(path: Path, patience_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=patience_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        _check_ours(connection)  # before the settings, which write to the file
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        _use_log(connection)
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    """Readers and a writer shall not wait for each other.

    While a new file is changed to that, SQLite refuses others at once instead of waiting; an
    exclusive transaction, which waits, shows when they can try again.
    """
    for _ in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        else:
            return
    raise StoreUnavailable("too many others open the database at this moment")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing; the write lock is taken at the start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise


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


def _check_ours(connection: sqlite3.Connection) -> None:
    # in this order: another process may make the tables, and with them the id, in between
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if tables and application != _OUR_APPLICATION:
        raise StoreUnusable("the file is a database of another program; nothing was changed")


def _version(connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
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


def table(provider: str, kind: str) -> str:
    """The name of a provider's table; the only place where a name gets into a statement."""
    if not _NAME.match(provider):
        raise StoreUnusable(f"no provider can be called {provider!r}")
    return f"{provider}_{kind}"


def _add_provider(connection: sqlite3.Connection, provider: str) -> None:
    for name in (table(provider, kind) for kind in ("keys", "backup_keys", "bindings")):
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if connection.execute(known, (name,)).fetchone():
            raise StoreUnusable(
                f"no provider can be called {provider!r} here: the table {name} is something else's"
            )
    for step in range(1, SCHEMA_VERSION + 1):
        for statement in _statements(f"{step}.provider.sql", provider):
            connection.execute(statement)
    connection.execute("INSERT INTO provider_states (provider) VALUES (?)", (provider,))


def _statements(name: str, provider: str = "") -> list[str]:
    text = (_SCHEMA / name).read_text(encoding="utf-8")
    if provider:
        text = text.format(provider=provider)
    return [statement for statement in text.split(";\n") if statement.strip()]
