"""The file, its settings, and everything that can be wrong with it."""

import asyncio
import multiprocessing
import os
import resource
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from keymux.stores.port import Batch, StoreUnavailable, StoreUnusable
from keymux.stores.sqlite import SqliteStore
from keymux.stores.sqlite.database import _check_ours, _connect, _use_log, prepare
from tests.contract.places import SqlitePlace, opened
from tests.contract.records import ACME, OPERATOR, exchange, key

pytestmark = pytest.mark.anyio

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
PATIENCE_S = 0.02


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    """A file that is not there yet."""
    return SqlitePlace(tmp_path)


async def _made(place: SqlitePlace) -> None:
    async with opened(place) as store:
        await store.prepare([ACME])
        await store.keys.add(ACME, [key("k1")], OPERATOR)


@contextmanager
def _another(place: SqlitePlace) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else."""
    with closing(sqlite3.connect(place.path, isolation_level=None)) as connection:
        yield connection


# -- the file ------------------------------------------------------------------------------------
async def test_nobody_else_may_read_the_file(place: SqlitePlace) -> None:
    """Upstream keys are in it, and in the files beside it, whatever the umask."""
    before = os.umask(0)
    try:
        async with opened(place) as store:
            await store.prepare([ACME])
            modes = {stat.S_IMODE(path.stat().st_mode) for path in place.path.parent.iterdir()}
    finally:
        os.umask(before)

    assert modes == {0o600}


SETTINGS = [
    pytest.param("journal_mode", "wal", id="readers do not wait for writers"),
    pytest.param("synchronous", 2, id="what is acknowledged survives the loss of power"),
    pytest.param("page_size", 16_384, id="few and large writes"),
    pytest.param("journal_size_limit", 64 * 2**20, id="the log does not keep its largest size"),
    pytest.param("busy_timeout", 5000, id="five seconds of patience with other processes"),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
async def test_settings(place: SqlitePlace, name: str, value: object) -> None:
    """How the file is used."""
    store = SqliteStore(place.path)
    await store.prepare([ACME])
    found = await store._database.run(
        lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]
    )
    await store.close()

    assert found == value


async def test_closing_ends_the_thread(place: SqlitePlace) -> None:
    """And the files beside the database go away."""
    await _made(place)

    assert [one.name for one in threading.enumerate() if "sqlite" in one.name] == []
    assert [path.name for path in place.path.parent.iterdir()] == ["keymux.db"]


async def test_a_store_that_was_never_used_can_be_closed(place: SqlitePlace) -> None:
    """It makes no file."""
    async with opened(place):
        pass

    assert not place.path.exists()


async def test_only_prepare_makes_the_file(place: SqlitePlace) -> None:
    """A mistyped path must not become an empty database."""
    async with opened(place) as store:
        with pytest.raises(StoreUnavailable, match="no such file"):
            await store.keys.load(ACME)

    assert not place.path.exists()


async def test_the_folder_must_be_there(tmp_path: Path) -> None:
    """It is not made; what is wrong is said."""
    store = SqliteStore(tmp_path / "missing" / "keymux.db")
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        await store.prepare([ACME])
    await store.close()


async def test_an_empty_file_is_taken(place: SqlitePlace) -> None:
    """A file somebody made in advance, to give it rights of its own."""
    place.path.touch(0o640)
    await _made(place)

    assert stat.S_IMODE(place.path.stat().st_mode) == 0o640


# -- other people's files ------------------------------------------------------------------------
async def test_the_database_of_another_program_is_left_alone(place: SqlitePlace) -> None:
    """Not a byte of it is changed, and nothing is put beside it."""
    with _another(place) as connection:
        connection.execute("CREATE TABLE cats (name)")
    content = place.path.read_bytes()
    async with opened(place) as store:
        with pytest.raises(StoreUnusable, match="another program"):
            await store.prepare([ACME])
        with pytest.raises(StoreUnusable, match="another program"):
            await store.keys.load(ACME)

    assert place.path.read_bytes() == content
    assert [path.name for path in place.path.parent.iterdir()] == ["keymux.db"]


async def test_a_file_that_is_no_database_is_left_alone(place: SqlitePlace) -> None:
    """The operator named the wrong file."""
    content = b"dear diary, " * 1000
    place.path.write_bytes(content)
    async with opened(place) as store:
        with pytest.raises(StoreUnusable, match="not a database"):
            await store.prepare([ACME])

    assert place.path.read_bytes() == content


async def test_a_damaged_database_is_left_alone(place: SqlitePlace) -> None:
    """D11: it is never replaced by a fresh one; a human has to look at it."""
    await _made(place)
    content = bytearray(place.path.read_bytes())
    content[16_384:] = b"\xff" * (len(content) - 16_384)
    place.path.write_bytes(content)
    async with opened(place) as store:
        with pytest.raises(StoreUnusable, match="malformed"):
            await store.keys.load(ACME)

    assert place.path.read_bytes() == content


async def test_a_row_that_nobody_can_read_is_reported(place: SqlitePlace) -> None:
    """What was changed by hand into nonsense shows as an unusable store, not as a crash."""
    await _made(place)
    async with opened(place) as store:
        await store.ledger.write(Batch((exchange(1),)))
        with _another(place) as connection:
            connection.execute("UPDATE exchanges SET outcome = 'lovely'")
        with pytest.raises(StoreUnusable, match="lovely"):
            await store.ledger.latest(1)


NAMES = [
    pytest.param(["acme; DROP TABLE audit"], "no provider can be called", id="it is no name"),
    pytest.param(["a" * 32], "no provider can be called", id="it is too long"),
    pytest.param(["acme", "acme_backup"], "something else's", id="its tables are another's"),
]


@pytest.mark.parametrize(("providers", "problem"), NAMES)
async def test_a_provider_without_tables_of_its_own_is_refused(
    place: SqlitePlace, providers: list[str], problem: str
) -> None:
    """Names become names of tables; a refusal leaves nothing behind."""
    async with opened(place) as store:
        with pytest.raises(StoreUnusable, match=problem):
            await store.prepare(providers)
        with _another(place) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    assert tables == 0


# -- trouble that passes -------------------------------------------------------------------------
async def test_another_process_writes_for_too_long(place: SqlitePlace) -> None:
    """D08: the store is unavailable, can still be read, and is back when the lock is gone."""
    await _made(place)
    store = SqliteStore(place.path, PATIENCE_S)
    with _another(place) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.keys.add(ACME, [key("k2")], OPERATOR)
        readable = [record.id for record in await store.keys.load(ACME)]
        connection.execute("ROLLBACK")
    added = await store.keys.add(ACME, [key("k2")], OPERATOR)
    await store.close()

    assert (readable, added) == (["k1"], ["k2"])


TROUBLE = [
    pytest.param("PRAGMA max_page_count = 1", "full", id="the disk is full"),
    pytest.param("PRAGMA query_only = ON", "readonly", id="the file is read-only"),
]


@pytest.mark.parametrize(("trouble", "problem"), TROUBLE)
async def test_a_write_that_fails_changes_nothing(
    place: SqlitePlace, trouble: str, problem: str
) -> None:
    """D09, D12: all of a batch or nothing; a new connection finds out whether it is over."""
    await _made(place)
    store = SqliteStore(place.path)
    await store.keys.load(ACME)
    batch = Batch(tuple(exchange(number) for number in range(2000)))
    await store._database.run(lambda connection: connection.execute(trouble).fetchall())
    with pytest.raises(StoreUnavailable, match=problem):
        await store.ledger.write(batch)
    rows = await store.ledger.latest(1)
    await store.ledger.write(batch)
    after = await store.ledger.latest(3000)
    await store.close()

    assert (rows, len(after)) == ([], 2000)


async def test_a_disk_that_fills_up_and_is_emptied(place: SqlitePlace) -> None:
    """D09, refused by the kernel: all rows until then are there, and later it goes on."""
    await _made(place)
    kept = _PROCESSES.Value("i", 0)
    process = _PROCESSES.Process(target=_fill_up, args=(place.path, kept))
    process.start()
    process.join()
    with _another(place) as connection:
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        rows = connection.execute("SELECT count(*) FROM exchanges").fetchone()[0]

    assert process.exitcode == 0
    assert 100 < rows < 10_000
    assert (sound, rows) == ("ok", kept.value)


def _fill_up(path: Path, kept: "multiprocessing.sharedctypes.Synchronized[int]") -> None:
    batches = (Batch(tuple(exchange(100 * n + m) for m in range(100))) for n in count())

    async def write(store: SqliteStore) -> None:
        await store.ledger.write(next(batches))
        kept.value += 100

    async def fill() -> None:
        store = SqliteStore(path)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
        with suppress(StoreUnavailable):
            while kept.value < 1_000_000:
                await write(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await write(store)
        await store.close()

    asyncio.run(fill())


async def test_a_file_that_is_taken_away(place: SqlitePlace) -> None:
    """D11: nothing is written into a file that is gone, and none is made in its place."""
    await _made(place)
    aside = place.path.with_name("aside")
    async with opened(place) as store:
        await store.keys.load(ACME)
        place.path.rename(aside)
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await store.keys.add(ACME, [key("k2")], OPERATOR)
        was_there = place.path.exists()
        place.path.touch()
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await store.keys.add(ACME, [key("k2")], OPERATOR)
        aside.rename(place.path)
        added = await store.keys.add(ACME, [key("k2")], OPERATOR)

    assert (was_there, added) == (False, ["k2"])


# -- kill -9 -------------------------------------------------------------------------------------
def _prepare_until_killed(path: Path, statements: int) -> None:
    """Die at a statement; at which one is counted over everything that reaches the database."""
    path.touch()
    number = count(1)

    def die(_: str) -> None:
        if next(number) == statements:
            os.kill(os.getpid(), signal.SIGKILL)

    with closing(_connect(path, 1.0)) as connection:
        connection.set_trace_callback(die)
        prepare(connection, [ACME])


def _tables(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


async def test_the_schema_is_made_in_one_step(tmp_path: Path) -> None:
    """D13: killed at any statement, there is nothing or everything; the next start goes on."""
    found: list[int] = []
    for statements in count(1):
        path = tmp_path / f"{statements}.db"
        process = _PROCESSES.Process(target=_prepare_until_killed, args=(path, statements))
        process.start()
        process.join()
        found.append(_tables(path))
        store = SqliteStore(path)
        done = await store.prepare([ACME])
        await store.close()

        assert bool(done) is (found[-1] == 0)
        assert _tables(path) > 0
        if process.exitcode == 0:
            break

    assert len(found) > 15
    assert set(found[:-1]) == {0}
    assert found[-1] == _tables(tmp_path / "1.db")


# -- many at once --------------------------------------------------------------------------------
@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two connections to a file that nothing was done to yet."""
    path = tmp_path / "fresh.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as one,
        closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as other,
    ):
        one.execute("CREATE TABLE cats (name)")
        yield one, other


