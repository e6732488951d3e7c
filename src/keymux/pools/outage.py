"""Tells a provider's outage from keys that fail: many of them at once is no coincidence."""

from collections import Counter, OrderedDict

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.health import Condition
from keymux.pools.gate import Gate
from keymux.pools.members import UpstreamKey

WINDOW_S = 30.0
FEWEST_KEYS = 3


class Suspect(Struct, frozen=True):
    """A key that failed for a model, and what that did to its gate."""

    key: UpstreamKey
    model: str
    gate: Gate
    before: Condition
    after: Condition

    def restored(self) -> Condition:
        """The condition from before, as a transition of its own."""
        return replace(self.before, generation=self.gate.condition.generation + 1)


class OutageWatch:
    """The keys of one provider that failed lately.

    More than half of the keys in rotation, and at least three, within thirty seconds is an outage
    of the provider. What was held against single keys in that time is then taken back.
    """

    __slots__ = ("_failed", "_keys")

    def __init__(self) -> None:
        self._failed: OrderedDict[Gate, tuple[float, Suspect]] = OrderedDict()
        self._keys: Counter[str] = Counter()

    def note(self, suspect: Suspect, now: float) -> None:
        """A key failed."""
        self._forget_before(now - WINDOW_S)
        earlier = self._forget(suspect.gate)
        if earlier is not None and earlier.after is suspect.before:
            suspect = replace(suspect, before=earlier.before)
        self._failed[suspect.gate] = (now, suspect)
        self._keys[suspect.key.id] += 1

    def is_outage(self, keys: int) -> bool:
        """Whether the provider itself is to blame, given the number of its keys in rotation."""
        failed = len(self._keys)
        return failed >= FEWEST_KEYS and failed * 2 > keys

    def rolled_back(self) -> tuple[Suspect, ...]:
        """The keys whose condition is to be restored; they are forgotten here."""
        innocent = tuple(
            suspect
            for _, suspect in self._failed.values()
            if suspect.gate.condition is suspect.after
        )
        self._failed.clear()
        self._keys.clear()
        return innocent

    def _forget_before(self, moment: float) -> None:
        while self._failed:
            oldest, (at, _) = next(iter(self._failed.items()))
            if at >= moment:
                return
            self._forget(oldest)

    def _forget(self, gate: Gate) -> Suspect | None:
        known = self._failed.pop(gate, None)
        if known is None:
            return None
        suspect = known[1]
        self._keys[suspect.key.id] -= 1
        if not self._keys[suspect.key.id]:
            del self._keys[suspect.key.id]
        return suspect
