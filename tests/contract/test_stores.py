"""What every store promises; the promises are those of `keymux.stores.port`."""

import asyncio

import pytest
from msgspec.structs import replace

from keymux.core.health import Event, Status
from keymux.core.records import ClientKeyRecord, KeyState, ProviderState
from keymux.stores.port import Batch, NoSuchRecord, Store, StoreUnusable
from tests.contract.places import Place, opened
from tests.contract.records import (
    ACME,
    NOON,
    OPERATOR,
    OTHER,
    actions_in,
    cooling,
    exchange,
    key,
    provider_transition,
    shaded,
    spare,
    state_of,
    transition,
)

pytestmark = pytest.mark.anyio


# -- schema --------------------------------------------------------------------------------------
async def test_what_is_missing_is_made_once(place: Place) -> None:
    """The first `prepare` says what it made; the second has nothing to do and does nothing."""
    async with opened(place) as store:
        done = await store.prepare([ACME])
        content = place.content()

        assert any(ACME in line for line in done)
        assert await store.prepare([ACME]) == []
        assert place.content() == content


async def test_a_provider_can_join_later(place: Place) -> None:
    """Its collections are added to those that are there, which are left alone."""
    async with opened(place) as store:
        await store.prepare([ACME])
        await store.keys.add(ACME, [key("k1")], OPERATOR)
        await store.prepare([ACME, OTHER])

        assert [record.id for record in await store.keys.load(ACME)] == ["k1"]
        assert await store.keys.load(OTHER) == []


async def test_many_processes_may_prepare_at_once(place: Place) -> None:
    """All of them find a store that is ready; one of them has made it."""
    stores = [place.open() for _ in range(6)]
    done = await asyncio.gather(*(store.prepare([ACME]) for store in stores))
    for store in stores:
        await store.keys.load(ACME)
        await store.close()

    assert sum(bool(lines) for lines in done) == 1


async def test_a_newer_schema_is_refused_and_left_alone(place: Place) -> None:
    """An older keymux would spoil what it does not understand."""
    async with opened(place) as store:
        await store.prepare([ACME])
    place.make_newer()
    content = place.content()
    async with opened(place) as store:
        with pytest.raises(StoreUnusable, match="newer"):
            await store.prepare([ACME, OTHER])

    assert place.content() == content


# -- upstream keys -------------------------------------------------------------------------------
async def test_upstream_keys_come_back_as_they_were_added(store: Store) -> None:
    """Oldest first, with their labels and quota groups, healthy and unused."""
    young, old = key("k1", label="first", group="team"), key("k2", created_at=NOON - 1)
    added = await store.keys.add(ACME, [young, old], OPERATOR)
    loaded = await store.keys.load(ACME)

    assert added == ["k1", "k2"]
    assert [replace(record, updated_at=0) for record in loaded] == [old, young]
    assert await store.keys.find(ACME, "k2") == loaded[0]
    assert await store.keys.find(ACME, "k3") is None
    assert await store.keys.load(OTHER) == []


async def test_a_key_without_a_date_is_dated_now(store: Store) -> None:
    """Nobody has to say when a key was added."""
    await store.keys.add(ACME, [key("k1", created_at=0)], OPERATOR)
    record = await store.keys.find(ACME, "k1")

    assert record is not None
    assert record.created_at > NOON


async def test_a_secret_is_known_once(store: Store) -> None:
    """Whatever it is called, in one call or in two; another provider has its own keys."""
    twice = [key("k1"), key("k2", secret="secret-k1"), key("k3")]

    assert await store.keys.add(ACME, twice, OPERATOR) == ["k1", "k3"]
    assert await store.keys.add(ACME, [key("k4", secret="secret-k3")], OPERATOR) == []
    assert await store.keys.add(OTHER, [key("k1")], OPERATOR) == ["k1"]
    assert await actions_in(store) == [("key.add", name) for name in ("k1", "k3", "k1")]


