"""What every store promises of bindings; the promises are those of `keymux.stores.port`."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from keymux.core.egress import LAST_PRIORITY, BindingRecord, Repaired
from keymux.core.health import Event
from keymux.stores.port import NoSuchRecord, Store
from tests.contract.places import Place
from tests.contract.records import (
    ACME,
    NOON,
    OPERATOR,
    OTHER,
    actions_in,
    binding,
    key,
    pairs_in,
    proxy,
    spare,
)
from tests.scenarios.rig import IS_LONG

pytestmark = pytest.mark.anyio
MANY = 1000 if IS_LONG else 200


async def _filled(store: Store) -> None:
    """Two keys, two proxies and a spare; the first key is bound to both proxies."""
    await store.proxies.add([proxy("p1"), proxy("p2")], OPERATOR)
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.backups.add(ACME, [spare("b1"), spare("b2", NOON + 1)], OPERATOR)
    bound = [binding("p1", "k1", priority=3), binding("p2", "k1", is_active=False)]
    await store.bindings.add(ACME, bound, OPERATOR)


async def _orphan(store: Store, *bound: BindingRecord) -> None:
    """Bindings that are there although their keys are not."""
    await store.bindings.add(ACME, bound, OPERATOR)


async def _rows(store: Store, action: str) -> list[tuple[str, str, str]]:
    rows = await store.audit.since(0, 1000)
    return [(row.subject, row.before, row.after) for row in rows if row.action == action]


# -- adding and reading ----------------------------------------------------------------------------
async def test_a_binding_is_kept_as_it_is(store: Store) -> None:
    """With every field, for its provider alone."""
    record = BindingRecord("x1", "p1", "k1", 7, is_active=False, created_at=NOON)

    assert await store.bindings.add(ACME, [record], OPERATOR) == ["x1"]
    assert await store.bindings.load(ACME) == [record]
    assert await store.bindings.load(OTHER) == []


async def test_bindings_come_oldest_first(store: Store) -> None:
    """And those of one moment by their id; one without a date gets that of now."""
    fresh = [
        binding("p1", "k1", "c"),
        binding("p2", "k1", "d", created_at=0),
        binding("p3", "k1", "b", created_at=NOON - 1),
        binding("p4", "k1", "a"),
    ]
    await store.bindings.add(ACME, fresh, OPERATOR)

    assert [record.id for record in await store.bindings.load(ACME)] == ["b", "a", "c", "d"]
    assert [record.id for record in await store.bindings.of_keys(ACME, ["k1"])] == [
        *("b", "a", "c", "d")
    ]


async def test_the_bindings_of_some_keys(store: Store) -> None:
    """Of those that have any; nobody asks for none."""
    fresh = [binding("p1", "k1"), binding("p1", "k2"), binding("p2", "k3")]
    await store.bindings.add(ACME, fresh, OPERATOR)
    found = await store.bindings.of_keys(ACME, ["k3", "gone", "k1"])

    assert [record.id for record in found] == ["p1-k1", "p2-k3"]
    assert await store.bindings.of_keys(ACME, []) == []


async def test_adding_is_audited(store: Store) -> None:
    """The key is the subject, the proxy stands after."""
    await store.bindings.add(ACME, [binding("p1", "k1"), binding("p2", "k1")], OPERATOR)

    assert await _rows(store, "binding.add") == [("k1", "", "p1"), ("k1", "", "p2")]


async def test_a_pair_is_there_once(store: Store) -> None:
    """Neither again nor twice in a list; the first stays as it is, and nothing is audited."""
    twin = binding("p1", "k1", "twin", priority=9)

    assert await store.bindings.add(ACME, [binding("p1", "k1"), twin], OPERATOR) == ["p1-k1"]
    assert await store.bindings.add(ACME, [twin, binding("p1", "k2")], OPERATOR) == ["p1-k2"]
    assert await store.bindings.of_keys(ACME, ["k1"]) == [binding("p1", "k1")]
    assert len(await _rows(store, "binding.add")) == 2


@pytest.mark.parametrize(("asked", "kept"), [(0, 1), (-5, 1), (1001, LAST_PRIORITY)])
async def test_priorities_have_ends(store: Store, asked: int, kept: int) -> None:
    """What is beyond is moved to the end, when it is added and when it is changed."""
    added = [binding("p1", "k1", priority=asked), binding("p2", "k1", priority=5)]
    await store.bindings.add(ACME, added, OPERATOR)
    await store.bindings.set_priority(ACME, "p2-k1", asked, OPERATOR)

    assert [record.priority for record in await store.bindings.load(ACME)] == [kept, kept]


async def test_processes_that_bind_the_same_at_once(place: Place) -> None:
    """The pair is there once."""
    stores = [place.open() for _ in range(4)]
    await stores[0].prepare([ACME])
    done = await asyncio.gather(
        *(
            one.bindings.add(ACME, [binding("p1", "k1", f"x{n}")], OPERATOR)
            for n, one in enumerate(stores)
        )
    )
    there = await stores[0].bindings.load(ACME)
    for one in stores:
        await one.close()

    assert sum(len(ids) for ids in done) == 1
    assert len(there) == 1


async def test_very_many_bindings(store: Store) -> None:
    """Some hundred proxies with ten keys each are added and read; more than one portion."""
    proxies = [proxy(f"p{n:04}") for n in range(MANY)]
    bound = [binding(f"p{n % MANY:04}", f"k{n // 10}", f"x{n:05}") for n in range(10 * MANY)]
    await store.proxies.add(proxies, OPERATOR)

    assert len(await store.bindings.add(ACME, bound, OPERATOR)) == 10 * MANY
    assert await store.bindings.load(ACME) == bound
    assert len(await store.proxies.load()) == MANY
    some = [f"k{n}" for n in range(MANY // 2)]
    assert len(await store.bindings.of_keys(ACME, some)) == 5 * MANY


# -- changing --------------------------------------------------------------------------------------
async def test_a_priority_is_changed(store: Store) -> None:
    """It is audited with both."""
    await store.bindings.add(ACME, [binding("p1", "k1", priority=3)], OPERATOR)
    await store.bindings.set_priority(ACME, "p1-k1", 8, OPERATOR)

    assert await store.bindings.load(ACME) == [binding("p1", "k1", priority=8)]
    assert await _rows(store, "binding.priority") == [("k1", "3", "8")]


async def test_disabling_and_enabling(store: Store) -> None:
    """Both are audited, with the key as the subject."""
    await store.bindings.add(ACME, [binding("p1", "k1")], OPERATOR)
    await store.bindings.set_active(ACME, "p1-k1", active=False, actor=OPERATOR)
    off = await store.bindings.load(ACME)
    await store.bindings.set_active(ACME, "p1-k1", active=True, actor=OPERATOR)
    on = await store.bindings.load(ACME)

    assert off == [binding("p1", "k1", is_active=False)]
    assert on == [binding("p1", "k1")]
    assert (await actions_in(store))[1:] == [("binding.disable", "k1"), ("binding.enable", "k1")]


async def test_bindings_are_removed(store: Store) -> None:
    """Those that are there, each audited with its proxy; its pair may be added again."""
    await store.bindings.add(
        ACME, [binding("p1", "k1"), binding("p2", "k1"), binding("p1", "k2")], OPERATOR
    )
    await store.bindings.remove(ACME, ["p2-k1", "gone", "p1-k2", "p2-k1"], OPERATOR)

    assert await pairs_in(store) == [("k1", "p1")]
    assert sorted(await _rows(store, "binding.remove")) == [("k1", "p2", ""), ("k2", "p1", "")]
    assert await store.bindings.add(ACME, [binding("p2", "k1")], OPERATOR) == ["p2-k1"]


CHANGES: list[Callable[[Store], Awaitable[None]]] = [
    lambda store: store.bindings.set_priority(ACME, "gone", 1, OPERATOR),
    lambda store: store.bindings.set_active(ACME, "gone", active=True, actor=OPERATOR),
]


@pytest.mark.parametrize("change", CHANGES, ids=["priority", "active"])
async def test_what_is_not_there_cannot_be_changed(
    store: Store, change: Callable[[Store], Awaitable[None]]
) -> None:
    """And nothing is audited."""
    with pytest.raises(NoSuchRecord):
        await change(store)

    assert await actions_in(store) == []


async def test_a_proxy_goes_and_its_bindings_stay(store: Store) -> None:
    """Without them the key would go directly."""
    await _filled(store)
    await store.proxies.remove("p1", OPERATOR)

    assert await pairs_in(store) == [("k1", "p1"), ("k1", "p2")]


# -- promotion -------------------------------------------------------------------------------------
async def test_the_new_key_has_the_dead_keys_bindings(store: Store) -> None:
    """With priority and switch, under ids of their own; the dead key keeps its own."""
    await _filled(store)
    before = await store.bindings.of_keys(ACME, ["k1"])
    await store.backups.promote(ACME, "k1", at=NOON + 9, actor="host:1")
    copies = await store.bindings.of_keys(ACME, ["b1"])

    assert {(one.proxy_id, one.priority, one.is_active) for one in copies} == {
        ("p1", 3, True),
        ("p2", 1, False),
    }
    assert {one.created_at for one in copies} == {NOON + 9}
    assert not {one.id for one in copies} & {one.id for one in before}
    assert await store.bindings.of_keys(ACME, ["k1"]) == before


async def test_a_key_without_bindings_leaves_none(store: Store) -> None:
    """Those of other keys have nothing to do with it."""
    await _filled(store)
    await store.backups.promote(ACME, "k2", at=NOON, actor="host:1")

    assert await store.bindings.of_keys(ACME, ["b1"]) == []


async def test_a_promotion_that_is_asked_for_again(store: Store) -> None:
    """What an operator has done to the new key's bindings since then stays."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    (first, *_) = await store.bindings.of_keys(ACME, ["b1"])
    await store.bindings.remove(ACME, [first.id], OPERATOR)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:2")

    assert len(await store.bindings.of_keys(ACME, ["b1"])) == 1


