"""The health of one scope together with what is in flight under it."""

from math import inf

from keymux.core.health import Condition

_WELL = Condition()


class Gate:
    """Lets leases through as the condition of its scope allows.

    A gate belongs to an upstream key, a quota group and model, a key and model, or a provider.
    Choosing and taking happen in one step without an await, so two exchanges can never both be the
    probe. Only leases of the present generation count as in flight: a stream that began before the
    cooldown does not keep the probe waiting.

    Args:
        is_guarded: whether it takes a permission to let a probe pass.

    Attributes:
        is_free: well, with no cap: any number of leases may pass.
        is_calm: and a success would change nothing.
    """

    __slots__ = ("_condition", "_in_flight", "_permitted_until", "_unasked", "is_calm", "is_free")

    def __init__(self, *, is_guarded: bool = False) -> None:
        self._condition = _WELL
        self._in_flight = 0
        self._permitted_until = self._unasked = -inf if is_guarded else inf
        self.is_free = True
        self.is_calm = True

    @property
    def condition(self) -> Condition:
        """How the scope is doing."""
        return self._condition

    def change(self, condition: Condition) -> bool:
        """Put another condition in place; True when that was a transition."""
        moved = condition.generation != self._condition.generation
        if moved:
            self._in_flight = 0
            self._permitted_until = self._unasked
        self._condition = condition
        self.is_free = condition.is_healthy and not condition.ramp
        self.is_calm = self.is_free and not condition.failures and not condition.suspected
        return moved

    def is_open(self, now: float) -> bool:
        """Whether one more lease may pass."""
        if self.is_free:
            return True
        condition = self._condition
        if condition.is_healthy:
            return self._in_flight < condition.ramp
        return self._is_awaiting_probe(now) and now < self._permitted_until

    def wants_permit(self, now: float) -> bool:
        """Whether nothing but a permission is missing for a probe."""
        return self._is_awaiting_probe(now) and now >= self._permitted_until

    def permit(self, until: float) -> None:
        """Probes may pass until then, one at a time, or until the next transition."""
        self._permitted_until = until

    @property
    def is_probing(self) -> bool:
        """Whether a probe is under way."""
        return self._in_flight > 0 and not self._condition.is_healthy

    def _is_awaiting_probe(self, now: float) -> bool:
        return self._in_flight == 0 and self._condition.is_due(now)

    def take(self) -> int:
        """Let one lease pass; gives the generation to hand back later."""
        self._in_flight += 1
        return self._condition.generation

    def give_back(self, generation: int) -> bool:
        """A lease is over; True when that may have opened the gate."""
        if generation != self._condition.generation:
            return False
        self._in_flight -= 1
        return not self.is_free
