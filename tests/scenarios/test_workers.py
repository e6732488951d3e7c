"""Several workers of one host: they share a port, and each may die without the others noticing."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keymux.core.records import ExchangeRow, Outcome
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.behaviours import Slow
from tests.scenarios.hosts import STORES, WAYS, Host, database, hosts, markers
from tests.scenarios.rig import IS_LONG, Keys, config_of, key_id, pause
from tests.scenarios.wire import OPENAI_PATH, Connection, chat, get, post

KILLS = 30 if IS_LONG else 12
CLIENTS = 8
BACK_WITHIN_S = 15.0
KEYS = [f"sk-key-{n}" for n in range(4)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxChild]:
    """The upstream, in a process of its own."""
    with SandboxChild() as running:
        for key in KEYS:
            running.behave(key, Slow(0.02, 0.0))
        yield running


@pytest.fixture
def host(sandbox: SandboxChild, tmp_path: Path) -> Iterator[Host]:
    """A host with two workers."""
    config = config_of({"openhands": sandbox.url("openhands")}, workers=2)
    address = f"sqlite:///{tmp_path / 'shared.db'}"
    with hosts(tmp_path, 1, config, address, {"openhands": Keys(KEYS)}) as (running,):
        yield running


@pytest.fixture(params=STORES)
def either_host(
    request: pytest.FixtureRequest, sandbox: SandboxChild, tmp_path: Path
) -> Iterator[Host]:
    """The same on each kind of store; the upstream has forgotten what it saw before."""
    sandbox.reset()
    for key in KEYS:
        sandbox.behave(key, Slow(0.02, 0.0))
    config = config_of({"openhands": sandbox.url("openhands")}, workers=2)
    with (
        database(request.param, tmp_path) as address,
        hosts(tmp_path, 1, config, address, {"openhands": Keys(KEYS)}) as (running,),
    ):
        yield running


# -- whose connection it is ------------------------------------------------------------------------
def _connections() -> dict[str, int]:
    """The peer's port of every TCP connection of this machine, by inode."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {field[9]: int(field[2].rpartition(":")[2], 16) for field in fields}


def _ports_of(pid: int) -> set[int]:
    """The client's ports of the connections that a worker holds."""
    known, found = _connections(), set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inode = file.readlink().name.removeprefix("socket:[").removesuffix("]")
        except OSError:
            continue
        if inode in known:
            found.add(known[inode])
    return found


class Line(Connection):
    """A connection that knows its own port."""

    @property
    def port(self) -> int:
        """On the client's side."""
        return int(self._writer.get_extra_info("sockname")[1])