async def test_processes_that_promote_at_once(place: Place) -> None:
    """The new key has each binding once."""
    stores = [place.open() for _ in range(4)]
    await stores[0].prepare([ACME])
    await _filled(stores[0])
    await asyncio.gather(
        *(one.backups.promote(ACME, "k1", at=NOON, actor=f"h:{n}") for n, one in enumerate(stores))
    )
    found = await pairs_in(stores[0])
    for one in stores:
        await one.close()

    assert found == [("b1", "p1"), ("b1", "p2"), ("k1", "p1"), ("k1", "p2")]


async def test_the_new_key_is_told_of_after_its_bindings(store: Store) -> None:
    """Whoever hears of the key in the audit finds them, so no line is needed for each."""
    await _filled(store)
    last = await store.audit.last()
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    actions = {row.action for row in await store.audit.since(last, 10)}

    assert actions == {"key.add", "backup.promote"}


async def test_a_chain_of_promotions(store: Store) -> None:
    """Bindings follow from key to key, and a key that dies twice is followed twice."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.keys.change(ACME, "k1", Event.RESTORE, actor=OPERATOR, reason="fine")
    await store.backups.promote(ACME, "b1", at=NOON, actor="host:1")

    assert {pair for pair in await pairs_in(store) if pair[0] == "b2"} == {
        ("b2", "p1"),
        ("b2", "p2"),
    }


async def test_a_restored_spare_takes_its_bindings_along(store: Store) -> None:
    """Those of the dead key stay; promoted once more it has them again."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.backups.restore(ACME, "b1", OPERATOR)
    without = await pairs_in(store)
    await store.keys.change(ACME, "k1", Event.RESET, actor=OPERATOR, reason="fine")
    promoted = await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")

    assert without == [("k1", "p1"), ("k1", "p2")]
    assert promoted == "b1"
    assert {proxy_id for key_id, proxy_id in await pairs_in(store) if key_id == "b1"} == {
        "p1",
        "p2",
    }


