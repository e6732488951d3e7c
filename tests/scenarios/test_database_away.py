"""A shared database that goes away under load: clients notice nothing, and every token is booked.

The outage lasts `OUTAGE_S`; a minute with `KEYMUX_TEST_LONG=1`, as `make test-long` sets it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.behaviours import Slow, Spent, Throttled
from tests.scenarios.hosts import Host, Load, hosts
from tests.scenarios.rig import IS_LONG, Keys, config_of, key_id, pause
from tests.scenarios.wire import get
from tests.stores.mongo.server import Server

OUTAGE_S = 60.0 if IS_LONG else 6.0
KILLS = 10 if IS_LONG else 3
BACK_WITHIN_S = 5.0
STEADY = [f"sk-steady-{n}" for n in range(4)]
THROTTLED, SPENT, SPARE = "sk-throttled", "sk-spent", "sk-spare"
KEYS = {"openhands": Keys([*STEADY, THROTTLED, SPENT], [SPARE])}


@pytest.fixture
def sandbox() -> Iterator[SandboxChild]:
    """The upstream, in a process of its own."""
    with SandboxChild() as running:
        for key in (*STEADY, THROTTLED, SPENT, SPARE):
            running.behave(key, Slow(0.02, 0.0))
        yield running


@pytest.fixture
def server() -> Iterator[Server]:
    """A database of one's own, with its files on the disk."""
    with TemporaryDirectory(prefix="keymux-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def host(server: Server, sandbox: SandboxChild, tmp_path: Path) -> Iterator[Host]:
    """A host with two workers on that database."""
    config = config_of(
        {"openhands": sandbox.url("openhands")}, workers=2, retry={"budget_floor": 10_000}
    )
    with hosts(tmp_path, 1, config, f"{server.uri}/shared", KEYS) as (running,):
        yield running


async def _under_load(host: Host, story: Callable[[], Awaitable[None]]) -> Load:
    """Tell a story while clients ask."""
    over = asyncio.Event()
    load = Load([host.port], clients=6, gap_s=0.02)
    running = asyncio.get_running_loop().create_task(load.run(over.is_set))
    try:
        await asyncio.sleep(1.0)
        await story()
        await asyncio.sleep(1.0)
    finally:
        over.set()
    await running
    return load


def _outbox(host: Host) -> int:
    """Entries of all workers that the store does not have."""
    page = get(host.port, "/metrics").body.decode()
    return int(float(page.split("\nkeymux_usage_outbox_depth ")[1].split("\n")[0]))


def _wait_until_written(host: Host, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while _outbox(host) > 50:  # those of the last moment, under load
        assert time.monotonic() < ends, f"{_outbox(host)} entries wait still"
        pause(0.1)


def _check_the_books(host: Host, sandbox: SandboxChild, load: Load) -> None:
    """No client saw an error; each answer has its row; the counters are what the upstream saw."""
    assert host.stop() == 0
    rows = host.rows()
    sent = Counter(key_id(one.key) for one in sandbox.seen)
    attempts = Counter(attempt.key for row in rows for attempt in row.attempts)
    stored = host.stored_keys()

    assert {answer.status for answer in load.answered} == {200}
    assert sorted(row.id for row in rows) == sorted(one.request_id for one in load.answered)
    assert {row.outcome for row in rows} == {Outcome.OK}
    assert attempts == sent
    assert {key: stored[key].requests_count for key in sent} == dict(sent)
    assert sum(key.tokens_used for key in stored.values()) == sum(row.usage.total for row in rows)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(180)
def test_an_outage_of_the_database(host: Host, server: Server, sandbox: SandboxChild) -> None:
    """D02: requests go on, a spent key is replaced when it is back, and all is booked by then."""

    async def story() -> None:
        server.kill()
        await asyncio.sleep(OUTAGE_S / 2)
        await asyncio.to_thread(sandbox.behave, SPENT, Spent())
        await asyncio.to_thread(sandbox.behave, THROTTLED, Throttled(1.0))
        await asyncio.sleep(OUTAGE_S / 4)
        await asyncio.to_thread(sandbox.behave, THROTTLED, Slow(0.02, 0.0))
        await asyncio.sleep(OUTAGE_S / 4)
        assert await asyncio.to_thread(_outbox, host) > 50
        assert (await asyncio.to_thread(get, host.port, "/livez")).status == 200
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(_wait_until_written, host, BACK_WITHIN_S)
        assert (await asyncio.to_thread(get, host.port, "/readyz")).status == 200
        await asyncio.sleep(2.0)

    load = asyncio.run(_under_load(host, story))
    (spare,) = host.stored_backups()

    assert (spare.is_used, spare.used_for) == (True, key_id(SPENT))
    assert key_id(SPARE) in {key_id(one.key) for one in sandbox.seen}
    _check_the_books(host, sandbox, load)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(180)
def test_a_database_that_is_killed_again_and_again(
    host: Host, server: Server, sandbox: SandboxChild
) -> None:
    """D13: whatever write was cut off, its outcome unknown, is repeated and counts once."""

    async def story() -> None:
        for number in range(KILLS):
            await asyncio.sleep(0.3 + 0.13 * number % 0.5)
            server.kill()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(_wait_until_written, host, 2 * BACK_WITHIN_S)

    load = asyncio.run(_under_load(host, story))

    _check_the_books(host, sandbox, load)