class Clients:
    """Clients that connect again when their connection breaks.

    Attributes:
        begun: ids of the answers of which at least the head came.
        settled: ids of those whose exchange was over, for the connection was used again.
        sent: markers of all requests.
        broken: ports of the connections that broke.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = count()
        self.begun: set[str] = set()
        self.settled: set[str] = set()
        self.broken: list[int] = []
        self.is_over = False

    async def run(self) -> None:
        """Ask until it is over."""
        while not self.is_over:
            try:
                ends = await asyncio.open_connection("127.0.0.1", self._port)
                async with Line(*ends) as line:
                    mine = line.port
                    if not await self._use(line):
                        self.broken.append(mine)
            except ConnectionError:
                await asyncio.sleep(0.01)

    async def _use(self, connection: Connection) -> bool:
        """Ask on a connection until it is over or breaks, which gives False."""
        last = ""
        while not self.is_over:
            number = next(self._numbers)
            path, stream = WAYS[number % len(WAYS)]
            try:
                await connection.ask(path, chat(f"marker:n{number}", stream=stream))
            except ConnectionError:
                return False
            response = await connection.answer()
            if response.status:
                assert response.status == 200
                assert markers(response.body) <= {f"marker:n{number}"}
                self.begun.add(response.headers["x-keymux-request-id"])
                self.settled |= {last} - {""}
            if not response.complete:
                return False
            last = response.headers["x-keymux-request-id"]
        return True


async def _killing(host: Host, clients: Clients) -> list[set[int]]:
    """Kills under load; gives whose connections lived on each time."""
    luck = Random(20261123)  # noqa: S311 -- moments
    spared = []
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(clients.run())
        for _ in range(KILLS):
            await asyncio.sleep(luck.uniform(0.2, 0.9))
            victim, *others = luck.sample(host.workers(), 2)
            before = len(clients.broken)
            spared.append(_ports_of(others[0]) - _ports_of(victim))
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.1)
            assert not spared[-1] & set(clients.broken[before:])
            await asyncio.to_thread(_wait_for_two, host)
        clients.is_over = True
    return spared


def _wait_for_two(host: Host) -> None:
    give_up = time.monotonic() + BACK_WITHIN_S
    while len(host.workers()) < 2 and time.monotonic() < give_up:
        pause(0.02)

    assert len(host.workers()) == 2


def _check_rows(rows: list[ExchangeRow], clients: Clients) -> None:
    by_id = {row.id: row for row in rows}

    assert len(rows) == len(by_id)
    assert clients.begun <= by_id.keys()
    assert {by_id[name].outcome for name in clients.settled} == {Outcome.OK}
    assert {row.outcome for row in rows} <= {Outcome.OK, Outcome.INTERRUPTED}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_workers_lose_nothing(either_host: Host, sandbox: SandboxChild) -> None:
    """T03: what they left is booked by their successors while the others go on undisturbed."""
    host = either_host
    clients = Clients(host.port)
    spared = asyncio.run(_killing(host, clients))
    killed_at = time.monotonic()
    while not clients.begun <= {row.id for row in host.rows()}:
        assert time.monotonic() < killed_at + BACK_WITHIN_S
        pause(0.2)
    assert host.stop() == 0
    rows = host.rows()
    attempts = Counter(attempt.key for row in rows for attempt in row.attempts)
    sent = Counter(key_id(one.key) for one in sandbox.seen)

    assert len(clients.settled) > 15 * KILLS
    assert sum(map(len, spared)) > KILLS
    _check_rows(rows, clients)
    begun_and_not_sent = attempts - sent  # killed in between
    assert not sent - attempts
    assert begun_and_not_sent.total() <= min(
        KILLS, sum(row.outcome is Outcome.INTERRUPTED for row in rows)
    )
    assert not list((host.folder / "journal").iterdir())


# -- what they share -------------------------------------------------------------------------------
def _figures(host: Host) -> dict[str, float]:
    """The samples of the metrics page without labels, and all requests."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(get(host.port, "/metrics").body.decode()):
        for sample in family.samples:
            if not sample.labels or family.name == "keymux_requests":
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_any_worker_shows_the_figures_of_all(host: Host) -> None:
    """Whichever worker is asked for metrics, all requests are counted, the dead's included."""
    for _ in range(20):
        assert post(host.port, OPENAI_PATH, chat()).status == 200
    pause(1.5)
    before = [_figures(host) for _ in range(6)]
    os.kill(host.workers()[0], signal.SIGKILL)
    pause(0.1)
    after = [_figures(host) for _ in range(6)]

    assert {page["keymux_requests_total"] for page in (*before, *after)} == {20}
    assert {page["keymux_workers"] for page in before} == {2}
    assert {page["keymux_ready"] for page in before} == {1}
    assert min(page["process_cpu_seconds_total"] for page in after) >= max(
        page["process_cpu_seconds_total"] for page in before
    )


def test_what_is_said_at_the_start_is_said_once(host: Host) -> None:
    """However many workers there are, one greeting."""
    assert host.said().count("keymux listens on") == 1
    assert len(host.workers()) == 2


def test_signals_reach_every_worker(host: Host) -> None:
    """All of them read the config again, and all end in order."""
    host.signal(signal.SIGHUP)
    pause(0.5)
    code = host.stop()
    events = Counter(line["event"] for line in host.log())

    assert code == 0
    assert events["config reloaded"] == events["draining"] == events["stopped"] == 2


def test_a_stop_in_the_middle_of_a_start_is_no_less_orderly(host: Host) -> None:
    """A worker that is told to stop before it has begun does so; nobody waits for it."""
    assert host.stop() == 0
    for seconds in (0.0, 0.02, 0.05):
        host.start()
        pause(seconds)

        assert host.stop(5.0) == 0


def test_a_new_worker_begins_with_what_its_siblings_have(host: Host) -> None:
    """A config that was read again holds for those that are started later, too."""
    text = host.config_path.read_text()
    host.config_path.write_text(text.replace('"claude-sonnet-4-5"', '"renamed"'))
    host.signal(signal.SIGHUP)
    pause(0.5)
    host.config_path.write_text("{")  # not read again
    for pid in host.workers():
        os.kill(pid, signal.SIGKILL)
    _wait_for_two(host)
    pause(1.0)

    assert post(host.port, OPENAI_PATH, chat(model="renamed")).status == 200
    assert post(host.port, OPENAI_PATH, chat()).status == 404


def test_a_server_without_any_worker_ends(host: Host) -> None:
    """When none can begin, the supervisor says so with its exit code, and another may try."""
    journal = host.folder / "journal"
    journal.rename(journal.with_name("away"))
    journal.write_text("no folder")
    for pid in host.workers():
        os.kill(pid, signal.SIGKILL)
    assert host.process is not None

    assert host.process.wait(20.0) == 1
    host.process = None
