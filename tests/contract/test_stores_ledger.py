"""What every store promises about the ledger, and about the health that is written with it."""

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest
from msgspec.structs import replace

from keymux.core.health import Event, Status
from keymux.core.records import KeyState, Outcome, Transition
from keymux.core.vocabulary import Quality, Usage
from keymux.stores.port import Batch, Store, UsageQuery
from tests.contract.places import Place, opened
from tests.contract.records import (
    ACME,
    DAY_MS,
    NOON,
    OPERATOR,
    OTHER,
    actions_in,
    attempt,
    cooling,
    exchange,
    key,
    shaded,
    state_of,
    transition,
)

pytestmark = pytest.mark.anyio


# -- the ledger ----------------------------------------------------------------------------------
async def test_an_exchange_comes_back_as_it_was_written(store: Store) -> None:
    """Every field that is stored, set and unset."""
    full = exchange(
        1,
        outcome=Outcome.CUT,
        fault="stream_cut",
        attempts=(attempt("k0", started_ms=3), replace(attempt(), reason="é\x00\U0001f511")),
        quality=Quality.PARTIAL,
        cost_micros=None,
        bound_micros=2**53,
        first_ms=12,
        took_ms=345,
        upstream_id="up-1",
    )
    plain = exchange(2, provider="", key="", attempts=(), usage=Usage(), stream=False)
    await store.ledger.write(Batch(rows=(full, plain)))

    assert await store.ledger.find(full.id) == full
    assert await store.ledger.find(plain.id) == plain
    assert await store.ledger.find("req_0") is None
    assert await store.ledger.latest(10) == [plain, full]
    assert await store.ledger.latest(1) == [plain]


async def _counters(store: Store, provider: str = ACME) -> dict[str, tuple[int, int]]:
    return {
        record.id: (record.requests_count, record.tokens_used)
        for record in await store.keys.load(provider)
    }


async def test_an_exchange_counts_for_its_keys(store: Store) -> None:
    """A request for each attempt, the tokens for the key that served, and when that was."""
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.keys.add(OTHER, [key("k1")], OPERATOR)
    attempts = (attempt("k1"), attempt("k1", OTHER, 5), attempt("k2", started_ms=70))
    await store.ledger.write(Batch(rows=(exchange(key="k2", attempts=attempts),)))
    used = [record.last_used_at for record in await store.keys.load(ACME)]

    assert await _counters(store) == {"k1": (1, 0), "k2": (1, 150)}
    assert await _counters(store, OTHER) == {"k1": (1, 0)}
    assert used == [NOON, NOON + 70]


async def test_exchanges_of_unknown_keys_and_providers_are_kept(store: Store) -> None:
    """The key was removed, or the config names the provider no more: the row is written anyway."""
    rows = (exchange(1, key="gone"), exchange(2, provider="gone", attempts=(attempt("x", "gone"),)))
    gone = transition("t1", cooling(9), provider="gone")
    await store.ledger.write(Batch(rows=rows, transitions=(gone, transition("t2", cooling(9)))))

    assert len(await store.ledger.latest(10)) == 2
    assert await actions_in(store) == [("key.transition", "k1")] * 2
    assert await store.keys.load(ACME) == []


async def test_a_batch_may_be_written_again(store: Store) -> None:
    """Nothing is counted, audited or changed twice, also when batches overlap or repeat a row."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    rows = tuple(exchange(number) for number in range(1000))
    told = (transition("t1", cooling(60)),)
    for batch in (
        Batch(rows[:600], told),
        Batch(rows[:600], told),
        Batch(rows[300:], told + told),
        Batch(rows[:1] + rows[:1]),
        Batch(),
    ):
        await store.ledger.write(batch)

    assert await _counters(store) == {"k1": (1000, 150_000)}
    assert len(await store.ledger.latest(2000)) == 1000
    assert await actions_in(store) == [("key.add", "k1"), ("key.transition", "k1")]


def _write_from_a_process(place: Place, batches: Sequence[Batch]) -> None:
    async def write() -> None:
        async with opened(place) as store:
            for batch in batches:
                await store.ledger.write(batch)

    asyncio.run(write())


async def test_processes_may_write_the_same_rows(store: Store, place: Place) -> None:
    """Two processes recover the same exchanges at once, in different order: each counts once."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    batches = [
        Batch(tuple(exchange(number) for number in range(first, first + 20)))
        for first in range(0, 400, 10)
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        work = [
            asyncio.get_running_loop().run_in_executor(
                processes, _write_from_a_process, place, part
            )
            for part in (batches, batches[::-1])
        ]
        await asyncio.gather(*work)

    assert await _counters(store) == {"k1": (410, 410 * 150)}


