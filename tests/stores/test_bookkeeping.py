"""The book: every exchange and transition reaches the store once, whatever the store does."""

import asyncio
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keymux.core.faults import LedgerFull
from keymux.core.health import Status
from keymux.core.records import (
    AttemptRecord,
    AttemptStarted,
    ExchangeRow,
    Outcome,
    Reservation,
    Transition,
    UsageLine,
)
from keymux.core.vocabulary import Quality
from keymux.stores.bookkeeping import (
    BATCH_LIMIT,
    FLUSH_EVERY_S,
    QUEUE_LIMIT,
    RETRY_EVERY_S,
    TIDY_EVERY_S,
    Bookkeeper,
    recover,
)
from keymux.stores.journal import SEGMENT_BYTES, Journal, orphans
from keymux.stores.port import Batch, StoreUnavailable, StoreUnusable, UsageQuery
from keymux.stores.sqlite import SqliteStore
from tests.contract.records import ACME, cooling, exchange, key, transition
from tests.pools.rig import Clock, run, settle, spawn

_LARGE = "x" * (SEGMENT_BYTES // 4)


class ScriptedLedger:
    """A ledger in memory that does as it is told.

    Attributes:
        trouble: raised by every write while it is set.
        takes: writes that go well before the trouble.
        gate: writes wait for it.
        batches: the ids of everything that was written, in order.
    """

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.takes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tries = 0
        self.rows: dict[str, ExchangeRow] = {}
        self.batches: list[list[str]] = []

    async def write(self, batch: Batch) -> None:
        """Take a batch, or not."""
        self.tries += 1
        await self.gate.wait()
        if self.trouble and not self.takes:
            raise self.trouble
        self.takes -= bool(self.trouble)
        self.rows |= {row.id: row for row in batch.rows if row.id not in self.rows}
        self.batches.append([row.id for row in batch.rows] + [one.id for one in batch.transitions])

    @property
    def written(self) -> list[str]:
        """Ids in the order of writing."""
        return [name for batch in self.batches for name in batch]

    async def tidy(self) -> None:
        """Nothing is left for later."""

    async def find(self, exchange_id: str) -> ExchangeRow | None:
        """One exchange."""
        return self.rows.get(exchange_id)

    async def latest(self, limit: int) -> list[ExchangeRow]:
        """Nobody asks."""
        return list(self.rows.values())[-limit:]

    async def usage(self, query: UsageQuery) -> list[UsageLine]:
        """Nobody asks."""
        return []


class Office:
    """A book with everything around it."""

    def __init__(self, folder: Path, queue_limit: int = QUEUE_LIMIT) -> None:
        self.folder = folder
        self.journal = Journal(folder, "me")
        self.ledger = ScriptedLedger()
        self.told: list[str] = []
        self.alarms: list[str] = []
        self.book = Bookkeeper(
            self.journal, self.ledger, self._tell, self.alarms.append, queue_limit=queue_limit
        )
        self.settled: list[str] = []

    def _tell(self, rows: Sequence[ExchangeRow]) -> None:
        self.told.extend(row.id for row in rows)

    def settle(self, many: int = 1) -> None:
        """So many exchanges end."""
        for _ in range(many):
            row = exchange(len(self.settled))
            self.book.settle(row)
            self.settled.append(row.id)

    def flush(self) -> bool:
        """Write what there is."""
        return asyncio.run(self.book.flush())

    def close(self) -> None:
        """End the process."""
        self.journal.close()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A book whose queue holds five entries."""
    made = Office(tmp_path, queue_limit=5)
    yield made
    made.close()


@contextmanager
def _full_disk() -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def _reservation(name: str = "req_1", **fields: Any) -> Reservation:
    return Reservation(
        name, 7, "client_1", "openai", "generate", "asked", "sonnet", stream=True, **fields
    )


def _attempt(name: str = "req_1", key_id: str = "k1") -> AttemptStarted:
    return AttemptStarted(name, AttemptRecord(ACME, "sonnet", key_id))


def _fill_journal(office: Office) -> None:
    """Leave no room in the journal for anything that is large."""
    for _ in range(9):
        office.book.reserve(_reservation("filler", prompt_tokens=1))
        office.journal.append("filler", _reservation(_LARGE))


# -- when all is well ----------------------------------------------------------------------------
def test_an_exchange_reaches_the_store(office: Office) -> None:
    """Its journal entries are released then, its row is told, and nothing is left to do."""
    name = exchange(0).id
    office.book.reserve(_reservation(name))
    office.book.begin(_attempt(name))
    office.settle()
    before = office.book.depth

    assert office.flush()
    assert (before, office.book.depth, office.book.written) == (1, 0, 1)
    assert office.ledger.rows == {name: exchange(0)}
    assert office.told == [name]
    assert office.journal.segments() == ()
    assert office.alarms == []


def test_transitions_travel_with_the_exchanges(office: Office) -> None:
    """In one batch, and they are no exchanges."""
    office.settle()
    office.book.note(transition("t1", cooling(9)))
    office.flush()

    assert office.ledger.batches == [[*office.settled, "t1"]]
    assert (office.book.written, office.told) == (1, office.settled)
    assert office.journal.segments() == ()


def test_an_idle_book_asks_nothing_of_the_store(office: Office) -> None:
    """There is nothing to write."""
    assert office.flush()
    assert office.ledger.tries == 0


def test_large_heaps_go_in_batches(tmp_path: Path) -> None:
    """No transaction grows without bound."""
    office = Office(tmp_path)
    office.settle(5000)
    office.flush()
    office.close()

    assert [len(batch) for batch in office.ledger.batches] == [BATCH_LIMIT, BATCH_LIMIT, 904]
    assert office.ledger.written == office.told == office.settled


def test_what_is_booked_meanwhile_is_not_forgotten(office: Office) -> None:
    """Exchanges that end while a batch is being written go with the next."""

    async def meanwhile() -> None:
        office.ledger.gate.clear()
        office.settle()
        writing = spawn(office.book.flush())
        await asyncio.sleep(0)
        office.settle(3)
        office.ledger.gate.set()
        await writing

    asyncio.run(meanwhile())

    assert [len(batch) for batch in office.ledger.batches] == [1, 3]
    assert office.told == office.settled


# -- the background ------------------------------------------------------------------------------
def _running(office: Office, during: Callable[[Clock], Any]) -> Any:
    clock = Clock()

    async def scene() -> Any:
        work = spawn(office.book.run())
        try:
            return await during(clock)
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    return run(scene(), clock)


def test_little_is_written_soon(office: Office) -> None:
    """A single exchange waits for others, but no longer than the time between two batches."""

    async def one(clock: Clock) -> tuple[int, int]:
        await asyncio.sleep(0)
        office.settle()
        await asyncio.sleep(FLUSH_EVERY_S * 0.99)
        early = len(office.ledger.rows)
        await asyncio.sleep(FLUSH_EVERY_S * 0.02)
        return early, len(office.ledger.rows)

    assert _running(office, one) == (0, 1)


def test_much_is_written_at_once(tmp_path: Path) -> None:
    """A full batch does not wait for the clock."""
    office = Office(tmp_path)

    async def many(clock: Clock) -> float:
        await asyncio.sleep(FLUSH_EVERY_S * 1.1)
        begun = clock()
        office.settle(BATCH_LIMIT)
        await settle()
        return clock() - begun

    waited = _running(office, many)
    office.close()

    assert (waited, len(office.ledger.rows)) == (0.0, BATCH_LIMIT)


def test_a_store_that_is_away_is_not_pestered(office: Office) -> None:
    """It is asked once a second, and found again when it is back."""

    async def away(clock: Clock) -> tuple[int, bool]:
        office.ledger.trouble = StoreUnavailable("away")
        office.settle()
        await asyncio.sleep(RETRY_EVERY_S * 10.1)
        tries, office.ledger.trouble = office.ledger.tries, None
        await asyncio.sleep(RETRY_EVERY_S * 1.1)
        return tries, office.book.is_writing

    tries, is_writing = _running(office, away)

    assert 9 <= tries <= 11
    assert is_writing
    assert office.ledger.written == office.settled


def test_the_journal_is_kept_tidy(office: Office) -> None:
    """There is always a spare segment, so that the request path never waits for one."""

    async def tidy() -> None:
        work = spawn(office.book.keep_tidy())
        for number in range(30):
            office.book.note(transition(f"t{number}", cooling(9), reason=_LARGE))
            await office.book.flush()
            await asyncio.sleep(TIDY_EVERY_S * 1.1)
            while office.journal.is_untidy:  # noqa: ASYNC110 -- a thread sees to it
                await asyncio.sleep(TIDY_EVERY_S)
        work.cancel()

    run(tidy(), Clock())

    assert len(office.ledger.written) == 30
    assert len(list((office.folder / "me").glob("*.journal"))) <= 4
    assert office.alarms == []


# -- the store is away ---------------------------------------------------------------------------
AWAY = [
    pytest.param(StoreUnavailable("away"), id="it cannot be reached"),
    pytest.param(StoreUnusable("malformed"), id="it cannot be used as it is"),
]


@pytest.mark.parametrize("trouble", AWAY)
def test_nothing_is_lost_while_the_store_is_away(office: Office, trouble: Exception) -> None:
    """D02, D03: the operator is told once each way; rows arrive in order, and are told once."""
    office.ledger.trouble = trouble
    results = []
    for _ in range(4):
        office.settle(3)
        results.append(office.flush())
    depth, was_writing = office.book.depth, office.book.is_writing
    told = tuple(office.told)
    office.ledger.trouble = None
    results.append(office.flush())

    assert results == [False] * 4 + [True]
    assert list(told) == office.settled
    assert (depth, was_writing, office.book.depth, office.book.is_writing) == (12, False, 0, True)
    assert office.ledger.written == office.told == office.settled
    assert office.journal.segments() == ()
    assert office.alarms == [
        f"the store does not take entries: {trouble}",
        "the store takes entries again",
    ]


def test_memory_is_bounded_while_the_store_is_away(office: Office) -> None:
    """Beyond the limit entries live in the journal alone."""
    office.ledger.trouble = StoreUnavailable("away")
    office.settle(100)

    assert len(office.book._queue) == 5
    assert office.book.depth == 100


def test_entries_arrive_in_the_order_of_events(office: Office) -> None:
    """A model that cooled and got well again must not be found cooling in the store.

    The queue has room again before all is written that did not fit into it.
    """
    office.ledger.trouble = StoreUnavailable("away")
    for number in range(8):
        office.book.note(transition(f"t{number}", cooling(9)))
    office.ledger.takes = 1
    office.flush()
    for number in range(8, 20):
        office.book.note(transition(f"t{number}", cooling(9)))
    office.ledger.takes = 1
    office.flush()
    office.ledger.trouble = None
    office.flush()

    assert office.ledger.written == [f"t{number}" for number in range(20)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("settle"), st.integers(1, 7)),
            st.tuples(st.just("flush"), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_order_of_events(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]
) -> None:
    """Ends of exchanges and writes that fail after a while: all arrive, once and in order."""
    office = Office(tmp_path_factory.mktemp("office"), queue_limit=3)
    office.ledger.trouble = StoreUnavailable("away")
    for event, number in events:
        if event == "settle":
            office.settle(number)
        else:
            office.ledger.takes = number
            office.flush()
        assert office.book.depth == len(office.settled) - len(office.ledger.written)
    office.ledger.trouble = None
    office.flush()
    office.close()

    assert office.ledger.written == office.told == office.settled


def test_who_is_cancelled_loses_nothing(office: Office) -> None:
    """The process is told to end in the midst of a write: the last flush writes it again."""

    async def interrupted() -> None:
        office.ledger.gate.clear()
        office.settle(2)
        writing = spawn(office.book.flush())
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        office.ledger.gate.set()
        await office.book.flush()

    asyncio.run(interrupted())

    assert office.ledger.written == office.told == office.settled


def test_a_damaged_journal_is_not_read_for_ever(office: Office) -> None:
    """What it does not give back is reported as lost; the book goes on."""
    office.ledger.trouble = StoreUnavailable("away")
    office.settle(8)
    segment = office.journal.segments()[0]
    with segment.path.open("r+b") as file:
        file.seek(len(segment.content()) - 3)
        file.write(b"\xff\xff\xff")
    office.ledger.trouble = None

    assert office.flush()
    assert office.ledger.written == office.settled[:7]
    assert "the journal was damaged: 1 entries are lost" in office.alarms
    assert office.journal.segments() == ()


# -- no space ------------------------------------------------------------------------------------
def test_without_a_journal_the_store_is_enough(office: Office) -> None:
    """A full journal turns nobody away as long as the store keeps up."""
    _fill_journal(office)
    office.book.reserve(_reservation(_LARGE))
    office.book.begin(_attempt(_LARGE))
    office.book.settle(exchange(1, id=_LARGE))

    assert office.flush()
    assert list(office.ledger.rows) == [_LARGE]


def test_new_exchanges_are_refused_when_nothing_takes_them(office: Office) -> None:
    """D09: neither journal nor store; what runs already is still booked and never dropped."""
    office.ledger.trouble = StoreUnavailable("away")
    _fill_journal(office)
    large = [exchange(number, asked=_LARGE) for number in range(7)]
    for row in large[:5]:
        office.book.reserve(_reservation(_LARGE))
        office.book.settle(row)
    with pytest.raises(LedgerFull) as refused:
        office.book.reserve(_reservation(_LARGE))
    for row in large[5:]:
        office.book.settle(row)
    office.ledger.trouble = None
    office.flush()
    office.book.reserve(_reservation(_LARGE))

    assert refused.value.retry_after is not None
    assert office.ledger.written == [row.id for row in large]


def test_a_disk_that_fills_up_is_reported_once(office: Office) -> None:
    """And once more when it has space again."""

    async def fill() -> None:
        work = spawn(office.book.keep_tidy())
        with _full_disk():
            _fill_journal(office)
            while not office.alarms:  # noqa: ASYNC110 -- as below
                await asyncio.sleep(TIDY_EVERY_S)
            await asyncio.sleep(TIDY_EVERY_S * 5)
        while len(office.alarms) < 2:  # noqa: ASYNC110 -- a thread sees to it
            await asyncio.sleep(TIDY_EVERY_S)
        work.cancel()

    run(fill(), Clock())

    assert office.alarms == [
        "no space for the journal: File too large",
        "the journal has space again",
    ]


# -- recovery ------------------------------------------------------------------------------------
def _die(folder: Path, *entries: Reservation | AttemptStarted | ExchangeRow | Transition) -> None:
    """A process that left these entries and is dead."""
    journal = Journal(folder, "dead")
    for entry in entries:
        journal.append(entry.id, entry)
    journal.close()


def _recover(folder: Path, ledger: ScriptedLedger) -> int:
    async def all_of_them() -> int:
        return sum([await recover(orphan, ledger) for orphan in orphans(folder)])

    return asyncio.run(all_of_them())


def test_an_exchange_without_an_end_becomes_a_row(tmp_path: Path) -> None:
    """T02: interrupted, with its attempts, its cost unknown and its highest possible cost."""
    _die(
        tmp_path,
        _reservation(bound_micros=99),
        _attempt(key_id="k1"),
        _attempt(key_id="k2"),
        _reservation("req_2"),
    )
    ledger = ScriptedLedger()
    count = _recover(tmp_path, ledger)

    assert count == len(ledger.rows) == 2
    assert ledger.rows["req_1"] == ExchangeRow(
        id="req_1",
        at=7,
        caller="client_1",
        format="openai",
        operation="generate",
        asked="asked",
        model="sonnet",
        stream=True,
        outcome=Outcome.INTERRUPTED,
        fault="interrupted",
        attempts=(AttemptRecord(ACME, "sonnet", "k1"), AttemptRecord(ACME, "sonnet", "k2")),
        quality=Quality.UNKNOWN,
        bound_micros=99,
    )
    assert ledger.rows["req_2"].attempts == ()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_had_begun_is_known(tmp_path: Path) -> None:
    """Booked and not settled: the next process finds the exchange and the attempt in its row."""
    office = Office(tmp_path)
    office.book.reserve(_reservation())
    office.book.begin(_attempt())
    office.close()
    ledger = ScriptedLedger()

    assert _recover(tmp_path, ledger) == 1
    assert ledger.rows["req_1"].attempts == (_attempt().attempt,)


def test_what_had_an_end_is_written_as_it_was(tmp_path: Path) -> None:
    """Settled exchanges and transitions, in order; none of them counts as interrupted."""
    row = exchange(1)
    told = transition("t1", cooling(9, status=Status.EXHAUSTED))
    _die(tmp_path, _reservation(row.id), _attempt(row.id), row, told, _attempt("unheard of"))
    ledger = ScriptedLedger()

    assert _recover(tmp_path, ledger) == 0
    assert ledger.rows == {row.id: row}
    assert ledger.written == [row.id, "t1"]


def test_an_end_that_only_the_store_knows(tmp_path: Path) -> None:
    """The segment with the end was used again, the one with the beginning was not."""
    row = exchange(1)
    _die(tmp_path, _reservation(row.id), _attempt(row.id))
    ledger = ScriptedLedger()
    ledger.rows[row.id] = row

    assert _recover(tmp_path, ledger) == 0
    assert ledger.rows == {row.id: row}


def test_a_late_entry_does_not_open_an_exchange_again(tmp_path: Path) -> None:
    """Whatever stands after the end of an exchange, it has ended."""
    row = exchange(1)
    _die(tmp_path, row, _reservation(row.id), _attempt(row.id))
    ledger = ScriptedLedger()

    assert _recover(tmp_path, ledger) == 0
    assert ledger.rows == {row.id: row}


@pytest.mark.parametrize("takes", [0, 1])
def test_a_recovery_that_fails_is_done_later(tmp_path: Path, takes: int) -> None:
    """The folder stays until the store has everything; what it has already does no harm."""
    _die(tmp_path, exchange(1), _reservation())
    ledger = ScriptedLedger()
    ledger.trouble, ledger.takes = StoreUnavailable("away"), takes
    with pytest.raises(StoreUnavailable):
        _recover(tmp_path, ledger)
    ledger.trouble = None

    assert _recover(tmp_path, ledger) == 1
    assert set(ledger.rows) == {exchange(1).id, "req_1"}
    assert _recover(tmp_path, ledger) == 0


def test_a_long_absence_is_recovered_in_batches(tmp_path: Path) -> None:
    """Thousands of exchanges, with and without an end."""
    rows = [exchange(number) for number in range(3000)]
    _die(tmp_path, *rows, *(_reservation(f"req_{number}") for number in range(3000)))
    ledger = ScriptedLedger()

    assert _recover(tmp_path, ledger) == 3000
    assert [len(batch) for batch in ledger.batches] == [BATCH_LIMIT, 952] * 2


def test_a_process_that_dies_and_dies_again(tmp_path: Path) -> None:
    """With the real store: rows, counters and audit are right, however often it is recovered."""
    luck = Random(7)  # noqa: S311 -- an order
    rows = [exchange(number) for number in range(200)]
    entries = [entry for row in rows for entry in (_reservation(row.id), _attempt(row.id), row)]

    async def scene() -> tuple[int, list[ExchangeRow], int]:
        store = SqliteStore(tmp_path / "keymux.db")
        await store.prepare([ACME])
        await store.keys.add(ACME, [key("k1")], "me")
        for round_ in range(5):
            upto = luck.randrange(len(entries))
            _die(tmp_path / "journals", *entries[:upto], *entries[:round_])
            for orphan in orphans(tmp_path / "journals"):
                await recover(orphan, store.ledger)
        found = await store.ledger.latest(1000)
        record = await store.keys.find(ACME, "k1")
        await store.close()
        return record.requests_count if record else 0, found, len({row.id for row in found})

    requests, found, ids = asyncio.run(scene())

    assert len(found) == ids
    assert requests == sum(len(row.attempts) for row in found)