async def test_a_database_that_is_made_meanwhile_is_ours(tmp_path: Path) -> None:
    """Another process makes the schema between two looks at the file: that is no foreign file."""
    path = tmp_path / "keymux.db"
    path.touch()
    with closing(sqlite3.connect(path)) as ours, closing(_connect(path, 1.0)) as theirs:
        looks: list[str] = []

        def look(text: str) -> None:
            looks.append(text)
            if len(looks) == 2:
                prepare(theirs, [ACME])

        ours.set_trace_callback(look)
        _check_ours(ours)

    assert len(looks) == 2
    assert _tables(path) > 0


async def test_who_reads_a_new_file_is_waited_for(
    fresh: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """SQLite does not wait by itself when the kind of log is changed."""
    ours, theirs = fresh
    theirs.execute("BEGIN")
    theirs.execute("SELECT * FROM cats").fetchall()

    def make_way(text: str) -> None:
        if text == "BEGIN EXCLUSIVE":
            theirs.rollback()

    ours.set_trace_callback(make_way)
    _use_log(ours)

    assert ours.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


async def test_a_new_file_is_not_waited_for_for_ever(
    fresh: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """However many others come and go."""
    ours, theirs = fresh

    def hinder(text: str) -> None:
        if text == "BEGIN EXCLUSIVE":
            theirs.rollback()
        elif text.startswith("PRAGMA"):
            theirs.execute("BEGIN")
            theirs.execute("SELECT * FROM cats").fetchall()

    ours.set_trace_callback(hinder)
    with pytest.raises(StoreUnavailable, match="too many others"):
        _use_log(ours)


async def test_a_file_that_stays_locked_is_unavailable(place: SqlitePlace) -> None:
    """Already when it is opened."""
    with _another(place) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        store = SqliteStore(place.path, PATIENCE_S)
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.prepare([ACME])
        connection.execute("ROLLBACK")
        await store.prepare([ACME])
        await store.close()
