"""Whatever is cut off at any step is finished by whoever asks again, exactly once."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from keymux.core.health import Event
from keymux.stores.mongo import MongoStore
from keymux.stores.port import Batch, StoreUnavailable, UsageQuery
from tests.contract.records import (
    ACME,
    NOON,
    OPERATOR,
    actions_in,
    attempt,
    cooling,
    exchange,
    key,
    spare,
    state_of,
    transition,
)
from tests.stores.mongo.server import database_on, failing, running

pytestmark = pytest.mark.anyio

WRITES = ["insert", "update", "findAndModify", "delete"]
LOST: dict[str, object] = {"closeConnection": True}
DONE_AND_LOST: dict[str, object] = {"writeConcernError": {"code": 64, "errmsg": "too slow"}}
BATCH = Batch(
    (exchange(1), exchange(2, attempts=(attempt("k1"), attempt("k2")))),
    (transition("t1", cooling(60)),),
)

at_every_step = pytest.mark.parametrize("step", range(6))
however = pytest.mark.parametrize(
    "how",
    [
        pytest.param(LOST, id="the connection is lost before"),
        pytest.param(DONE_AND_LOST, id="it is done and nobody is told"),
    ],
)


@pytest.fixture(scope="module", params=[(), ("--standalone",)], ids=["replica set", "standalone"])
def breakable(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that may be told to fail."""
    with running(*request.param) as server:
        yield server.uri


@pytest.fixture
def place(breakable: str) -> Iterator[str]:
    """An empty database on it."""
    with database_on(breakable) as uri:
        yield uri


async def _filled(uri: str) -> MongoStore:
    store = MongoStore(uri, print)
    await store.prepare([ACME])
    await store.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await store.backups.add(ACME, [spare("b1"), spare("b2", NOON + 1)], OPERATOR)
    return store


async def _cut_off(
    uri: str, step: int, how: dict[str, object], work: Callable[[MongoStore], Awaitable[object]]
) -> None:
    store = MongoStore(uri, print, patience_s=0.5)
    await store.provider_state(ACME)
    with failing(uri, {"skip": step}, WRITES, **how), suppress(StoreUnavailable):
        await work(store)
    await store.close()


async def _counters_at_last(store: MongoStore) -> dict[str, tuple[int, int]]:
    """Requests and tokens of each key, when everything was added that can be."""
    store._booking._left_after_s = 0.0  # nobody else is at work
    await store.ledger.write(BATCH)
    await store.ledger.tidy()
    return {
        record.id: (record.requests_count, record.tokens_used)
        for record in await store.keys.load(ACME)
    }


@at_every_step
@however
async def test_a_batch_that_was_cut_off(place: str, step: int, how: dict[str, object]) -> None:
    """Written again, by the process itself or by the next one, it counts once."""
    store = await _filled(place)
    await _cut_off(place, step, how, lambda it: it.ledger.write(BATCH))
    await store.ledger.write(BATCH)
    await store.ledger.write(BATCH)
    counters = await _counters_at_last(store)
    (used,) = await store.ledger.usage(UsageQuery(by=()))

    assert counters == {"k1": (2, 300), "k2": (1, 0)}
    assert used.exchanges == 2
    assert await state_of(store) == cooling(60)
    assert (await actions_in(store)).count(("key.transition", "k1")) == 1
    await store.close()


@at_every_step
@however
async def test_a_promotion_that_was_cut_off(place: str, step: int, how: dict[str, object]) -> None:
    """The next process, when it starts, finishes it with the same spare, and it is audited once."""
    store = await _filled(place)
    await _cut_off(
        place, step, how, lambda it: it.backups.promote(ACME, "k1", at=NOON, actor="host:1")
    )
    await store.close()
    heir = MongoStore(place, print)
    await heir.prepare([ACME])
    promoted = await heir.backups.promote(ACME, "k1", at=NOON, actor="host:2")
    other = await heir.backups.promote(ACME, "k2", at=NOON, actor="host:2")
    replaced = {record.id: record.replaced_by for record in await heir.keys.load(ACME)}
    actions = await actions_in(heir)

    assert (promoted, other) == ("b1", "b2")
    assert replaced == {"k1": "b1", "k2": "b2", "b1": "", "b2": ""}
    assert actions.count(("backup.promote", "b1")) == 1
    await heir.close()


async def test_an_operator_acts_before_the_dead_key_is_marked(place: str) -> None:
    """The key is trusted again: the promotion is over for it, and its next death is another one."""
    before_the_mark = 2  # the spare is taken, its key has joined
    store = await _filled(place)
    await _cut_off(
        place,
        before_the_mark,
        LOST,
        lambda it: it.backups.promote(ACME, "k1", at=NOON, actor="host:1"),
    )
    await store.keys.change(ACME, "k1", Event.RESET, actor=OPERATOR, reason="fine")
    alive = await store.keys.find(ACME, "k1")
    promoted = await store.backups.promote(ACME, "k1", at=NOON, actor="host:2")
    await store.close()

    assert alive is not None
    assert not alive.replaced_by
    assert promoted == "b2"


async def test_a_commit_that_is_lost_is_asked_for_again(place: str) -> None:
    """Nobody knows whether it was done, and the server knows what was asked already."""
    store = await _filled(place)
    with failing(place, {"times": 2}, ["commitTransaction"], **LOST):
        await store.ledger.write(BATCH)
        await store.ledger.write(BATCH)
    (used,) = await store.ledger.usage(UsageQuery(by=()))

    assert used.exchanges == 2
    assert [record.tokens_used for record in await store.keys.load(ACME)] == [300, 0]
    await store.close()
