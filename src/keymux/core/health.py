"""The states of whatever can fall ill, and how it passes from one to another.

A condition belongs to one *scope*: an upstream key, a quota group and model, a key and model, or
a provider. All of them live by the same rules::

    healthy --fault--> cooling (until a time) --time passes--> due
       ^                  ^                                     |
       |                  +---------- probe fails, longer ------+  one probe at a time
       +-- ramp 1-2-4-8 <----------- probe succeeds ------------+

    any --condemned--> quarantined      any --operator--> disabled

``rate_limited``, ``error`` and ``exhausted`` are cooling for different reasons. A cooldown with
no end (``until`` is None) waits for an operator, as do ``quarantined`` and ``disabled``.

Three rules keep a burst of failures from doing harm:

* the deadline is never moved forward: a new fault gives the later of the two times;
* one wave is one step: a request that was leased before the last transition (its *generation* is
  older) can lengthen a cooldown as far as the upstream told, and bring news of another kind, but
  neither escalates the backoff nor heals anything;
* what the upstream told us to wait is only ever lengthened.

Times are seconds on any one clock; callers pass ``now``. ``luck`` is a random number from 0 to 1.
"""

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.vocabulary import Word

LONGEST_WAIT_S = 86_400.0
SHORTEST_WAIT_S = 1.0
SUSPICION_S = 600.0
RAMP_TOP = 8


class Status(Word):
    """What operators see, and what the store keeps."""

    HEALTHY = "healthy"
    RATE_LIMITED = "rate_limited"
    ERROR = "error"
    EXHAUSTED = "exhausted"
    QUARANTINED = "quarantined"
    DISABLED = "disabled"


class Event(Word):
    """What can happen to a condition."""

    THROTTLED = "throttled"
    FAILED = "failed"
    SPENT = "spent"
    CONDEMNED = "condemned"
    SUCCEEDED = "succeeded"
    DISABLE = "disable"
    ENABLE = "enable"
    RESET = "reset"
    RESTORE = "restore"


_COOLING = frozenset({Status.RATE_LIMITED, Status.ERROR, Status.EXHAUSTED})
_ENDED = frozenset({Status.QUARANTINED, Status.DISABLED})


def _table() -> Mapping[Event, Mapping[Status, Status]]:
    """The transitions: a row per event, a column per status it finds."""
    columns = list(Status)
    h, r, e, x, q, d = columns
    rows = {
        #                 healthy r_limited error exhausted quarantined disabled
        Event.THROTTLED: (r, r, r, x, q, d),
        Event.FAILED: (e, r, e, x, q, d),
        Event.SPENT: (x, x, x, x, q, d),
        Event.CONDEMNED: (q, q, q, q, q, d),
        Event.SUCCEEDED: (h, h, h, h, q, d),
        Event.DISABLE: (d, d, d, d, d, d),
        Event.ENABLE: (h, r, e, x, q, h),
        Event.RESET: (h, h, h, h, q, d),
        Event.RESTORE: (h, h, h, h, h, d),
    }
    return MappingProxyType(
        {
            event: MappingProxyType(dict(zip(columns, row, strict=True)))
            for event, row in rows.items()
        }
    )


AFTER = _table()
"""``AFTER[event][status]`` is the status that follows."""


class Backoff(Struct, frozen=True):
    """How long to stay away when the upstream did not say.

    Attributes:
        steps_s: seconds for the first, second, ... wave in a row; the last one repeats.
    """

    steps_s: tuple[float, ...]


class Condition(Struct, frozen=True):
    """How one scope is doing.

    Attributes:
        status: see `Status`.
        until: when a cooldown ends; None when it does not end by itself.
        reason: why, in a few redacted words.
        step: waves in a row so far; decides the next backoff.
        generation: number of transitions so far. A lease remembers the one it was given under.
        since: when this status began.
        ramp: how many requests at once while warming up after a probe; 0 means no cap.
        failures: failures in a row that have not yet led to a transition.
        suspected: when the key was first refused, 0 for never.
    """

    status: Status = Status.HEALTHY
    until: float | None = None
    reason: str = ""
    step: int = 0
    generation: int = 0
    since: float = 0.0
    ramp: int = 0
    failures: int = 0
    suspected: float = 0.0

    @property
    def is_healthy(self) -> bool:
        """True when leases are given freely, save for the cap of a ramp."""
        return self.status is Status.HEALTHY

    def is_due(self, now: float) -> bool:
        """True when a cooldown is over and one probe may find out how things are."""
        return self.until is not None and now >= self.until and self.status in _COOLING