# -- a key goes ------------------------------------------------------------------------------------
async def test_the_bindings_of_a_key_that_nobody_replaced(store: Store) -> None:
    """They are deleted with it; those of others stay."""
    await _filled(store)
    await store.bindings.add(ACME, [binding("p1", "k2")], OPERATOR)
    await store.keys.remove(ACME, "k1", OPERATOR)

    assert await pairs_in(store) == [("k2", "p1")]
    assert await _rows(store, "key.remove") == [("k1", "", "")]


async def test_the_bindings_of_a_key_that_was_replaced(store: Store) -> None:
    """Those that the new key lacks go to it, which is audited; none is there twice."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.bindings.add(ACME, [binding("p3", "k1", priority=4, is_active=False)], OPERATOR)
    last = await store.audit.last()
    await store.keys.remove(ACME, "k1", OPERATOR)
    rows = await store.audit.since(last, 10)
    moved = [one for one in await store.bindings.load(ACME) if one.proxy_id == "p3"]

    assert await pairs_in(store) == [("b1", "p1"), ("b1", "p2"), ("b1", "p3")]
    assert [(one.priority, one.is_active) for one in moved] == [(4, False)]
    assert [(row.action, row.subject, row.after) for row in rows] == [
        ("binding.add", "b1", "p3"),
        ("key.remove", "k1", ""),
    ]


async def test_the_key_that_took_over_is_gone_too(store: Store) -> None:
    """Nobody is left for the bindings."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.keys.remove(ACME, "b1", OPERATOR)
    await store.keys.remove(ACME, "k1", OPERATOR)

    assert await pairs_in(store) == []


