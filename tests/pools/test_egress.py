"""Which way a key goes, and that it goes no other."""

import asyncio

import pytest

from keymux.core.egress import BindingRecord, ProxyAddress, ProxyRecord, ProxyType
from keymux.core.faults import (
    AllThrottled,
    EgressDown,
    EgressFailed,
    EgressRefused,
    KeyThrottled,
    NoneReady,
    PolicyBlocked,
)
from keymux.core.health import Status
from keymux.pools.budget import Turn
from keymux.pools.exit_health import Check
from keymux.pools.pool import Lease
from tests.pools.rig import MODEL, World, run, step

MANY = 1000


def proxy(name: str, *, active: bool = True, port: int = 1080) -> ProxyRecord:
    """A proxy called like its id."""
    address = ProxyAddress(ProxyType.SOCKS5, f"{name}.example", port, "user", "secret-word")
    return ProxyRecord(name, name, address, is_active=active)


def binding(key: str, name: str, priority: int = 1, *, active: bool = True) -> BindingRecord:
    """A key bound to a proxy."""
    return BindingRecord(f"{key}-{name}", name, key, priority, active)


def bound(**keys: list[tuple[str, int]]) -> World:
    """A world in which keys are bound to proxies with these priorities."""
    world = World(list(keys))
    for name in sorted({name for ways in keys.values() for name, _ in ways}):
        world.pool.ways.put_proxy(proxy(name))
    for key, ways in keys.items():
        world.pool.bind(key, [binding(key, name, priority) for name, priority in ways])
    return world


def used(lease: Lease) -> str:
    """The key and the way of a lease, which is given back."""
    lease.pool.give_back(lease)
    return f"{lease.key.id} by {lease.exit.name}"


def uses(world: World, times: int) -> list[str]:
    """What the next leases would use."""
    return [used(world.must_take()) for _ in range(times)]


def reopen(world: World, name: str) -> None:
    """A check finds an exit well."""
    way = world.pool.ways.by_proxy[name]
    world.exits.checked(world.pool, way, Check(way.gate.condition.generation, latency_s=0.01))


# -- choice ----------------------------------------------------------------------------------------
def test_a_key_without_bindings_goes_directly() -> None:
    """There may be proxies all the same."""
    world = bound(a=[])
    world.pool.ways.put_proxy(proxy("p"))

    assert uses(world, 2) == ["a by direct"] * 2


def test_bound_keys_take_turns_each_by_its_own_way() -> None:
    """Never by another key's proxy, never directly."""
    world = bound(a=[("p", 1)], b=[("q", 1)], c=[])

    assert uses(world, 6) == ["a by p", "b by q", "c by direct"] * 2


def test_the_lowest_priority_goes_first_and_equal_ones_take_turns() -> None:
    """However they were written down."""
    world = bound(a=[("z", 9), ("p", 2), ("q", 2)])

    assert uses(world, 4) == ["a by p", "a by q", "a by p", "a by q"]


def test_a_proxy_that_is_down_is_skipped_until_it_is_back() -> None:
    """The next binding serves meanwhile."""
    world = bound(a=[("p", 1), ("q", 2)])
    world.hit(EgressFailed())
    meanwhile = uses(world, 2)
    reopen(world, "p")

    assert (meanwhile, uses(world, 1)) == (["a by q"] * 2, ["a by p"])


def test_what_a_provider_blocked_is_not_answered_with_the_next_binding() -> None:
    """It refuses those who come this way: no other way is tried, until an operator says so."""
    world = bound(a=[("p", 1), ("q", 2)], b=[("q", 1)])
    world.hit(PolicyBlocked(), key="a")
    world.clock.pass_s(1_000_000)

    assert uses(world, 3) == ["b by q"] * 3
    assert world.pool.keys["a"].gate.condition.is_healthy


def test_a_proxy_that_refuses_the_credentials_is_left_for_the_next_binding() -> None:
    """That is our mistake, not the provider's word."""
    world = bound(a=[("p", 1), ("q", 2)])
    world.hit(EgressRefused())
    world.clock.pass_s(1_000_000)
    way = world.pool.ways.by_proxy["p"]

    assert uses(world, 1) == ["a by q"]
    assert (way.is_misconfigured, way.gate.condition.until) == (True, None)