def cool(  # noqa: PLR0913 -- each is a separate fact of the fault
    condition: Condition,
    event: Event,
    backoff: Backoff,
    *,
    now: float,
    told: float | None,
    generation: int,
    luck: float,
    reason: str,
) -> Condition:
    """The condition after a fault that calls for staying away a while.

    Args:
        condition: what it was.
        event: THROTTLED, FAILED or SPENT.
        backoff: used when nothing was told.
        now: the time.
        told: seconds the upstream asked for, if it did.
        generation: of the lease under which the fault happened.
        luck: spreads the deadlines of many gateways.
        reason: for the operator.
    """
    told = told if told is not None and isfinite(told) and told >= 0 else None
    if told is not None and told > LONGEST_WAIT_S:
        event, told = Event.SPENT, LONGEST_WAIT_S
    status = AFTER[event][condition.status]
    if status in _ENDED:
        return condition
    is_late = generation < condition.generation
    if is_late and status is condition.status:
        return _extended(condition, now=now, told=told, luck=luck)
    if is_late and condition.is_healthy and event is Event.FAILED and told is None:
        return condition  # it began before things got well
    wave = _waves_before(condition, now, is_late=is_late)
    wait = _own_wait(backoff, wave, luck) if told is None else _told_wait(told, luck)
    forever = not condition.is_healthy and condition.until is None
    return Condition(
        status=status,
        until=None if forever else max(now + wait, condition.until or 0.0),
        reason=reason,
        step=wave + 1,
        generation=condition.generation + 1,
        since=now,
    )


def _extended(condition: Condition, *, now: float, told: float | None, luck: float) -> Condition:
    if told is None or condition.until is None:
        return condition
    later = now + _told_wait(told, luck)
    return replace(condition, until=later) if later > condition.until else condition


def _waves_before(condition: Condition, now: float, *, is_late: bool) -> int:
    """The waves that went before: one less for each minute in good health since.

    Whoever is late belongs to the last of them.
    """
    waves = condition.step
    if condition.is_healthy:
        waves -= max(0, int((now - condition.since) // 60))
    return max(0, waves - is_late)


def _told_wait(told: float, luck: float) -> float:
    return max(SHORTEST_WAIT_S, told) * (1 + luck / 4)


def _own_wait(backoff: Backoff, wave: int, luck: float) -> float:
    base = backoff.steps_s[min(wave, len(backoff.steps_s) - 1)]
    return base / 2 + base / 2 * luck


def count_failure(condition: Condition, generation: int) -> Condition:
    """One more failure in a row; the caller compares `failures` with its threshold."""
    if generation < condition.generation:
        return condition
    return replace(condition, failures=condition.failures + 1)


def suspect(condition: Condition, *, now: float, generation: int, reason: str) -> Condition:
    """The condition of a key after it was refused without an explicit reason.

    The first refusal is only remembered; the second within ten minutes, of a request that was
    leased after the first, condemns the key.
    """
    if generation < condition.generation or condition.status in _ENDED:
        return condition
    if condition.suspected and now - condition.suspected <= SUSPICION_S:
        return condemn(condition, now=now, reason=reason)
    return replace(condition, suspected=now, generation=condition.generation + 1)


def condemn(condition: Condition, *, now: float, reason: str) -> Condition:
    """Quarantine: no traffic until an operator acts."""
    status = AFTER[Event.CONDEMNED][condition.status]
    if status is condition.status:
        return condition
    return Condition(status=status, reason=reason, generation=condition.generation + 1, since=now)


def heal(condition: Condition, *, now: float, generation: int) -> Condition:
    """The condition after a success of a request leased under `generation`."""
    if generation < condition.generation:
        return condition
    if condition.is_healthy:
        if not (condition.ramp or condition.failures or condition.suspected):
            return condition
        ramp = condition.ramp * 2 if condition.ramp < RAMP_TOP else 0
        return replace(condition, ramp=ramp, failures=0, suspected=0.0)
    if not condition.is_due(now):
        return condition
    return Condition(
        status=AFTER[Event.SUCCEEDED][condition.status],
        step=condition.step,
        generation=condition.generation + 1,
        since=now,
        ramp=1,
    )


def by_operator(condition: Condition, event: Event, *, now: float, reason: str) -> Condition:
    """The condition after an operator's DISABLE, ENABLE, RESET or RESTORE."""
    status = AFTER[event][condition.status]
    if status is condition.status and not (event is Event.RESET and status is Status.HEALTHY):
        return condition
    return Condition(status=status, reason=reason, generation=condition.generation + 1, since=now)