# -- repair ----------------------------------------------------------------------------------------
async def test_there_is_nothing_to_repair(store: Store) -> None:
    """Bindings are counted, also those whose proxy is gone, and nothing is audited."""
    await _filled(store)
    await store.proxies.remove("p2", OPERATOR)
    last = await store.audit.last()

    assert await store.bindings.repair(ACME, OPERATOR) == Repaired(checked=2, without_proxy=1)
    assert await store.audit.last() == last
    assert await pairs_in(store) == [("k1", "p1"), ("k1", "p2")]


async def test_bindings_whose_key_is_gone(store: Store) -> None:
    """Without a key that took over they are deleted, and audited for the key."""
    await _filled(store)
    await _orphan(store, binding("p1", "gone"), binding("p2", "gone"), binding("p3", "k2"))
    found = await store.bindings.repair(ACME, OPERATOR)

    assert found == Repaired(checked=5, deleted=2, without_proxy=1)
    assert await pairs_in(store) == [("k1", "p1"), ("k1", "p2"), ("k2", "p3")]
    assert await _rows(store, "binding.repair") == [("gone", "", "")]


async def test_bindings_whose_key_was_replaced(store: Store) -> None:
    """They are moved to the key that took over, but for those that it has already."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.keys.remove(ACME, "k1", OPERATOR)
    await _orphan(store, binding("p1", "k1"), binding("p3", "k1", priority=5))
    found = await store.bindings.repair(ACME, OPERATOR)
    moved = [one for one in await store.bindings.load(ACME) if one.proxy_id == "p3"]

    assert found == Repaired(checked=4, repaired=1, deleted=1, without_proxy=1)
    assert await pairs_in(store) == [("b1", "p1"), ("b1", "p2"), ("b1", "p3")]
    assert [(one.priority, one.created_at) for one in moved] == [(5, NOON)]
    assert sorted(await _rows(store, "binding.repair")) == [("b1", "k1", ""), ("k1", "", "b1")]


async def test_a_repair_follows_a_chain(store: Store) -> None:
    """The key that took over was replaced as well, and is gone."""
    await _filled(store)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.backups.promote(ACME, "b1", at=NOON + 1, actor="host:1")
    for gone in ("k1", "b1"):
        await store.keys.remove(ACME, gone, OPERATOR)
    await _orphan(store, binding("p3", "k1"))
    found = await store.bindings.repair(ACME, OPERATOR)

    assert replace(found, without_proxy=0) == Repaired(checked=3, repaired=1)
    assert ("b2", "p3") in await pairs_in(store)


async def test_a_repair_may_be_repeated(store: Store) -> None:
    """The second finds nothing to do."""
    await _filled(store)
    await _orphan(store, binding("p1", "gone"))
    await store.bindings.repair(ACME, OPERATOR)
    last = await store.audit.last()

    assert await store.bindings.repair(ACME, OPERATOR) == Repaired(checked=2)
    assert await store.audit.last() == last
