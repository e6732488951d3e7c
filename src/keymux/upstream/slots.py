"""Requests that can be let go of before an upstream has answered.

pyreqwest 0.15 goes on with a request whose caller was cancelled: only once the head of the answer
has arrived does dropping it close anything (its `spawn_handled` detaches the task; found by
experiment, 2026-11). A client that leaves would go on costing money. What cannot be taken back is
therefore cut: requests that wait for a head are spread over several HTTP clients, the *slots*, each
of which marks its sockets with a ``TCP_USER_TIMEOUT`` of its own, and the sockets of a slot whose
request was given up are shut down.

A slot is cut only when that hurts nobody: when no other request of it waits for a head and, where
streams share a connection (HTTP/2), none is being read either. While there are slots enough, a
request has one for itself until it is answered, and is let go of at once. A few spare ones are kept
ready, because a client takes milliseconds to build.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import cycle

from pyreqwest.client import Client

from keymux.upstream.sockets import Scissors

MOST = 64
SPARE = 8
LOOK_AGAIN_S = 0.25


class Slot:
    """One HTTP client, and how many requests use it.

    Attributes:
        client: of pyreqwest.
        mark: what its sockets are known by.
        waiting: requests without a head.
        active: answers being read.
        given_up: requests nobody waits for any more, still under way.
        is_shared: streams share its connections.
        is_cut: its sockets are being shut down.
    """

    __slots__ = ("active", "client", "given_up", "is_cut", "is_shared", "mark", "waiting")

    def __init__(self, client: Client, mark: int) -> None:
        self.client = client
        self.mark = mark
        self.waiting = 0
        self.active = 0
        self.given_up = 0
        self.is_shared = False
        self.is_cut = False

    @property
    def is_cuttable(self) -> bool:
        """Whether its given-up requests can be told from all others."""
        return not self.waiting and not (self.active and self.is_shared)


class Slots:
    """The slots of one way out.

    Args:
        build: makes a client whose sockets carry a mark.
        marks: gives a mark that no other slot of the process has.
        scissors: cuts by mark.
        connect_s: for so long a given-up request may still be on its way to a connection.
        spare: how many clients are kept ready.

    Attributes:
        is_closed: nothing may be taken any more.
    """

    def __init__(
        self,
        build: Callable[[int], Client],
        marks: Callable[[], int],
        scissors: Scissors,
        connect_s: float,
        spare: int = SPARE,
    ) -> None:
        self._build = build
        self._marks = marks
        self._scissors = scissors
        self._connect_s = connect_s
        self._all: list[Slot] = []
        self._turns = cycle(self._all)
        self._idle: dict[Slot, None] = {}
        self._quiet: dict[Slot, None] = {}
        self._is_growing = False
        self._spare = spare
        self._taken_at = 0.0
        self.is_closed = False

    def first(self) -> Slot:
        """A slot for requests that nobody counts, such as a test of a key."""
        return self._all[0] if self._all else self._add(self._new())

    def take(self) -> Slot:
        """The best slot for one more request, which waits for its head from now on."""
        slot = self._idle.popitem()[0] if self._idle else self._second_best()
        slot.waiting += 1
        self._taken_at = asyncio.get_running_loop().time()
        if len(self._idle) < self._spare and len(self._all) < MOST:
            self._grow()
        return slot

    def _second_best(self) -> Slot:
        """A slot that is only being read from, else the next one."""
        if not self._all:
            return self._add(self._new())
        if self._quiet:
            return self._quiet.popitem()[0]
        return min((next(self._turns) for _ in range(4)), key=lambda slot: slot.is_cut)

    def _new(self) -> Slot:
        mark = self._marks()
        return Slot(self._build(mark), mark)

    def _add(self, slot: Slot) -> Slot:
        self._all.append(slot)
        self._turns = cycle(self._all)
        return slot

    def _grow(self) -> None:
        if not self._is_growing:
            self._is_growing = True
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._new).add_done_callback(self._grown)

    def _grown(self, growing: "asyncio.Future[Slot]") -> None:
        self._is_growing = False
        if growing.cancelled() or self.is_closed:
            return
        self._place(self._add(growing.result()))
        if len(self._idle) < self._spare and len(self._all) < MOST:
            self._grow()

    # -- what becomes of a request -----------------------------------------------------------------
    def answered(self, slot: Slot, *, shared: bool) -> None:
        """The head has arrived; dropping the answer closes what has to be closed."""
        slot.waiting -= 1
        slot.active += 1
        slot.is_shared = slot.is_shared or shared
        self._place(slot)

    def failed(self, slot: Slot) -> None:
        """There will be no head."""
        slot.waiting -= 1
        self._place(slot)

    def read(self, slot: Slot) -> None:
        """An answer was read to its end, or dropped."""
        slot.active -= 1
        self._place(slot)

    def give_up(self, slot: Slot) -> None:
        """Nobody waits for the head any more."""
        slot.waiting -= 1
        slot.given_up += 1
        self._place(slot)

    def _place(self, slot: Slot) -> None:
        self._quiet.pop(slot, None)
        if slot.given_up or slot.is_cut:
            if slot.is_cuttable and not slot.is_cut:
                slot.is_cut = True
                self._cut(slot, self._connect_s)
        elif not slot.waiting:
            (self._quiet if slot.active else self._idle)[slot] = None

    # -- cutting -----------------------------------------------------------------------------------
    def _cut(self, slot: Slot, left_s: float) -> None:
        """Shut down what was given up; look again until it has a connection, or can have none.

        Beside answers that are being read not every such connection can be told; the rest is cut
        when they are over.
        """

        def done(cut: int) -> None:
            slot.given_up -= min(cut, slot.given_up)
            if slot.given_up and not slot.active and left_s > 0:
                loop.call_later(LOOK_AGAIN_S, self._cut, slot, left_s - LOOK_AGAIN_S)
                return
            slot.is_cut = False
            if not slot.active:
                slot.given_up = 0
            if not slot.given_up:
                self._place(slot)

        loop = asyncio.get_running_loop()
        self._scissors.cut(slot.mark, done, spare_answered=bool(slot.active))

    def is_idle(self, seconds: float) -> bool:
        """Whether nothing is under way and nothing was taken for so long."""
        if any(slot.waiting or slot.active or slot.given_up for slot in self._all):
            return False
        return asyncio.get_running_loop().time() - self._taken_at > seconds

    async def close(self) -> None:
        """Close all clients and their connections."""
        self.is_closed = True
        slots, self._all = self._all, []
        await asyncio.gather(*(slot.client.close() for slot in slots))

    def counts(self) -> Mapping[str, int]:
        """How many slots there are, and what they do."""
        return {
            "slots": len(self._all),
            "waiting": sum(slot.waiting for slot in self._all),
            "active": sum(slot.active for slot in self._all),
            "given up": sum(slot.given_up for slot in self._all),
        }