async def test_many_keys_at_once(store: Store) -> None:
    """Thousands are added in one call."""
    names = [f"k{number:04d}" for number in range(5000)]
    await store.keys.add(ACME, [key(name) for name in names], OPERATOR)

    assert [record.id for record in await store.keys.load(ACME)] == names


async def test_a_removed_key_is_gone(store: Store) -> None:
    """It cannot be removed twice, and its secret may come back."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    await store.keys.remove(ACME, "k1", OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.keys.remove(ACME, "k1", OPERATOR)

    assert await store.keys.load(ACME) == []
    assert await store.keys.add(ACME, [key("k1")], OPERATOR) == ["k1"]
    assert await actions_in(store) == [
        ("key.add", "k1"),
        ("key.remove", "k1"),
        ("key.add", "k1"),
    ]


CHANGES = [
    pytest.param(Status.HEALTHY, Event.DISABLE, Status.DISABLED, id="a healthy key is disabled"),
    pytest.param(Status.DISABLED, Event.ENABLE, Status.HEALTHY, id="a disabled key is enabled"),
    pytest.param(Status.EXHAUSTED, Event.RESET, Status.HEALTHY, id="a spent key is reset"),
    pytest.param(
        Status.QUARANTINED, Event.RESET, Status.QUARANTINED, id="quarantine outlives a reset"
    ),
    pytest.param(Status.QUARANTINED, Event.RESTORE, Status.HEALTHY, id="a dead key is restored"),
]


@pytest.mark.parametrize(("before", "event", "after"), CHANGES)
async def test_an_operator_changes_a_key(
    store: Store, place: Place, before: Status, event: Event, after: Status
) -> None:
    """The table of `keymux.core.health` decides; the audit tells who, what and why."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    place.set_status(ACME, "k1", before)
    changed = await store.keys.change(ACME, "k1", event, actor=OPERATOR, reason="why not")
    told = (await store.audit.latest(1))[0]

    assert changed.state.status is after
    assert changed.state.generation == 1
    assert changed == await store.keys.find(ACME, "k1")
    assert (told.actor, told.action, told.subject) == (OPERATOR, f"key.{event}", "k1")
    assert (told.before, told.after, told.reason) == (before, after, "why not")


async def test_an_unknown_key_cannot_be_changed(store: Store) -> None:
    """And nothing is audited."""
    with pytest.raises(NoSuchRecord):
        await store.keys.change(ACME, "k1", Event.RESET, actor=OPERATOR, reason="")

    assert await actions_in(store) == []


async def test_a_reset_ends_the_cooldowns_of_single_models(store: Store) -> None:
    """An operator who resets a key wants all of it back; who disables it, keeps what is known."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    await store.ledger.write(Batch(transitions=(transition("t1", shaded("sonnet", 60), "sonnet"),)))
    disabled = await store.keys.change(ACME, "k1", Event.DISABLE, actor=OPERATOR, reason="")
    enabled = await store.keys.change(ACME, "k1", Event.ENABLE, actor=OPERATOR, reason="")
    reset = await store.keys.change(ACME, "k1", Event.RESET, actor=OPERATOR, reason="")

    assert list(disabled.state.shades) == list(enabled.state.shades) == ["sonnet"]
    assert reset.state.shades == (await state_of(store)).shades == {}


async def test_a_status_written_by_hand_keeps_the_traffic_away(store: Store, place: Place) -> None:
    """Only an operator knows what was meant; the other keys go on, and so does the book."""
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    place.set_status(ACME, "k1", "Active!")
    await store.ledger.write(Batch(rows=(exchange(),), transitions=(transition("t1", cooling(9)),)))
    statuses = [record.state.status for record in await store.keys.load(ACME)]

    assert statuses == [Status.DISABLED, Status.HEALTHY]
    assert await store.ledger.find(exchange().id) == exchange()


# -- backup keys ---------------------------------------------------------------------------------
async def test_backup_keys_come_back_as_they_were_added(store: Store) -> None:
    """Oldest first, and nothing of them is used."""
    await store.backups.add(ACME, [spare("b1"), spare("b2", NOON - 1)], OPERATOR)

    assert await store.backups.load(ACME) == [spare("b2", NOON - 1), spare("b1")]
    assert await store.backups.load(OTHER) == []


async def test_a_spare_is_no_key_that_is_known_already(store: Store) -> None:
    """Neither one of the pool nor another spare."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    offered = [replace(spare("b1"), secret="secret-k1"), spare("b2"), spare("b2"), spare("b3")]

    assert await store.backups.add(ACME, offered, OPERATOR) == ["b2", "b3"]
    assert await store.backups.add(ACME, [spare("b3")], OPERATOR) == []


