"""Carries what happened from the request path to the store.

Booking returns at once: an entry is copied into the journal and put into a queue. One background
loop writes the queue to the store in batches. While the store is away the queue is kept up to a
limit; from then on entries live in the journal alone, until they are read back from there. They
reach the store in the order in which they happened. Every write can be repeated, because the store
knows exchanges and transitions by their ids.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from keymux.core.faults import LedgerFull
from keymux.core.records import (
    AttemptRecord,
    AttemptStarted,
    ExchangeRow,
    Outcome,
    Reservation,
    Transition,
)
from keymux.core.vocabulary import Quality
from keymux.stores.journal import Entry, Journal, JournalFull, Orphan, entries_of
from keymux.stores.port import Batch, Ledger, StoreUnavailable, StoreUnusable

FLUSH_EVERY_S = 0.25
TIDY_EVERY_S = 0.05
RETRY_EVERY_S = 1.0
QUEUE_LIMIT = 10_000
BATCH_LIMIT = 2048
_COME_BACK_S = 5.0
_STORE, _JOURNAL = "store", "journal"

Settled = ExchangeRow | Transition


class Bookkeeper:
    """The book of this process.

    Args:
        journal: where entries are safe.
        ledger: where they belong.
        tell: told of settled exchanges, some at a time, each once.
        alarm: told when booking gets into trouble and out of it again.
        queue_limit: entries in memory; beyond that they live in the journal alone.

    Attributes:
        written: exchanges that the store has acknowledged.
    """

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        tell: Callable[[Sequence[ExchangeRow]], None],
        alarm: Callable[[str], None],
        *,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._tell = tell
        self._untold: list[ExchangeRow] = []
        self._alarm = alarm
        self._queue_limit = queue_limit
        self._behind: set[str] = set()  # in the journal alone, older than the queue
        self._queue: list[Settled] = []
        self._spilled: set[str] = set()  # in the journal alone, newer than the queue
        self._troubles: set[str] = set()
        self._wake = asyncio.Event()
        self.written = 0

    @property
    def depth(self) -> int:
        """Entries that the store does not have yet."""
        return len(self._behind) + len(self._queue) + len(self._spilled)

    @property
    def is_writing(self) -> bool:
        """Whether the last write to the store went well."""
        return _STORE not in self._troubles

    # -- the request path ---------------------------------------------------------------------
    def reserve(self, reservation: Reservation) -> None:
        """An exchange was admitted.

        Raises:
            LedgerFull: the journal has no room, and the store is too far behind to do without.
        """
        if not self._keep(reservation.id, reservation) and len(self._queue) >= self._queue_limit:
            raise LedgerFull(retry_after=_COME_BACK_S)

    def begin(self, attempt: AttemptStarted) -> None:
        """An attempt is about to be sent."""
        self._keep(attempt.id, attempt)

    def settle(self, row: ExchangeRow) -> None:
        """An exchange is over."""
        self._untold.append(row)
        self._enqueue(row.id, row)

    def note(self, transition: Transition) -> None:
        """The health of a key or provider has changed; other processes wait to hear of it."""
        self._enqueue(transition.id, transition)
        self._wake.set()

    def _enqueue(self, owner: str, entry: Settled) -> None:
        safe = self._keep(owner, entry)
        if safe and (self._spilled or len(self._queue) >= self._queue_limit):
            self._spilled.add(owner)
            return
        self._queue.append(entry)
        if len(self._queue) >= BATCH_LIMIT:
            self._wake.set()

    def _keep(self, owner: str, entry: Entry) -> bool:
        try:
            self._journal.append(owner, entry)
        except JournalFull:
            return False
        return True

    # -- the background -----------------------------------------------------------------------
    async def run(self) -> None:
        """Write to the store until cancelled; when it does not take anything, not too often."""
        while True:
            if self.is_writing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_EVERY_S):
                        await self._wake.wait()
            else:
                await asyncio.sleep(RETRY_EVERY_S)
            await self.flush()

    async def keep_tidy(self) -> None:
        """Keep room in the journal, however the store is doing, until cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            if self._journal.is_untidy:
                await self._tidy()

    async def flush(self) -> bool:
        """Write everything there is; False when the store did not take it."""
        self._wake.clear()
        self._tell_all()
        try:
            while self.depth:
                await self._write_oldest()
                self._tell_all()
        except (StoreUnavailable, StoreUnusable) as error:
            self._in_trouble(_STORE, f"the store does not take entries: {error}")
            return False
        self._out_of_trouble(_STORE, "the store takes entries again")
        return True

    async def _write_oldest(self) -> None:
        if self._behind:
            await self._catch_up()
        elif taken := self._queue[:BATCH_LIMIT]:
            await self._write(taken)
            del self._queue[: len(taken)]
        else:
            self._behind, self._spilled = self._spilled, self._behind

    def _tell_all(self) -> None:
        if self._untold:
            rows, self._untold = self._untold, []
            self._tell(rows)

    async def _write(self, entries: Sequence[Settled]) -> None:
        batch = _batch(entries)
        await self._ledger.write(batch)
        self.written += len(batch.rows)
        for entry in entries:
            self._behind.discard(entry.id)
            self._journal.release(entry.id)

    async def _catch_up(self) -> None:
        """Write what lives in the journal alone."""
        for segment in self._journal.segments():
            entries = await asyncio.to_thread(entries_of, segment.content())
            for chunk in _chunks(entry for entry in _settled(entries) if entry.id in self._behind):
                await self._write(chunk)
        if self._behind:
            self._give_up()

    def _give_up(self) -> None:
        """What the journal does not give back any more must not be looked for again and again."""
        self._alarm(f"the journal was damaged: {len(self._behind)} entries are lost")
        for owner in self._behind:
            self._journal.release(owner)
        self._behind.clear()

    async def _tidy(self) -> None:
        try:
            await asyncio.to_thread(self._journal.tidy)
        except OSError as error:
            self._in_trouble(_JOURNAL, f"no space for the journal: {error.strerror}")
        else:
            self._out_of_trouble(_JOURNAL, "the journal has space again")

    def _in_trouble(self, what: str, text: str) -> None:
        if what not in self._troubles:
            self._troubles.add(what)
            self._alarm(text)

    def _out_of_trouble(self, what: str, text: str) -> None:
        if what in self._troubles:
            self._troubles.remove(what)
            self._alarm(text)


