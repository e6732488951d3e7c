"""Tells a provider's outage from keys that fail: many of them at once is no coincidence."""

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.health import Condition
from keymux.pools.gate import Gate
from keymux.pools.pool import UpstreamKey

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

    More than half of the keys, and at least three, within thirty seconds is an outage of the
    provider. What was held against single keys in that time is then taken back.
    """

    __slots__ = ("_failed",)

    def __init__(self) -> None:
        self._failed: dict[str, tuple[float, Suspect]] = {}

    def note(self, suspect: Suspect, now: float) -> None:
        """A key failed."""
        earlier = self._failed.pop(suspect.key.id, None)
        if earlier and now - earlier[0] <= WINDOW_S and earlier[1].gate is suspect.gate:
            suspect = replace(suspect, before=earlier[1].before)
        self._failed[suspect.key.id] = (now, suspect)

    def is_outage(self, keys: int, now: float) -> bool:
        """Whether the provider itself is to blame, given the number of its keys."""
        while self._failed:
            oldest, (at, _) = next(iter(self._failed.items()))
            if now - at <= WINDOW_S:
                break
            del self._failed[oldest]
        return len(self._failed) >= FEWEST_KEYS and len(self._failed) * 2 > keys

    def rolled_back(self) -> tuple[Suspect, ...]:
        """The keys whose condition is to be restored; they are forgotten here."""
        innocent = tuple(
            suspect
            for _, suspect in self._failed.values()
            if suspect.gate.condition is suspect.after
        )
        self._failed.clear()
        return innocent