async def _with_spares(store: Store, *spares: str) -> None:
    await store.keys.add(ACME, [key("k1", label="dead"), key("k2")], OPERATOR)
    made = [spare(name, NOON + number) for number, name in enumerate(spares)]
    await store.backups.add(ACME, made, OPERATOR)


async def test_the_oldest_spare_takes_over(store: Store) -> None:
    """It joins the pool, is marked, and the dead key and the audit say so."""
    await _with_spares(store, "b1", "b2")
    promoted = await store.backups.promote(ACME, "k1", at=NOON + 99, actor="host:1")
    used, unused = await store.backups.load(ACME)
    keys = {record.id: record for record in await store.keys.load(ACME)}
    told = (await store.audit.latest(1))[0]

    assert promoted == "b1"
    assert (used.id, used.is_used, used.activated) == ("b1", True, True)
    assert (used.used_for, used.used_at) == ("k1", NOON + 99)
    assert unused == spare("b2", NOON + 1)
    assert list(keys) == ["k1", "k2", "b1"]
    assert (keys["k1"].replaced_by, keys["b1"].secret) == ("b1", "secret-b1")
    assert keys["b1"].state == KeyState()
    assert (told.action, told.subject, told.before) == ("backup.promote", "b1", "k1")
    assert (told.after, told.actor, told.at) == ("b1", "host:1", NOON + 99)


async def test_a_dead_key_is_replaced_once(store: Store) -> None:
    """Whoever asks again is given the same answer, and no spare is used up."""
    await _with_spares(store, "b1", "b2")
    first = await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    again = await store.backups.promote(ACME, "k1", at=NOON, actor="host:2")
    other = await store.backups.promote(ACME, "k2", at=NOON, actor="host:2")

    assert (first, again, other) == ("b1", "b1", "b2")


async def test_spares_are_counted(store: Store) -> None:
    """Those that are left, and those that were used."""
    empty = await store.backups.count(ACME)
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    await store.backups.add(ACME, [spare("b1"), spare("b2"), spare("b3")], OPERATOR)
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")

    assert (empty, await store.backups.count(ACME)) == ((0, 0), (2, 1))


async def test_some_keys_are_found(store: Store) -> None:
    """Those that are there, and no others."""
    await store.keys.add(ACME, [key("k1"), key("k2"), key("k3")], OPERATOR)
    found = await store.keys.find_some(ACME, {"k3", "k1", "gone"})

    assert {record.id: record.secret for record in found} == {
        "k1": key("k1").secret,
        "k3": key("k3").secret,
    }
    assert await store.keys.find_some(ACME, []) == []


async def test_without_a_spare_nothing_is_promoted(store: Store) -> None:
    """Nor for a key that is gone."""
    await _with_spares(store)

    assert await store.backups.promote(ACME, "k1", at=NOON, actor="host:1") is None
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    assert await store.backups.promote(ACME, "gone", at=NOON, actor="host:1") is None
    assert [record.is_used for record in await store.backups.load(ACME)] == [False]


async def test_a_spare_that_is_in_the_pool_is_passed_over_for_good(store: Store) -> None:
    """It would bring nothing; the next one takes over."""
    await _with_spares(store, "b1", "b2")
    await store.keys.add(ACME, [key("k3", secret="secret-b1")], OPERATOR)
    promoted = await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    passed, used = await store.backups.load(ACME)

    assert promoted == "b2"
    assert (passed.is_used, passed.activated, passed.used_for) == (True, False, "")
    assert (used.is_used, used.activated, used.used_for) == (True, True, "k1")