def test_ways_that_failed_are_avoided() -> None:
    """Also when they are well again by the time."""
    world = bound(a=[("p", 1), ("q", 1), ("r", 2)])
    lease = world.must_take(only_key="a", avoid_egresses=frozenset({"p", "q"}))
    none = world.take(only_key="a", avoid_egresses=frozenset({"p", "q", "r"}))

    assert (lease.exit.name, none) == ("r", None)


# -- nothing goes directly -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ways: ways.put_proxy(proxy("p", active=False)), id="disabled"),
        pytest.param(lambda ways: ways.drop_proxy("p"), id="gone"),
        pytest.param(lambda ways: ways.configure(required=False, is_plain=True), id="no TLS"),
    ],
)
def test_a_bound_key_does_not_go_directly(change: object) -> None:
    """Whatever an operator does to its proxy: the key waits until that is taken back."""
    world = bound(a=[("p", 1)])
    change(world.pool.ways)  # type: ignore[operator]  # -- a function of the cases
    kept = world.take()
    world.pool.ways.configure(required=False, is_plain=False)
    world.pool.ways.put_proxy(proxy("p"))

    assert kept is None
    assert uses(world, 1) == ["a by p"]


def test_a_key_whose_bindings_are_all_inactive_is_bound() -> None:
    """It has none that can be used, and does not go directly."""
    world = bound(a=[("p", 1)])
    world.pool.bind("a", [binding("a", "p", active=False)])

    assert world.take() is None


def test_a_binding_to_a_proxy_that_is_not_known_keeps_the_key() -> None:
    """Until the proxy is there."""
    world = World(["a"])
    world.pool.bind("a", [binding("a", "p")])
    before = world.take()
    world.pool.ways.put_proxy(proxy("p"))

    assert before is None
    assert uses(world, 1) == ["a by p"]


def test_a_key_that_joins_later_is_bound_from_the_first_moment() -> None:
    """Its bindings are known before it is."""
    world = World([])
    world.pool.bind("a", [binding("a", "p")])
    world.pool.add("a", "secret")

    assert world.take() is None


def test_keys_without_bindings_are_not_used_where_proxies_are_required() -> None:
    """Until the operator allows it again."""
    world = bound(a=[], b=[("p", 1)])
    world.pool.ways.configure(required=True, is_plain=False)
    strict = uses(world, 2)
    world.pool.ways.configure(required=False, is_plain=False)

    assert strict == ["b by p"] * 2
    assert sorted(uses(world, 2)) == ["a by direct", "b by p"]


def test_an_unbound_key_goes_directly() -> None:
    """When an operator has removed its last binding."""
    world = bound(a=[("p", 1)])
    world.hit(EgressFailed())
    world.pool.bind("a", [])

    assert uses(world, 1) == ["a by direct"]


def test_leases_run_on_by_the_way_they_were_given() -> None:
    """A new binding is for new leases."""
    world = bound(a=[("p", 1)], b=[("q", 1)])
    lease = world.must_take(only_key="a")
    world.pool.bind("a", [binding("a", "q")])
    world.fail(lease, EgressFailed())

    assert lease.exit.name == "p"
    assert not world.pool.ways.by_proxy["p"].is_open
    assert sorted(uses(world, 2)) == ["a by q", "b by q"]


# -- failures --------------------------------------------------------------------------------------
def test_an_egress_that_fails_says_nothing_of_the_key() -> None:
    """Nor of the provider, nor of other proxies."""
    world = bound(a=[("p", 1)], b=[("q", 1)])
    world.hit(EgressFailed(reason="refused"), key="a")

    assert world.pool.keys["a"].gate.condition.is_healthy
    assert world.pool.gate.condition.is_healthy
    assert world.changes == []
    assert [(one.exit.name, one.reason) for one in world.exit_changes] == [("p", "refused")]
    assert uses(world, 2) == ["b by q"] * 2


