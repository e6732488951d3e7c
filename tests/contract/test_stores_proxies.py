"""What every store promises of egress proxies; the promises are those of `keymux.stores.port`."""

import asyncio

import pytest
from msgspec.structs import replace

from keymux.core.egress import (
    ExitState,
    Observation,
    ProxyAddress,
    ProxyRecord,
    ProxyStatus,
    ProxyType,
)
from keymux.core.health import Status
from keymux.stores.port import NoSuchRecord, Store
from tests.contract.places import Place, opened
from tests.contract.records import ACME, NOON, OPERATOR, OTHER, actions_in, proxy

pytestmark = pytest.mark.anyio

DOWN = ExitState(Status.ERROR, NOON + 60_000, "refused", 1, 1)
UP = ExitState(generation=2)
REFUSED = ExitState(Status.QUARANTINED, None, "wrong password", 1, 1)
FULL = ProxyRecord(
    id="p1",
    name="way out",
    address=ProxyAddress(ProxyType.SOCKS5, "2001:db8::1", 1080, "ann", "pass:@/?ö"),
    is_active=False,
    exits={ACME: DOWN, OTHER: ExitState(generation=7)},
    last_latency_ms=12,
    last_checked_at=NOON + 1,
    last_error="refused",
    fail_count=3,
    created_at=NOON,
)


async def _only(store: Store) -> ProxyRecord:
    (found,) = await store.proxies.load()
    return found


# -- adding and reading ----------------------------------------------------------------------------
async def test_a_proxy_is_kept_as_it_is(store: Store) -> None:
    """With every field, also after the store was closed."""
    assert await store.proxies.add([FULL], OPERATOR) == ["p1"]
    assert await store.proxies.load() == [FULL]
    assert FULL.status is ProxyStatus.UNHEALTHY


async def test_proxies_come_oldest_first(store: Store) -> None:
    """And those of one moment by their id."""
    fresh = [proxy("c"), proxy("b", created_at=NOON - 1), proxy("a")]
    await store.proxies.add(fresh, OPERATOR)

    assert [record.id for record in await store.proxies.load()] == ["b", "a", "c"]


async def test_a_proxy_without_a_date_gets_one(store: Store) -> None:
    """That of now."""
    await store.proxies.add([proxy("p1", created_at=0)], OPERATOR)

    assert (await _only(store)).created_at > NOON


async def test_some_are_found_by_their_ids(store: Store) -> None:
    """Those that are there; nobody asks for none."""
    await store.proxies.add([proxy("p1"), proxy("p2"), proxy("p3")], OPERATOR)
    found = await store.proxies.find_some(["p3", "gone", "p1"])

    assert {record.id for record in found} == {"p1", "p3"}
    assert await store.proxies.find_some([]) == []


async def test_adding_is_audited(store: Store) -> None:
    """Once for each that was inserted."""
    await store.proxies.add([proxy("p1"), proxy("p2")], OPERATOR)
    await store.proxies.add([proxy("p1")], OPERATOR)

    assert await actions_in(store) == [("proxy.add", "p1"), ("proxy.add", "p2")]


def _at(host: str, **fields: object) -> ProxyAddress:
    return replace(ProxyAddress(ProxyType.HTTP, host, 3128, "ann", "other"), **fields)


KNOWN = [
    pytest.param(proxy("p2", name="name-p1"), id="the name"),
    pytest.param(proxy("p2", address=_at("p1.example")), id="the address, with another password"),
    pytest.param(proxy("p2", address=_at("P1.Example")), id="the address in other letters"),
    pytest.param(proxy("p1", name="other", address=_at("other")), id="the id"),
]


@pytest.mark.parametrize("record", KNOWN)
async def test_what_is_known_is_not_added(store: Store, record: ProxyRecord) -> None:
    """Neither what is there already nor what comes twice in a list."""
    assert await store.proxies.add([proxy("p1"), record], OPERATOR) == ["p1"]
    assert await store.proxies.add([record], OPERATOR) == []
    assert await _only(store) == proxy("p1")


UNKNOWN = [
    pytest.param({"type": ProxyType.HTTPS}, id="another type"),
    pytest.param({"port": 3129}, id="another port"),
    pytest.param({"username": "bob"}, id="another user"),
    pytest.param({"username": "", "password": ""}, id="no user"),
]


@pytest.mark.parametrize("fields", UNKNOWN)
async def test_another_address_is_another_proxy(store: Store, fields: dict[str, object]) -> None:
    """Type, host, port and user count."""
    other = proxy("p2", address=_at("p1.example", **fields))
    await store.proxies.add([proxy("p1")], OPERATOR)

    assert await store.proxies.add([other], OPERATOR) == ["p2"]
    assert await store.proxies.find_some(["p2"]) == [other]


