"""When cooldowns end: one alarm for each gate that is closed for a time."""

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

from keymux.core.health import Condition, Status
from keymux.pools.gate import Gate
from keymux.pools.members import Group, UpstreamKey

Holder = UpstreamKey | Group
_Alarm = tuple[float, int, Gate, Holder]

_SLACK = 64


class Alarms:
    """Remembers which gates open by themselves, soonest first, for every model apart.

    An alarm may ring too early, never too late: when a deadline moves away, the alarm stays where
    it is and is set anew when it rings. So there is one alarm for a gate, however often its
    condition changes; the few that are left over when a deadline moves nearer are swept out before
    they are more than half.

    Attributes:
        next: nothing rings before this time.
    """

    __slots__ = ("_heaps", "_order", "_set", "next")

    def __init__(self) -> None:
        self._heaps: dict[str, list[_Alarm]] = {}
        self._set: dict[Gate, float] = {}
        self._order = count()
        self.next = inf

    def __len__(self) -> int:
        return sum(len(heap) for heap in self._heaps.values())

    def set(self, gate: Gate, holder: Holder, model: str = "") -> None:
        """Ring when a gate's cooldown is over.

        Args:
            gate: nothing happens if it has no cooldown with an end.
            holder: what stands behind the gate.
            model: the one that the gate is about, empty for all.
        """
        until = gate.condition.until
        if until is None or gate.condition.is_healthy or self._set.get(gate, inf) <= until:
            return
        self._set[gate] = until
        heap = self._heaps.setdefault(model, [])
        heappush(heap, (until, next(self._order), gate, holder))
        self.next = min(self.next, until)
        if len(heap) > _SLACK + 2 * len(self._set):
            heap[:] = [entry for entry in heap if self._set.get(entry[2]) == entry[0]]
            heapify(heap)

    def ring(self, now: float) -> list[tuple[Holder, str]]:
        """What stands behind the gates that are due, and the model; each is told once."""
        due: list[tuple[Holder, str]] = []
        for model, heap in tuple(self._heaps.items()):
            while heap and heap[0][0] <= now:
                if self._is_live(heap, model):
                    _, _, gate, holder = heappop(heap)
                    del self._set[gate]
                    due.append((holder, model))
        self.next = min((heap[0][0] for heap in self._heaps.values() if heap), default=inf)
        return due

    def soonest(self, model: str) -> tuple[float, Status] | None:
        """When the first gate opens that a model waits for, and why it is closed."""
        found: tuple[float, Status] | None = None
        for name in ("", model):
            heap = self._heaps.get(name, [])
            while heap and not self._is_live(heap, name):
                pass
            if heap and (found is None or heap[0][0] < found[0]):
                found = heap[0][0], heap[0][2].condition.status
        return found

    def _is_live(self, heap: list[_Alarm], model: str) -> bool:
        """Whether the first alarm of a heap is right; if not, it is taken out, or set anew.

        It is of no use either when all that stands behind the gate is kept away for longer by
        something else: that has an alarm of its own, or waits for an operator.
        """
        at, _, gate, holder = heap[0]
        condition, is_set = gate.condition, self._set.get(gate) == at
        if is_set and _ends_at(condition, at) and holder.is_usable(at):
            return True
        heappop(heap)
        if is_set:
            del self._set[gate]
            if not _ends_at(condition, at):
                self.set(gate, holder, model)
        return False


def _ends_at(condition: Condition, at: float) -> bool:
    return condition.until == at and not condition.is_healthy
