"""The retry budget of one provider: retries as a share of its recent requests.

Without it an outage multiplies the load on a provider that is already in trouble.
"""

from enum import Enum

_SECONDS = 10


class Turn(Enum):
    """What an attempt is to the budget.

    A request that the client itself repeats counts as both: it may not be refused for that, but it
    leaves less for our own retries.
    """

    FIRST = "first"
    CLIENT_RETRY = "client's retry"
    RETRY = "retry"


class RetryBudget:
    """Counts requests and retries of the last ten seconds, one slot a second."""

    def __init__(self, *, percent: float, floor: int) -> None:
        self._share = percent / 100
        self._floor = floor
        self._requests = [0] * _SECONDS
        self._retries = [0] * _SECONDS
        self._second = 0

    def _turn_to(self, now: float) -> int:
        second = int(now)
        if second == self._second:
            return second % _SECONDS
        for passed in range(self._second + 1, min(second, self._second + _SECONDS) + 1):
            self._requests[passed % _SECONDS] = 0
            self._retries[passed % _SECONDS] = 0
        self._second = max(second, self._second)
        return self._second % _SECONDS

    def allows(self, now: float) -> bool:
        """Whether one more retry fits."""
        self._turn_to(now)
        allowed = max(self._floor, self._share * sum(self._requests))
        return sum(self._retries) < allowed

    def note(self, now: float, turn: Turn) -> None:
        """An attempt is made."""
        slot = self._turn_to(now)
        self._requests[slot] += turn is not Turn.RETRY
        self._retries[slot] += turn is not Turn.FIRST
