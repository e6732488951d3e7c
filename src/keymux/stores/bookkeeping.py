"""Carries what happened from the request path to the store.

Booking returns at once: an entry is copied into the journal and put into a queue. One background
loop writes the queue to the store in batches. While the store is away the queue is kept up to a
limit; beyond that entries live in the journal alone and are read back from there. Every write can
be repeated, because the store knows exchanges and transitions by their ids.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

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
from keymux.stores.journal import Entry, Journal, JournalFull, Orphan, read_segment
from keymux.stores.port import Batch, Ledger, StoreUnavailable, StoreUnusable

FLUSH_EVERY_S = 0.25
TIDY_EVERY_S = 0.05
RETRY_EVERY_S = 1.0
QUEUE_LIMIT = 10_000
BATCH_LIMIT = 2048
_COME_BACK_S = 5.0

Settled = ExchangeRow | Transition


class Bookkeeper:
    """The book of this process.

    Args:
        journal: where entries are safe.
        ledger: where they belong.
        tell: told of settled exchanges, some at a time, each once.
        alarm: told when booking gets into trouble and out of it again.

    Attributes:
        written: rows that the store has acknowledged.
    """

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        tell: Callable[[Sequence[ExchangeRow]], None],
        alarm: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._tell = tell
        self._untold: list[ExchangeRow] = []
        self._alarm = alarm
        self._queue: list[Settled] = []
        self._spilled = 0
        self._unsafe = 0
        self._ok = True
        self._wake = asyncio.Event()
        self.written = 0

    @property
    def depth(self) -> int:
        """Entries that the store does not have yet."""
        return len(self._queue) + self._spilled

    @property
    def is_writing(self) -> bool:
        """Whether the last write to the store went well."""
        return self._ok

    # -- the request path ---------------------------------------------------------------------
    def reserve(self, reservation: Reservation) -> None:
        """An exchange was admitted.

        Raises:
            LedgerFull: neither store nor journal take anything more.
        """
        if self._unsafe >= QUEUE_LIMIT:
            raise LedgerFull(retry_after=_COME_BACK_S)
        self._keep(reservation.id, reservation)

    def begin(self, attempt: AttemptStarted) -> None:
        """An attempt is about to be sent."""
        self._keep(attempt.id, attempt)

    def settle(self, row: ExchangeRow) -> None:
        """An exchange is over."""
        self._untold.append(row)
        self._enqueue(row.id, row)

    def note(self, transition: Transition) -> None:
        """The health of a key or provider has changed."""
        self._enqueue(transition.id, transition)

    def _enqueue(self, owner: str, entry: Settled) -> None:
        safe = self._keep(owner, entry)
        if safe and len(self._queue) >= QUEUE_LIMIT:
            self._spilled += 1
            return
        self._queue.append(entry)
        if len(self._queue) >= BATCH_LIMIT:
            self._wake.set()

    def _keep(self, owner: str, entry: Entry) -> bool:
        try:
            self._journal.append(owner, entry)
        except JournalFull:
            self._unsafe += 1
            return False
        return True

    # -- the background -----------------------------------------------------------------------
    async def run(self) -> None:
        """Write to the store until cancelled."""
        while True:
            pause = FLUSH_EVERY_S if self._ok else RETRY_EVERY_S
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def keep_tidy(self) -> None:
        """Keep room in the journal, however the store is doing, until cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            if self._journal.is_untidy:
                await asyncio.to_thread(self._tidy)

    async def flush(self) -> bool:
        """Write everything there is; False when the store did not take it."""
        self._wake.clear()
        if self._untold:
            rows, self._untold = self._untold, []
            self._tell(rows)
        try:
            while taken := self._queue[:BATCH_LIMIT]:
                await self._write(taken)
                del self._queue[: len(taken)]
            if self._spilled:
                await self._catch_up()
        except (StoreUnavailable, StoreUnusable) as error:
            self._say(ok=False, text=f"the store does not take entries: {error}")
            return False
        self._say(ok=True, text="the store takes entries again")
        return True

    async def _write(self, entries: Iterable[Settled]) -> None:
        batch = _batch(entries)
        await self._ledger.write(batch)
        self.written += len(batch.rows)
        for row in batch.rows:
            self._journal.release(row.id)
        for transition in batch.transitions:
            self._journal.release(transition.id)

    async def _catch_up(self) -> None:
        """Write what lives in the journal alone."""
        self._spilled, left = 0, self._spilled
        try:
            for segment in self._journal.segments():
                entries = await asyncio.to_thread(read_segment, segment.path)
                for chunk in _chunks(_settled(entries)):
                    await self._write(chunk)
        except (StoreUnavailable, StoreUnusable):
            self._spilled += left
            raise

    def _tidy(self) -> None:
        try:
            self._journal.tidy()
        except OSError as error:
            self._say(ok=False, text=f"no space for the journal: {error.strerror}")
        else:
            if not self._queue:
                self._unsafe = 0

    def _say(self, *, ok: bool, text: str) -> None:
        if ok is not self._ok:
            self._ok = ok
            self._alarm(text)


async def recover(orphan: Orphan, ledger: Ledger) -> int:
    """Write what a dead process left; an exchange without an end becomes a row of its own.

    Returns:
        How many exchanges had no end.

    Raises:
        StoreUnavailable: nothing is lost; the folder is kept for later.
    """
    try:
        entries = list(orphan.entries())
        for settled in _chunks(_settled(entries)):
            await ledger.write(_batch(settled))
        open_ones = list(_interrupted(entries))
        for rows in _chunks(open_ones):
            await ledger.write(_batch(rows))
    except BaseException:
        orphan.leave()
        raise
    orphan.drop()
    return len(open_ones)


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


def _batch(entries: Iterable[Settled]) -> Batch:
    entries = tuple(entries)
    return Batch(
        rows=tuple(entry for entry in entries if isinstance(entry, ExchangeRow)),
        transitions=tuple(entry for entry in entries if isinstance(entry, Transition)),
    )


def _interrupted(entries: Iterable[Entry]) -> Iterator[ExchangeRow]:
    """A row for every exchange that was admitted and never settled."""
    open_ones: dict[str, Reservation] = {}
    attempts: dict[str, list[AttemptRecord]] = {}
    for entry in entries:
        if isinstance(entry, Reservation):
            open_ones[entry.id] = entry
        elif isinstance(entry, AttemptStarted):
            attempts.setdefault(entry.id, []).append(entry.attempt)
        elif isinstance(entry, ExchangeRow):
            open_ones.pop(entry.id, None)
    for reservation in open_ones.values():
        yield _interrupted_row(reservation, attempts.get(reservation.id, []))


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
