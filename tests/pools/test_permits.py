"""Permissions to probe: of several processes on one store, one at a time tries."""

import asyncio
from collections.abc import Callable, Iterator
from random import Random

import pytest
from msgspec.structs import replace

from keymux.core.faults import (
    AllThrottled,
    BadGateway,
    KeySpent,
    KeyThrottled,
    ModelNotPermitted,
    NoneReady,
    UpstreamFault,
)
from keymux.core.records import KeyRecord, KeyState
from keymux.pools.budget import Turn
from keymux.pools.permits import CLAIM_S, PERMIT_S, Permits
from keymux.pools.persistence import Clocks, merge_key
from keymux.pools.pool import Lease
from tests.pools.rig import MODEL, OTHER_MODEL, Clock, Steady, World, run, settle, spawn, step

LONG_S = 7 * 3600.0


class Desk:
    """The claims of a store.

    Attributes:
        asked: scope and owner of everything that was asked.
        is_away: whether the store says nothing.
        takes_s: how long it takes to answer.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self.asked: list[tuple[str, str]] = []
        self.is_away = False
        self.takes_s = 0.0

    async def claim(self, scope: str, owner: str, seconds: float) -> bool | None:
        """See `keymux.stores.port.Claims`."""
        await asyncio.sleep(self.takes_s)
        self.asked.append((scope, owner))
        if self.is_away:
            return None
        holder, until = self._held.get(scope, (owner, 0.0))
        if holder != owner and until > self._clock():
            return False
        self._held[scope] = owner, self._clock() + seconds
        return True

    def scopes(self) -> set[str]:
        """What was asked for."""
        return {scope for scope, _ in self.asked}


class Site:
    """Two processes with the same keys and one store."""

    def __init__(self, *keys: str, group: str = "", luck: Random | None = None) -> None:
        self.clock = Clock()
        self.desk = Desk(self.clock)
        self.ours, self.theirs = (self._process(name, luck or Steady()) for name in ("us", "them"))
        for world in self:
            for key in keys:
                world.pool.add(key, f"secret-{key}", group=group)

    def _process(self, owner: str, luck: Random) -> World:
        permits = Permits(self.desk, owner, self.clock, luck, spawn)
        return World(clock=self.clock, permits=permits)

    def __iter__(self) -> Iterator[World]:
        return iter((self.ours, self.theirs))

    def hit(self, fault: UpstreamFault) -> None:
        """Both learn of the same fault, by one request each."""
        for world in self:
            world.hit(fault)

    async def both(self) -> tuple[Lease | BaseException, Lease | BaseException]:
        """A request at each, at the same moment."""
        waits = (world.wait() for world in self)
        ours, theirs = await asyncio.gather(*waits, return_exceptions=True)
        return ours, theirs


def cooled(*keys: str, told: float = 10.0, group: str = "") -> Site:
    """A site whose keys were throttled, and could be tried now."""
    site = Site(*keys, group=group)
    site.hit(KeyThrottled(told=told))
    site.clock.pass_s(told)
    return site


# -- one at a time ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "scope"),
    [
        pytest.param(KeyThrottled(told=10.0), f"acme/group/key:a/{MODEL}", id="a quota group"),
        pytest.param(KeySpent(told=10.0), "acme/key/a", id="a key"),
        pytest.param(ModelNotPermitted(), f"acme/key/a/{MODEL}", id="a key for one model"),
        pytest.param(BadGateway(told=10.0), "acme", id="the provider"),
    ],
)
def test_of_two_processes_one_probes(fault: UpstreamFault, scope: str) -> None:
    """Both wait for the same; one gets a lease at once, the other one none at all."""
    site = Site("a")
    site.hit(fault)
    site.clock.pass_s(LONG_S)
    start = site.clock()
    ours, theirs = run(site.both(), site.clock)

    assert isinstance(ours, Lease)
    assert isinstance(theirs, NoneReady)
    assert site.ours.waits == [0.0]
    assert site.clock() - start <= 2.0
    assert site.desk.scopes() == {scope}


def test_a_named_group_is_one_scope() -> None:
    """Two keys of a group that is over its rate are not probed by two processes."""
    site = cooled("a", "b", group="team")
    ours, theirs = run(site.both(), site.clock)

    assert isinstance(ours, Lease)
    assert isinstance(theirs, AllThrottled)
    assert site.desk.scopes() == {f"acme/group/team/{MODEL}"}


def test_scopes_are_probed_apart() -> None:
    """Whoever probes one key does not keep others from another."""
    site = Site("a")
    site.theirs.pool.add("b", "secret-b")
    site.hit(KeySpent(told=10.0))
    site.theirs.hit(KeySpent(told=10.0), key="b")
    site.clock.pass_s(10.0)
    ours, theirs = run(site.both(), site.clock)

    assert [lease.key.id for lease in (ours, theirs) if isinstance(lease, Lease)] == ["a", "b"]


def test_a_request_with_another_key_does_not_wait() -> None:
    """The permission is asked for beside the request, which takes the key that is ready."""
    site = Site("a", "b")
    site.ours.hit(KeyThrottled(told=10.0), key="a")
    site.clock.pass_s(10.0)

    async def work() -> list[str]:
        site.desk.takes_s = 0.5
        first = [site.ours.serve() for _ in range(3)]
        await asyncio.sleep(0.6)
        return [*first, site.ours.serve(), site.ours.serve()]

    assert run(work(), site.clock) == ["b", "b", "b", "b", "a"]


def test_without_a_request_nothing_is_asked() -> None:
    """A cooldown that ends where nobody wants anything costs the store nothing."""
    site = cooled("a")
    run(asyncio.sleep(60.0), site.clock)

    assert site.desk.asked == []


@pytest.mark.parametrize(
    ("fault", "only_key"),
    [
        pytest.param(KeyThrottled(told=10.0), "a", id="a request that wants this very key"),
        pytest.param(BadGateway(told=10.0), None, id="a request that goes to another provider"),
    ],
)
def test_requests_that_do_not_wait_ask_too(fault: UpstreamFault, only_key: str | None) -> None:
    """Whoever finds something due sees to a permission, once, for whoever comes next."""
    site = Site("a")
    site.hit(fault)
    site.clock.pass_s(LONG_S)

    async def work() -> Lease | None:
        for _ in range(5):
            assert site.ours.take(only_key=only_key) is None
        await settle()
        return site.ours.take(only_key=only_key)

    assert isinstance(run(work(), site.clock), Lease)
    assert len(site.desk.asked) == 1


# -- for how long ----------------------------------------------------------------------------------
def _held_while(hold: Callable[[Site], None], seconds: float) -> tuple[Site, float]:
    """One process probes; gives the time at which the other could first do so."""
    site = cooled("a")

    async def work() -> float:
        lease = await site.ours.wait()
        start = site.clock()
        hold(site)
        while True:
            try:
                await site.theirs.wait()
            except NoneReady:
                if site.clock() - start < seconds:
                    continue
                site.ours.leasing.give_back(lease, None)
                raise
            return site.clock() - start

    try:
        return site, run(work(), site.clock)
    except NoneReady:
        return site, -1.0


def test_a_long_probe_is_not_joined() -> None:
    """A first event may take minutes; until it is there nobody else tries."""
    site, joined_after = _held_while(lambda _: None, 120.0)

    assert joined_after == -1.0
    assert site.desk.asked.count((f"acme/group/key:a/{MODEL}", "us")) >= 120 / CLAIM_S


def test_what_a_dead_process_held_ends() -> None:
    """T03: a process that is gone keeps nobody waiting for more than fifteen seconds."""

    def die(site: Site) -> None:
        for task in asyncio.all_tasks():
            if "Permits" in repr(task.get_coro()):
                task.cancel()
        assert site.desk.asked

    _, joined_after = _held_while(die, 120.0)

    assert 0 < joined_after <= CLAIM_S + 1.0


def test_a_claim_is_not_given_back_early() -> None:
    """Between the end of a probe and the news of it nobody else tries."""
    site = cooled("a")

    async def work() -> float:
        lease = await site.ours.wait()
        ended = site.clock()
        site.ours.succeed(lease)
        while site.clock() < ended + 1.0:
            assert site.theirs.take() is None
            await asyncio.sleep(0.05)
        return ended

    run(work(), site.clock)

    assert site.ours.take() is not None


def test_a_permission_ends() -> None:
    """A process that got one and had no use for it asks again, before its claim has ended."""
    site = cooled("a")

    async def work() -> list[tuple[str, str]]:
        site.ours.take()
        await asyncio.sleep(PERMIT_S + 0.1)
        assert site.ours.take() is None
        await settle()
        assert site.ours.take() is not None
        return site.desk.asked

    assert len(run(work(), site.clock)) == 2
    assert PERMIT_S < CLAIM_S - 2.0


def test_a_probe_that_found_nothing_out_may_be_repeated() -> None:
    """A client that left says nothing about the key; the same permission serves the next one."""
    site = cooled("a")

    async def work() -> Lease | None:
        lease = await site.ours.wait()
        site.ours.leasing.give_back(lease, None)
        return site.ours.take()

    assert isinstance(run(work(), site.clock), Lease)
    assert len(site.desk.asked) == 1


def test_a_failed_probe_takes_the_permission_away() -> None:
    """After another cooldown it is asked for anew."""
    site = cooled("a")

    async def work() -> Lease | None:
        site.ours.leasing.give_back(await site.ours.wait(), KeyThrottled(told=3.0))
        site.clock.pass_s(3.0)
        return site.ours.take()

    assert run(work(), site.clock) is None


def test_a_permission_that_comes_too_late_is_none() -> None:
    """What was asked before another cooldown began does not count when that is over."""
    site = cooled("a")
    gate = site.ours.pool.keys["a"].group.models[MODEL]

    async def work() -> Lease | None:
        site.desk.takes_s = 0.5
        site.ours.take()
        until = site.clock() + 3.0
        gate.change(replace(gate.condition, until=until, generation=9))
        await asyncio.sleep(3.0)
        return site.ours.take()

    assert run(work(), site.clock) is None


def test_who_was_refused_asks_about_once_a_second() -> None:
    """While another process probes, a request every few milliseconds costs the store no more."""
    site = cooled("a")

    async def work() -> None:
        await site.ours.wait()
        for _ in range(1000):
            assert site.theirs.take() is None
            await asyncio.sleep(0.01)

    run(work(), site.clock)

    assert 7 <= sum(owner == "them" for _, owner in site.desk.asked) <= 14


# -- what others wait for --------------------------------------------------------------------------
def test_other_models_are_not_kept_waiting() -> None:
    """A permission that is asked for one model gives no hope to requests for another."""
    site = cooled("a")
    for world in site:
        world.hit(KeyThrottled(told=500.0), model=OTHER_MODEL)

    async def work() -> float:
        site.desk.takes_s = 0.5
        site.ours.take()
        start = site.clock()
        with pytest.raises(AllThrottled):
            await site.ours.leasing.lease_later([step(OTHER_MODEL)], Turn.FIRST, OTHER_MODEL, 600.0)
        return site.clock() - start

    assert run(work(), site.clock) == 0.0


def test_news_end_the_wait() -> None:
    """Who waits while another process probes goes on as soon as it is heard how that went."""
    site = cooled("a")
    clocks = Clocks(site.clock, lambda: 0)

    async def work() -> float:
        lease = await site.ours.wait()
        waiting = spawn(site.theirs.wait())
        start = site.clock()
        await asyncio.sleep(0.3)
        site.ours.succeed(lease)
        merge_key(site.theirs.pool, KeyRecord("a", "s", KeyState(generation=9)), clocks)
        await waiting
        return round(site.clock() - start, 3)

    assert run(work(), site.clock) == 0.3


# -- without a store -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("away", "takes_s"),
    [
        pytest.param(True, 0.0, id="it says so at once"),
        pytest.param(False, 600.0, id="it does not answer"),
    ],
)
@pytest.mark.parametrize("seed", range(5), ids=lambda seed: f"luck {seed}")
def test_without_a_store_each_decides_alone(away: bool, takes_s: float, seed: int) -> None:  # noqa: FBT001 -- a parameter
    """D02: a database that is away costs no client its answer, only up to two seconds."""
    site = Site("a", luck=Random(seed))  # noqa: S311 -- moments
    site.hit(KeyThrottled(told=10.0))
    site.clock.pass_s(10.0)
    site.desk.is_away, site.desk.takes_s = away, takes_s
    start = site.clock()
    leases = run(site.both(), site.clock)

    assert all(isinstance(lease, Lease) for lease in leases)
    assert site.clock() - start <= 2.0
    assert site.ours.waits != site.theirs.waits