def test_all_keys_of_a_proxy_wait_for_it() -> None:
    """And all of them come back with it."""
    keys = [f"k{number}" for number in range(5)]
    world = bound(**{key: [("p", 1)] for key in keys})
    world.hit(EgressFailed())
    kept = world.take()
    reopen(world, "p")

    assert kept is None
    assert sorted(uses(world, 5)) == [f"{key} by p" for key in keys]


def test_a_key_that_is_removed_waits_for_nothing() -> None:
    """Its proxy forgets it."""
    world = bound(a=[("p", 1)], b=[])
    world.hit(EgressFailed(), key="a")
    world.take()
    world.pool.remove("a")
    world.pool.bind("a", [])
    world.pool.ways.drop_proxy("p")

    assert (world.pool.ways.by_proxy, world.pool.ways.bindings) == ({}, {})


def test_keys_are_looked_at_once_however_many_wait() -> None:
    """A thousand keys of a dead proxy cost the next request nothing."""
    world = bound(**{f"k{number}": [("p", 1)] for number in range(MANY)})
    world.hit(EgressFailed())
    world.take()

    assert len(world.pool.ways.by_proxy["p"].waiting) == MANY
    assert len(world.pool._lanes._by_model[MODEL]) == 0


# -- what waiting requests hear --------------------------------------------------------------------
async def _refused(world: World) -> NoneReady:
    with pytest.raises(NoneReady) as refusal:
        await world.leasing.lease_later([step()], Turn.FIRST, MODEL, 600.0)
    return refusal.value


def test_the_way_out_is_named_when_it_is_all_that_keeps_the_keys() -> None:
    """And when it is checked next."""
    world = bound(a=[("p", 1)])
    world.hit(EgressFailed())
    world.clock.pass_s(0.1)
    refusal = run(_refused(world), world.clock)

    assert type(refusal) is EgressDown
    assert 0 < (refusal.retry_after or 0) <= 5


def test_a_cooldown_is_named_before_the_way_out() -> None:
    """There is an end to it that can be told."""
    world = bound(a=[("p", 1)], b=[])
    world.hit(EgressFailed(), key="a")
    world.hit(KeyThrottled(), key="b")
    refusal = run(_refused(world), world.clock)

    assert type(refusal) is AllThrottled


def test_a_request_waits_for_a_proxy_that_is_being_checked() -> None:
    """It is served as soon as that is found well."""
    world = bound(a=[("p", 1)])
    world.hit(EgressFailed())
    world.clock.pass_s(60)

    async def back_soon() -> str:
        asyncio.get_running_loop().call_later(1.0, reopen, world, "p")
        return used(await world.leasing.lease_later([step()], Turn.FIRST, MODEL, 600.0))

    assert run(back_soon(), world.clock) == "a by p"


def test_where_proxies_are_required_and_no_key_has_one_that_is_said() -> None:
    """Nobody waits for it."""
    world = World(["a"])
    world.pool.ways.configure(required=True, is_plain=False)
    begun = world.clock()
    refusal = run(_refused(world), world.clock)

    assert (type(refusal), world.clock()) == (EgressDown, begun)


# -- proxies that change ---------------------------------------------------------------------------
def test_another_address_is_another_way() -> None:
    """No connection to the old one is used again."""
    world = bound(a=[("p", 1)])
    before = world.must_take().exit.way
    world.pool.ways.put_proxy(proxy("p"))
    same = world.must_take().exit.way
    world.pool.ways.put_proxy(proxy("p", port=1081))
    after = world.must_take().exit.way

    assert before == same != after


def test_nothing_shows_the_credentials() -> None:
    """Whoever prints an exit or what it came from."""
    record = proxy("p")
    way = World().pool.ways.put_proxy(record)

    assert "secret-word" not in f"{way!r} {record!r} {record.address!r} {record.address.shown}"
    assert (way.gate.condition.status, record.address.shown) == (
        Status.HEALTHY,
        "socks5://***@p.example:1080",
    )