async def test_the_counters_are_the_sum_of_the_rows(store: Store, place: Place) -> None:
    """Whatever is written by whom: what a key has used is what the ledger says."""
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    rows = [
        exchange(number, key=f"k{number % 2 + 1}", attempts=(attempt("k1"),) * (number % 3))
        for number in range(300)
    ]
    async with opened(place) as other:
        await asyncio.gather(
            *(store.ledger.write(Batch(tuple(rows[at : at + 30]))) for at in range(0, 300, 20)),
            *(other.ledger.write(Batch(tuple(rows[at : at + 50]))) for at in range(0, 300, 50)),
        )
    by_key = await store.ledger.usage(UsageQuery(by=("key",)))
    counters = await _counters(store)

    assert {line.group[0]: line.usage.total for line in by_key} == {
        name: tokens for name, (_, tokens) in counters.items()
    }
    assert counters["k1"][0] == sum(len(row.attempts) for row in rows)


# -- usage ---------------------------------------------------------------------------------------
async def _fill(store: Store) -> None:
    rows = (
        exchange(1, NOON),
        exchange(2, NOON + 1, model="haiku", outcome=Outcome.FAILED, cost_micros=None),
        exchange(3, NOON + DAY_MS, caller="client_2", key="k2"),
        exchange(4, NOON + DAY_MS, provider=OTHER),
    )
    await store.ledger.write(Batch(rows))


async def test_usage_is_added_up(store: Store) -> None:
    """Exchanges, failures, tokens by class, cost, and how many have no price."""
    await _fill(store)
    lines = await store.ledger.usage(UsageQuery(by=()))

    assert [(line.group, line.exchanges, line.failed) for line in lines] == [((), 4, 1)]
    assert lines[0].usage == Usage(40, 80, 120, 160, 200, 20)
    assert (lines[0].cost_micros, lines[0].unpriced) == (3000, 1)


GROUPS = [
    pytest.param(
        ("day",), [(("2025-11-13",), 2), (("2025-11-14",), 2)], id="by day, in UTC, in order"
    ),
    pytest.param(("model",), [(("haiku",), 1), (("sonnet",), 3)], id="by model"),
    pytest.param(("provider",), [((ACME,), 3), ((OTHER,), 1)], id="by provider"),
    pytest.param(("key",), [(("k1",), 3), (("k2",), 1)], id="by upstream key"),
    pytest.param(("caller",), [(("client_1",), 3), (("client_2",), 1)], id="by caller"),
    pytest.param(
        ("provider", "model"),
        [((ACME, "haiku"), 1), ((ACME, "sonnet"), 2), ((OTHER, "sonnet"), 1)],
        id="by two of them",
    ),
]


@pytest.mark.parametrize(("by", "expected"), GROUPS)
async def test_usage_is_grouped(
    store: Store, by: tuple[str, ...], expected: list[tuple[tuple[str, ...], int]]
) -> None:
    """By what was asked for, in that order."""
    await _fill(store)
    lines = await store.ledger.usage(UsageQuery(by=by))

    assert [(line.group, line.exchanges) for line in lines] == expected


RANGES = [
    pytest.param(0, None, 4, id="from the beginning, without an end"),
    pytest.param(NOON, NOON + 1, 1, id="the start is included, the end is not"),
    pytest.param(NOON + 1, NOON + DAY_MS, 1, id="a later start"),
    pytest.param(NOON + 2, None, 2, id="from a moment on"),
    pytest.param(NOON + DAY_MS + 1, None, 0, id="after everything"),
    pytest.param(NOON + 5, NOON + 5, 0, id="no time at all"),
    pytest.param(-5, 10**18, 4, id="moments that no clock shows"),
]


@pytest.mark.parametrize(("since", "until", "expected"), RANGES)
async def test_usage_of_a_time(store: Store, since: int, until: int | None, expected: int) -> None:
    """Exactly the exchanges that began within it."""
    await _fill(store)
    lines = await store.ledger.usage(UsageQuery(by=(), since=since, until=until))

    assert sum(line.exchanges for line in lines) == expected


async def test_an_exchange_counts_when_it_began(store: Store) -> None:
    """Its id was given a little before: a moment earlier must not hide it."""
    late = replace(exchange(1, NOON), at=NOON + 1500)
    await store.ledger.write(Batch((late,)))
    lines = await store.ledger.usage(UsageQuery(by=(), since=NOON + 1000, until=NOON + 2000))

    assert [line.exchanges for line in lines] == [1]