async def test_processes_that_add_the_same_at_once(place: Place) -> None:
    """One of them has added it."""
    stores = [place.open() for _ in range(4)]
    await stores[0].prepare([ACME])
    same = [replace(proxy("p1"), id=f"p{n}") for n in range(4)]
    done = await asyncio.gather(
        *(one.proxies.add([record], OPERATOR) for one, record in zip(stores, same, strict=True))
    )
    there = await stores[0].proxies.load()
    for one in stores:
        await one.close()

    assert sum(len(ids) for ids in done) == 1
    assert len(there) == 1


# -- enabling and removing -------------------------------------------------------------------------
async def test_disabling_and_enabling(store: Store) -> None:
    """Both are audited; disabling leaves all else as it is."""
    await store.proxies.add([replace(FULL, is_active=True)], OPERATOR)
    await store.proxies.set_active("p1", active=False, actor=OPERATOR)
    off = await _only(store)
    await store.proxies.set_active("p1", active=True, actor=OPERATOR)
    on = await _only(store)

    assert off == FULL
    assert on.is_active
    assert (await actions_in(store))[1:] == [("proxy.disable", "p1"), ("proxy.enable", "p1")]


async def test_what_is_enabled_is_trusted_again(store: Store) -> None:
    """Each exit is healthy, and what was seen before does not count any more."""
    await store.proxies.add([proxy("p1", exits={ACME: REFUSED, OTHER: DOWN})], OPERATOR)
    await store.proxies.set_active("p1", active=True, actor=OPERATOR)
    await store.proxies.observe("p1", Observation(NOON, {ACME: replace(DOWN, generation=2)}), "h:1")
    found = await _only(store)

    assert found.exits == {ACME: ExitState(generation=2), OTHER: ExitState(generation=2)}
    assert found.status is ProxyStatus.HEALTHY


async def test_another_password_is_trusted(store: Store) -> None:
    """Everything else stays, also that it is disabled; other proxies are not touched."""
    await store.proxies.add([proxy("p1", exits={ACME: REFUSED}), proxy("p2")], OPERATOR)
    before = {record.id: record for record in await store.proxies.load()}
    await store.proxies.set_active("p1", active=False, actor=OPERATOR)
    await store.proxies.set_password("p1", "another secret", OPERATOR)
    found = {record.id: record for record in await store.proxies.load()}

    wanted = replace(before["p1"].address, password="another secret")
    assert found["p1"].address == wanted
    assert (found["p1"].is_active, found["p1"].status) == (False, ProxyStatus.HEALTHY)
    assert found["p1"].exits == {ACME: ExitState(generation=2)}
    assert found["p2"] == before["p2"]
    assert (await actions_in(store))[-1] == ("proxy.password", "p1")


async def test_a_proxy_is_removed(store: Store) -> None:
    """And audited; its name and address are free again."""
    await store.proxies.add([proxy("p1"), proxy("p2")], OPERATOR)
    await store.proxies.remove("p1", OPERATOR)

    assert [record.id for record in await store.proxies.load()] == ["p2"]
    assert (await actions_in(store))[-1] == ("proxy.remove", "p1")
    assert await store.proxies.add([proxy("p1")], OPERATOR) == ["p1"]


