"""Who checks which exit, when, and how many at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from keymux.checking import AT_ONCE, Checker
from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyType
from keymux.core.faults import EgressFailed, EgressRefused, PolicyBlocked
from keymux.core.health import Condition
from keymux.pools.egress import Exit
from keymux.pools.exit_health import Check
from keymux.pools.pool import Pool
from keymux.upstream.tunnel import Plan, Target
from tests.egress.certificates import Authority
from tests.egress.scripted import Ending, Part, Point, ScriptedProxy, replying
from tests.pools.rig import PROVIDER, World
from tests.upstream.raw_server import served

pytestmark = pytest.mark.anyio
SOON_S = 5.0


@pytest.fixture
def anyio_backend() -> str:
    """The loop of the gateway."""
    return "asyncio"


class Seats:
    """Claims of a store that may be away."""

    def __init__(self, granted: bool | None = True) -> None:  # noqa: FBT001, FBT002 -- the answer
        self.granted = granted
        self.asked: list[str] = []

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        """See `Claims.claim`."""
        self.asked.append(owner)
        return self.granted


class Watchtower:
    """A checker over some worlds, and what it has found."""

    def __init__(self, pools: Sequence[Pool], target: Target | None, seats: Seats) -> None:
        self.found: list[tuple[str, str, bool]] = []
        self.results: asyncio.Queue[Check] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        targets = {pool.name: target for pool in pools} if target else {}
        self.checker = Checker(
            {pool.name: pool for pool in pools},
            Plan(targets, every_s=0.1, within_s=0.5),
            self._take,
            claims=seats,
            owner="host:1",
            clock=time.monotonic,
            luck=Random(1),  # noqa: S311 -- spreads checks
            spawn=self.spawn,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _take(self, pool: Pool, way: Exit, found: Check) -> None:
        self.found.append((f"{pool.name}/{way.name}", found.problem, found.is_refusal))
        self.results.put_nowait(found)

    async def next(self) -> Check:
        """What the next check finds."""
        return await asyncio.wait_for(self.results.get(), SOON_S)


@asynccontextmanager
async def watching(
    pools: Sequence[Pool], target: Target | None, seats: Seats | None = None
) -> AsyncIterator[Watchtower]:
    """A checker at work."""
    tower = Watchtower(pools, target, seats or Seats())
    tower.spawn(tower.checker.run())
    try:
        yield tower
    finally:
        tasks = tuple(tower.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[Target]:
    """A TLS server that is never asked for anything."""
    authority = Authority(folder)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"", "a check must not send a request"

    async with served(play, tls=authority.server("127.0.0.1")) as port:
        yield Target("127.0.0.1", port, tls=True, ca_file=str(authority.ca_file))


def world_with(address: ProxyAddress, *, is_bound: bool = True) -> World:
    """A key, bound to a proxy at an address, or only beside it."""
    world = World(["a"])
    world.pool.ways.put_proxy(ProxyRecord("p", "p", address))
    if is_bound:
        world.pool.bind("a", [BindingRecord("b", "p", "a")])
    return world


async def test_a_check_reaches_the_provider_and_asks_for_nothing(tmp_path: Path) -> None:
    """A handshake with the provider's own certificate, again and again."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            world = world_with(proxy.address())
            async with watching([world.pool], target) as tower:
                found = [await tower.next() for _ in range(3)]

    assert [one.problem for one in found] == [""] * 3
    assert all(one.latency_s and one.latency_s < 0.5 for one in found)