async def test_one_promotion_however_many_ask(store: Store, place: Place) -> None:
    """A hundred attempts at once, of four processes' stores, use up a single spare."""
    await _with_spares(store, "b1", "b2", "b3")
    stores = [place.open() for _ in range(4)]
    promoted = await asyncio.gather(
        *(
            stores[number % 4].backups.promote(ACME, "k1", at=NOON, actor=f"host:{number}")
            for number in range(100)
        )
    )
    for other in stores:
        await other.close()
    used = [record.id for record in await store.backups.load(ACME) if record.is_used]

    assert set(promoted) == {"b1"}
    assert used == ["b1"]
    assert [action for action, _ in await actions_in(store)].count("backup.promote") == 1


async def test_two_dead_keys_never_share_a_spare(store: Store, place: Place) -> None:
    """Two processes that promote at once for different keys get different spares."""
    await _with_spares(store, "b1", "b2")
    async with opened(place) as other:
        promoted = await asyncio.gather(
            store.backups.promote(ACME, "k1", at=NOON, actor="host:1"),
            other.backups.promote(ACME, "k2", at=NOON, actor="host:2"),
        )

    assert set(promoted) == {"b1", "b2"}


async def test_a_restored_backup_key_is_a_spare_again(store: Store) -> None:
    """Its key leaves the pool, and it can be promoted for another key."""
    await _with_spares(store, "b1")
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    await store.backups.restore(ACME, "b1", OPERATOR)
    restored = await store.backups.load(ACME)
    ids = [record.id for record in await store.keys.load(ACME)]

    assert restored == [spare("b1")]
    assert ids == ["k1", "k2"]
    assert (await actions_in(store))[-2:] == [("key.remove", "b1"), ("backup.restore", "b1")]
    assert await store.backups.promote(ACME, "k2", at=NOON, actor="host:1") == "b1"


async def test_a_key_that_is_well_again_can_be_replaced_again(store: Store) -> None:
    """An operator's word takes it back into rotation: its next death is another death."""
    await _with_spares(store, "b1", "b2")
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    restored = await store.keys.change(ACME, "k1", Event.RESTORE, actor=OPERATOR, reason="")

    assert restored.replaced_by == ""
    assert await store.backups.promote(ACME, "k1", at=NOON, actor="host:1") == "b2"


async def test_a_disabled_key_stays_replaced(store: Store) -> None:
    """It is not in rotation, so its spare goes on for it."""
    await _with_spares(store, "b1")
    await store.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    disabled = await store.keys.change(ACME, "k1", Event.DISABLE, actor=OPERATOR, reason="")

    assert disabled.replaced_by == "b1"