async def test_what_is_not_there_cannot_be_changed(store: Store) -> None:
    """Operators are told; what has been observed is of no use any more."""
    with pytest.raises(NoSuchRecord):
        await store.proxies.set_active("p1", active=True, actor=OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.proxies.remove("p1", OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.proxies.set_password("p1", "secret", OPERATOR)
    await store.proxies.observe("p1", Observation(NOON, {ACME: DOWN}), "host:1")

    assert await actions_in(store) == []


# -- observing -------------------------------------------------------------------------------------
async def test_a_check_that_failed(store: Store) -> None:
    """It is noted, and counted, and how long the last good one took stays."""
    await store.proxies.add([proxy("p1", last_latency_ms=5)], OPERATOR)
    for n in (1, 2):
        seen = Observation(NOON + n, {ACME: replace(DOWN, generation=n)}, error="refused")
        await store.proxies.observe("p1", seen, "host:1")
    found = await _only(store)

    assert found.exits == {ACME: replace(DOWN, generation=2)}
    assert (found.fail_count, found.last_error, found.last_latency_ms) == (2, "refused", 5)
    assert found.last_checked_at == NOON + 2
    assert found.status is ProxyStatus.UNHEALTHY


async def test_a_check_that_succeeded(store: Store) -> None:
    """The error and the count are gone."""
    await store.proxies.add([proxy("p1", exits={ACME: DOWN}, fail_count=4)], OPERATOR)
    await store.proxies.observe("p1", Observation(NOON, {ACME: UP}, latency_ms=9), "host:1")
    found = await _only(store)

    assert (found.fail_count, found.last_error, found.last_latency_ms) == (0, "", 9)
    assert found.exits == {ACME: UP}


async def test_an_attempt_is_no_check(store: Store) -> None:
    """When the last check was stays as it is."""
    await store.proxies.add([proxy("p1", last_checked_at=NOON)], OPERATOR)
    seen = Observation(NOON + 5, {ACME: DOWN}, is_check=False, error="reset")
    await store.proxies.observe("p1", seen, "host:1")
    found = await _only(store)

    assert found.last_checked_at == NOON
    assert (found.last_error, found.fail_count) == ("reset", 1)


@pytest.mark.parametrize("generation", [0, 1, 2])
async def test_an_exit_changes_by_a_later_generation_only(store: Store, generation: int) -> None:
    """Whoever saw it earlier is told nothing, and changes nothing."""
    await store.proxies.add([proxy("p1", exits={ACME: UP})], OPERATOR)
    await store.proxies.observe(
        "p1", Observation(NOON, {ACME: replace(DOWN, generation=generation)}), "host:1"
    )

    assert (await _only(store)).exits == {ACME: UP}
    assert await actions_in(store) == [("proxy.add", "p1")]


async def test_an_exit_that_nothing_was_known_of(store: Store) -> None:
    """It is taken as it is told; other providers' exits stay."""
    await store.proxies.add([proxy("p1", exits={ACME: DOWN})], OPERATOR)
    await store.proxies.observe("p1", Observation(NOON, {OTHER: ExitState()}), "host:1")

    assert (await _only(store)).exits == {ACME: DOWN, OTHER: ExitState()}
    assert await actions_in(store) == [("proxy.add", "p1")]


async def test_changes_of_a_status_are_audited(store: Store) -> None:
    """With the provider, the status before and after and the reason; no other changes are."""
    await store.proxies.add([proxy("p1")], OPERATOR)
    again = replace(DOWN, step=2, generation=2)
    for state in (DOWN, again, replace(UP, generation=3)):
        await store.proxies.observe("p1", Observation(NOON, {ACME: state}), "host:1")
    rows = (await store.audit.since(0, 10))[1:]

    assert [(row.action, row.provider, row.subject, row.actor, row.at) for row in rows] == [
        ("proxy.transition", ACME, "p1", "host:1", NOON)
    ] * 2
    assert [(row.before, row.after, row.reason) for row in rows] == [
        ("healthy", "error", "refused"),
        ("error", "healthy", ""),
    ]


async def test_an_observation_of_several_providers(store: Store) -> None:
    """Each exit is judged by itself, and the worst is the status of the proxy."""
    await store.proxies.add([proxy("p1", exits={ACME: UP})], OPERATOR)
    await store.proxies.observe("p1", Observation(NOON, {ACME: DOWN, OTHER: REFUSED}), "host:1")
    found = await _only(store)

    assert found.exits == {ACME: UP, OTHER: REFUSED}
    assert found.status is ProxyStatus.BLOCKED


async def test_observers_at_once(place: Place) -> None:
    """None loses what another one saw, and each change is audited once."""
    stores = [place.open() for _ in range(8)]
    await stores[0].prepare([ACME])
    await stores[0].proxies.add([proxy("p1")], OPERATOR)
    seen = [
        Observation(NOON + n, {f"provider_{n // 2}": replace(DOWN, generation=1 + n % 2)})
        for n in range(16)
    ]
    await asyncio.gather(
        *(stores[n % 8].proxies.observe("p1", one, f"host:{n}") for n, one in enumerate(seen))
    )
    found = await _only(stores[0])
    rows = [row for row in await stores[0].audit.since(0, 50) if row.action == "proxy.transition"]
    for one in stores:
        await one.close()

    assert found.exits == {f"provider_{n}": replace(DOWN, generation=2) for n in range(8)}
    assert sorted(row.provider for row in rows) == [f"provider_{n}" for n in range(8)]


async def test_observers_of_one_exit_at_once(place: Place) -> None:
    """The latest generation stays, whoever comes last."""
    async with opened(place) as store:
        await store.prepare([ACME])
        await store.proxies.add([proxy("p1")], OPERATOR)
        states = [replace(DOWN, step=n, generation=n) for n in range(12)]
        await asyncio.gather(
            *(store.proxies.observe("p1", Observation(NOON, {ACME: one}), "h") for one in states)
        )

        assert (await _only(store)).exits == {ACME: states[-1]}


async def test_an_operator_and_observers_at_once(store: Store) -> None:
    """The switch is not lost."""
    await store.proxies.add([proxy("p1", exits={ACME: ExitState()})], OPERATOR)
    seen = [Observation(NOON, {f"provider_{n}": DOWN}) for n in range(8)]
    await asyncio.gather(
        store.proxies.set_active("p1", active=False, actor=OPERATOR),
        *(store.proxies.observe("p1", one, "host:1") for one in seen),
    )
    found = await _only(store)

    assert not found.is_active
    assert len(found.exits) == 9