# -- transitions ---------------------------------------------------------------------------------
async def _write(store: Store, *told: Transition) -> KeyState:
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    for one in told:
        await store.ledger.write(Batch(transitions=(one,)))
    return await state_of(store)


async def test_a_transition_is_stored_and_audited(store: Store) -> None:
    """State, reason, last error, and a line of the audit with both statuses."""
    state = await _write(store, transition("t1", cooling(60)))
    record = await store.keys.find(ACME, "k1")
    told = (await store.audit.latest(1))[0]

    assert state == cooling(60)
    assert record is not None
    assert (record.last_error, record.updated_at) == ("reason of t1", NOON)
    assert (told.action, told.subject, told.actor) == ("key.transition", "k1", "host:1")
    assert (told.before, told.after, told.reason) == ("healthy", "rate_limited", "reason of t1")


async def test_a_recovery_keeps_the_last_error(store: Store) -> None:
    """Being well again is no error."""
    await _write(store, transition("t1", cooling(60)), transition("t2", KeyState(generation=2)))
    record = await store.keys.find(ACME, "k1")

    assert record is not None
    assert (record.state.status, record.last_error) == (Status.HEALTHY, "reason of t1")


async def test_a_later_generation_is_not_overwritten(store: Store) -> None:
    """News that arrives late is audited and changes nothing."""
    state = await _write(store, transition("t2", cooling(60, 3)), transition("t1", cooling(900, 2)))

    assert state == cooling(60, 3)
    assert len(await actions_in(store)) == 3


async def test_of_two_deadlines_the_later_holds(store: Store) -> None:
    """Two processes came to the same generation with different deadlines, in either order."""
    first = await _write(store, transition("t1", cooling(60)), transition("t2", cooling(90)))
    again = await _write(store, transition("t3", cooling(30)))

    assert first == again == cooling(90)


@pytest.mark.parametrize("status", [Status.QUARANTINED, Status.DISABLED])
async def test_what_an_operator_decides_stands(store: Store, place: Place, status: Status) -> None:
    """No transition of a process takes a key out of quarantine, or enables it."""
    await store.keys.add(ACME, [key("k1")], OPERATOR)
    place.set_status(ACME, "k1", status)
    await store.ledger.write(
        Batch(
            transitions=(
                transition("t1", KeyState(generation=50)),
                transition("t2", shaded("sonnet", 60, 50), "sonnet"),
            )
        )
    )
    state = await state_of(store)

    assert (state.status, state.shades) == (status, {})
    assert len(await actions_in(store)) == 3


async def test_an_operator_is_not_overruled_by_what_happened_before(store: Store) -> None:
    """A reset counts as a generation: older news does not undo it."""
    await _write(store, transition("t1", cooling(60)))
    await store.keys.change(ACME, "k1", Event.RESET, actor=OPERATOR, reason="")
    state = await _write(store, transition("t2", cooling(90)))

    assert (state.status, state.generation) == (Status.HEALTHY, 2)


async def test_condemning_needs_no_deadline(store: Store) -> None:
    """Of a deadline and a quarantine in one generation the quarantine holds."""
    dead = KeyState(Status.QUARANTINED, None, "revoked", 0, 1)
    state = await _write(store, transition("t1", cooling(60)), transition("t2", dead))

    assert state == dead


async def test_a_model_cools_alone(store: Store) -> None:
    """The key itself is well, other models keep their cooldowns; what people see is the worst."""
    state = await _write(
        store,
        transition("t1", shaded("sonnet", 60), "sonnet"),
        transition("t2", shaded("haiku", 90), "haiku"),
    )
    both = shaded("sonnet", 60).shades | shaded("haiku", 90).shades

    assert (state.status, state.cooldown_until, state.shades) == (Status.HEALTHY, None, both)
    assert (await store.audit.latest(1))[0].reason == "reason of t2 (haiku)"


async def test_a_model_is_well_again(store: Store) -> None:
    """Its cooldown is taken away, and no other."""
    state = await _write(
        store,
        transition("t1", shaded("sonnet", 60), "sonnet"),
        transition("t2", shaded("haiku", 90), "haiku"),
        transition("t3", KeyState(), "haiku", after=Status.HEALTHY),
    )

    assert list(state.shades) == ["sonnet"]


async def test_a_transition_of_the_key_leaves_its_models_alone(store: Store) -> None:
    """It neither knows nor changes what other processes found out about models."""
    state = await _write(
        store,
        transition("t1", shaded("sonnet", 600), "sonnet"),
        transition("t2", cooling(60)),
    )

    assert (state.status, state.cooldown_until) == (Status.RATE_LIMITED, NOON + 60_000)
    assert list(state.shades) == ["sonnet"]