async def recover(orphan: Orphan, ledger: Ledger) -> int:
    """Write what a dead process left; an exchange without an end becomes a row of its own.

    Returns:
        How many exchanges had no end.

    Raises:
        StoreUnavailable: nothing is lost; the folder is kept for later.
    """
    found = _Unfinished()
    try:
        for settled in _chunks(_settled(found.watch(orphan.entries()))):
            await ledger.write(_batch(settled))
        # the end of an exchange can be in a segment that was used again: the store had it by then
        interrupted = [row for row in found.rows() if await ledger.find(row.id) is None]
        for rows in _chunks(interrupted):
            await ledger.write(_batch(rows))
    except BaseException:
        orphan.leave()
        raise
    orphan.drop()
    return len(interrupted)


class _Unfinished:
    """Collects exchanges that were admitted and never settled."""

    def __init__(self) -> None:
        self._settled: set[str] = set()
        self._open: dict[str, Reservation] = {}
        self._attempts: dict[str, list[AttemptRecord]] = {}

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Pass entries on, and remember what they leave open."""
        for entry in entries:
            if isinstance(entry, ExchangeRow):
                self._settled.add(entry.id)
                self._open.pop(entry.id, None)
                self._attempts.pop(entry.id, None)
            elif isinstance(entry, Reservation) and entry.id not in self._settled:
                self._open[entry.id] = entry
            elif isinstance(entry, AttemptStarted) and entry.id in self._open:
                self._attempts.setdefault(entry.id, []).append(entry.attempt)
            yield entry

    def rows(self) -> Iterator[ExchangeRow]:
        """A row for each."""
        for reservation in self._open.values():
            yield _interrupted_row(reservation, self._attempts.get(reservation.id, []))


def _settled(entries: Iterable[Entry]) -> Iterator[Settled]:
    return (entry for entry in entries if isinstance(entry, ExchangeRow | Transition))


def _chunks(entries: Iterable[Settled]) -> Iterator[list[Settled]]:
    chunk: list[Settled] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == BATCH_LIMIT:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _batch(entries: Sequence[Settled]) -> Batch:
    return Batch(
        rows=tuple(entry for entry in entries if isinstance(entry, ExchangeRow)),
        transitions=tuple(entry for entry in entries if isinstance(entry, Transition)),
    )


def _interrupted_row(reservation: Reservation, attempts: list[AttemptRecord]) -> ExchangeRow:
    return ExchangeRow(
        id=reservation.id,
        at=reservation.at,
        caller=reservation.caller,
        format=reservation.format,
        operation=reservation.operation,
        asked=reservation.asked,
        model=reservation.model,
        stream=reservation.stream,
        outcome=Outcome.INTERRUPTED,
        fault="interrupted",
        attempts=tuple(attempts),
        quality=Quality.UNKNOWN,
        bound_micros=reservation.bound_micros,
    )