async def test_a_removed_backup_key_is_gone(store: Store) -> None:
    """What is not there can neither be removed nor restored."""
    await store.backups.add(ACME, [spare("b1")], OPERATOR)
    await store.backups.remove(ACME, "b1", OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.backups.remove(ACME, "b1", OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.backups.restore(ACME, "b1", OPERATOR)

    assert await store.backups.load(ACME) == []
    assert await actions_in(store) == [("backup.add", "b1"), ("backup.remove", "b1")]


# -- client keys ---------------------------------------------------------------------------------
CLIENT = ClientKeyRecord("client_1", "hash-1", "km-...abcd", "ci", ("sonnet", "haiku"), NOON)


async def test_client_keys_come_back_as_they_were_added(store: Store) -> None:
    """Oldest first, and no hash twice."""
    older = ClientKeyRecord("client_2", "hash-2", "km-...efgh", created_at=NOON - 1)

    assert await store.clients.add(CLIENT, OPERATOR)
    assert await store.clients.add(older, OPERATOR)
    assert not await store.clients.add(replace(CLIENT, id="client_3"), OPERATOR)
    assert await store.clients.load() == [older, CLIENT]
    assert await actions_in(store) == [("client.add", "client_1"), ("client.add", "client_2")]


async def test_a_revoked_client_key_stays_revoked(store: Store) -> None:
    """It is still listed, with the moment at which it was revoked first."""
    await store.clients.add(CLIENT, OPERATOR)
    await store.clients.revoke("client_1", at=NOON + 1, actor=OPERATOR)
    await store.clients.revoke("client_1", at=NOON + 2, actor=OPERATOR)
    with pytest.raises(NoSuchRecord):
        await store.clients.revoke("client_2", at=NOON, actor=OPERATOR)

    assert await store.clients.load() == [replace(CLIENT, revoked_at=NOON + 1)]


# -- providers -----------------------------------------------------------------------------------
DOWN = ProviderState(Status.ERROR, NOON + 5000, "503", 2, 7)


async def test_the_health_of_a_provider(store: Store) -> None:
    """Stored and audited like a key's; an older generation changes nothing."""
    before = await store.provider_state(ACME)
    late = replace(DOWN, generation=6, cooldown_until=None, status=Status.HEALTHY)
    for told in (provider_transition("t1", DOWN), provider_transition("t2", late)):
        await store.ledger.write(Batch(transitions=(told, told)))

    assert before == ProviderState()
    assert await store.provider_state(ACME) == DOWN
    assert await store.provider_state(OTHER) == ProviderState()
    assert await actions_in(store) == [("provider.transition", ACME)] * 2


async def test_an_operator_resets_a_provider(store: Store) -> None:
    """It is well at once, in a generation of its own."""
    await store.ledger.write(Batch(transitions=(provider_transition("t1", DOWN),)))
    await store.reset_provider(ACME, OPERATOR)

    assert await store.provider_state(ACME) == ProviderState(generation=8)
    assert (await actions_in(store))[-1] == ("provider.reset", ACME)


async def test_a_provider_that_nobody_knows_is_well(store: Store) -> None:
    """There is nothing against it."""
    assert await store.provider_state("unknown") == ProviderState()


# -- the audit -----------------------------------------------------------------------------------
async def test_the_audit_is_in_order(store: Store, place: Place) -> None:
    """Numbers only grow, whoever writes; it can be read in pages, from both ends."""
    start = await store.audit.last()
    async with opened(place) as other:
        for number in range(10):
            home = (store, other)[number % 2]
            await home.keys.add(ACME, [key(f"k{number}")], OPERATOR)
    rows = await store.audit.since(0, 100)
    page = await store.audit.since(rows[3].seq, 3)

    assert start == 0
    assert [row.subject for row in rows] == [f"k{number}" for number in range(10)]
    assert [row.seq for row in rows] == sorted({row.seq for row in rows})
    assert [row.subject for row in page] == ["k4", "k5", "k6"]
    assert [row.subject for row in await store.audit.latest(2)] == ["k9", "k8"]
    assert await store.audit.last() == rows[-1].seq
    assert await store.audit.since(rows[-1].seq, 100) == []


async def test_nothing_is_skipped_in_the_audit(store: Store, place: Place) -> None:
    """Who reads on from the last number seen misses nothing that others write meanwhile."""
    seen: list[str] = []

    async def read() -> None:
        last = 0
        while len(seen) < 60:
            rows = await store.audit.since(last, 7)
            seen.extend(row.subject for row in rows)
            last = rows[-1].seq if rows else last

    async def write(home: Store, name: str) -> None:
        for number in range(20):
            await home.keys.add(ACME, [key(f"{name}{number}")], OPERATOR)

    stores = [place.open() for _ in range(3)]
    async with asyncio.timeout(30):
        await asyncio.gather(
            read(), *(write(home, f"w{number}-") for number, home in enumerate(stores))
        )
    for home in stores:
        await home.close()

    assert len(set(seen)) == len(seen) == 60