@pytest.mark.parametrize(
    ("part", "words", "is_refusal"),
    [
        pytest.param(
            replying(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n", Ending.CLOSE),
            "credentials",
            True,
            id="refused",
        ),
        pytest.param(
            replying(b"HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n", Ending.CLOSE),
            "502",
            False,
            id="no way to the provider",
        ),
        pytest.param(Part(ends=(Point.REPLY, Ending.STALL)), "timed out", False, id="silent"),
    ],
)
async def test_what_is_wrong_is_told(
    tmp_path: Path,
    part: Part,
    words: str,
    is_refusal: bool,  # noqa: FBT001 -- a case
) -> None:
    """In words, and whether only an operator can help."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        proxy.part = part
        async with upstream(tmp_path) as target:
            world = world_with(proxy.address())
            async with watching([world.pool], target) as tower:
                found = await tower.next()

    assert words in found.problem
    assert (found.is_refusal, found.latency_s) == (is_refusal, None)


async def test_a_closed_exit_is_checked_when_its_time_has_come(tmp_path: Path) -> None:
    """Not on the schedule of those that are well."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            world = world_with(proxy.address())
            world.hit(EgressFailed())
            way = world.pool.ways.by_proxy["p"]
            due = time.monotonic() + 0.6
            way.gate.change(replace(way.gate.condition, until=due))
            async with watching([world.pool], target) as tower:
                found = await tower.next()

    assert found.generation == way.gate.condition.generation
    assert time.monotonic() >= due


@pytest.mark.parametrize(
    "fault", [EgressRefused(), PolicyBlocked()], ids=["credentials refused", "blocked"]
)
async def test_what_waits_for_an_operator_is_not_checked(
    tmp_path: Path, fault: EgressRefused | PolicyBlocked
) -> None:
    """Until the operator has acted; then it is, at once."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            world = world_with(proxy.address())
            world.hit(fault)
            way = world.pool.ways.by_proxy["p"]
            async with watching([world.pool], target) as tower:
                await asyncio.sleep(1.0)
                before = list(tower.found)
                way.gate.change(Condition(generation=way.gate.condition.generation + 1))
                found = await tower.next()

    assert (before, found.problem) == ([], "")


async def test_one_process_checks_for_all(tmp_path: Path) -> None:
    """The others do when something was lost on the way, and when it is their turn."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            world, seats = world_with(proxy.address()), Seats(granted=False)
            async with watching([world.pool], target, seats) as tower:
                await asyncio.sleep(1.0)
                before = list(tower.found)
                tower.checker.look(world.pool, world.pool.ways.by_proxy["p"])
                await tower.next()

    assert (before, seats.asked) == ([], ["host:1"])


async def test_without_a_store_everybody_checks(tmp_path: Path) -> None:
    """An exit that nobody looks at would stay closed."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            world = world_with(proxy.address())
            async with watching([world.pool], target, Seats(granted=None)) as tower:
                found = await tower.next()

    assert found.problem == ""


async def test_a_proxy_is_checked_for_the_providers_that_keys_are_bound_for(tmp_path: Path) -> None:
    """A spare proxy is checked for all."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        async with upstream(tmp_path) as target:
            bound, spare = world_with(proxy.address()), world_with(proxy.address(), is_bound=False)
            spare.pool.name = "other"
            async with watching([bound.pool, spare.pool], target) as tower:
                for _ in range(4):
                    await tower.next()
                some = {name for name, *_ in tower.found}
                bound.pool.bind("a", [])
                while {name for name, *_ in tower.found} == some:
                    await tower.next()

    assert some == {f"{PROVIDER}/p"}
    assert {name for name, *_ in tower.found} == {f"{PROVIDER}/p", "other/p"}


async def test_a_provider_without_a_target_is_not_checked(tmp_path: Path) -> None:
    """Such as one that is spoken to without TLS."""
    with ScriptedProxy(ProxyType.HTTP) as proxy:
        world = world_with(proxy.address())
        async with watching([world.pool], None) as tower:
            await asyncio.sleep(0.8)
            tower.checker.look(world.pool, world.pool.ways.by_proxy["p"])
            await asyncio.sleep(0.1)

    assert tower.found == []


async def test_no_more_than_32_at_once() -> None:
    """However many proxies are due."""
    open_now, most = 0, 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await reader.read()
        open_now -= 1

    async with served(play) as port:
        world = World(["a"])
        for number in range(3 * AT_ONCE):
            address = ProxyAddress(ProxyType.SOCKS5, "127.0.0.1", port, f"user-{number}", "x")
            way = world.pool.ways.put_proxy(ProxyRecord(f"p{number}", f"p{number}", address))
            assert way.is_open
        target = Target("127.0.0.1", 1, tls=False)
        async with watching([world.pool], target) as tower:
            for way in world.pool.ways.by_proxy.values():
                tower.checker.look(world.pool, way)
                tower.checker.look(world.pool, way)
            for _ in range(3 * AT_ONCE):
                await tower.next()

    assert most == AT_ONCE
    assert len({name for name, *_ in tower.found}) == 3 * AT_ONCE
