"""Where the next attempt goes, or that there is none: the decision table and its reader.

`DECISIONS` is the only place that says what follows a fault. The dispatcher, the pools, the
refusal and the documentation read it; none of them knows a fault by name.

Three columns say what may be tried next while the client has not seen a payload byte, one for each
kind of request: *generation* (paid work), *repeatable* (cheap and harmless, such as counting
tokens) and *stateful* (creates something at the provider that belongs to one key). A cell lists
moves in order of preference; the first that finds a ready key is made. An empty cell means: tell
the client. After the first payload byte nothing is tried again, so that column needs no cell.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import assert_never

from msgspec import Struct

from keymux.core import faults
from keymux.core.egress import DIRECT
from keymux.core.faults import Blame, UpstreamFault
from keymux.core.vocabulary import Kind, Route, Target, Word

SHORTEST_ATTEMPT_S = 2.0
LONGEST_PAUSE_S = 2.0

_COME_BACK_S = 15.0
_EGRESS_BACK_S = 5.0
_LONGEST_COME_BACK_S = 86_400.0
_ABOUT_OUR_KEY = frozenset({401, 402, 407})


class Work(Word):
    """What the upstream can have done before it failed."""

    NONE = "none"
    UNKNOWN = "unknown"
    DONE = "done"


class Move(Word):
    """A way to go on."""

    SAME_KEY_ONCE = "same key once"
    OTHER_EGRESS = "next binding"
    OTHER_KEY_ONCE = "other key once"
    OTHER_KEY = "other key"
    OTHER_GROUP = "other quota group"
    OTHER_PROVIDER = "other provider"
    SAME_PROVIDER_ONCE = "same provider once"


class Effect(Word):
    """What a fault does to the health of a scope."""

    NONE = "none"
    PROVIDER_DOWN = "provider away, 5 to 60 s"
    PROVIDER_ERROR = "provider error counted, five in a row and it is away"
    PROVIDER_TOLD = "provider away until the told time, else 5 to 60 s"
    EGRESS_DOWN = "egress away until a check succeeds, the first one 5 to 60 s later"
    EGRESS_REFUSED = "egress away until an operator acts"
    MODEL_FAILURE = "failure of key and model counted; many keys at once blame the provider"
    GROUP_THROTTLED = "quota group and model away until told, else 15 to 300 s"
    GROUP_SLOWED = "quota group and model away as when throttled, then fewer at a time"
    GROUP_SPENT = "quota group exhausted until its reset, else one probe an hour"
    KEY_SUSPECT = "key suspected; the second time in ten minutes it is quarantined"
    GROUP_QUARANTINED = "quota group quarantined until an operator acts"
    PROVIDER_BLOCKED = "provider blocked on this egress until an operator acts"
    MODEL_OFF = "key not used for this model for six hours"


class Row(Struct, frozen=True):
    """One line of the decision table.

    Attributes:
        work: what the upstream can have done.
        generation: moves for paid work.
        repeatable: moves for requests that do no harm twice.
        stateful: moves for requests that create state at the provider.
        effect: what it does to health.
        ambiguous: the work may be done and billed; retried once at most, and only if cheap.
        theirs: the client is given the upstream's own words, status and bytes.
        needs_half: tried again only while half of the exchange's time is left.
        counted: the attempt counts towards the limit of attempts.
    """

    work: Work
    generation: tuple[Move, ...]
    repeatable: tuple[Move, ...]
    stateful: tuple[Move, ...]
    effect: Effect
    ambiguous: bool = False
    theirs: bool = False
    needs_half: bool = False
    counted: bool = True

    def moves(self, kind: Kind) -> tuple[Move, ...]:
        """The cell for a kind of request."""
        if kind is Kind.GENERATION:
            return self.generation
        return self.repeatable if kind is Kind.REPEATABLE else self.stateful


_SAME, _ONCE, _KEY = Move.SAME_KEY_ONCE, Move.OTHER_KEY_ONCE, Move.OTHER_KEY
_NEXT = Move.OTHER_EGRESS
_GROUP, _AWAY, _BACK = Move.OTHER_GROUP, Move.OTHER_PROVIDER, Move.SAME_PROVIDER_ONCE
_STOP: tuple[Move, ...] = ()

DECISIONS: Mapping[type[UpstreamFault], Row] = MappingProxyType(
    {
        faults.Unreachable: Row(Work.NONE, (_AWAY,), (_AWAY,), (_SAME,), Effect.PROVIDER_DOWN),
        faults.CertificateRejected: Row(Work.NONE, (_AWAY,), (_AWAY,), _STOP, Effect.PROVIDER_DOWN),
        faults.EgressFailed: Row(
            Work.NONE, (_NEXT, _KEY, _AWAY), (_NEXT, _KEY, _AWAY), (_NEXT,), Effect.EGRESS_DOWN
        ),
        faults.EgressRefused: Row(
            Work.NONE, (_NEXT, _KEY, _AWAY), (_NEXT, _KEY, _AWAY), (_NEXT,), Effect.EGRESS_REFUSED
        ),
        faults.StaleConnection: Row(
            Work.NONE, (_SAME,), (_SAME,), (_SAME,), Effect.NONE, counted=False
        ),
        faults.RequestCut: Row(
            Work.NONE, (_KEY, _AWAY), (_KEY, _AWAY), (_SAME,), Effect.PROVIDER_ERROR
        ),
        faults.NoReply: Row(
            Work.UNKNOWN,
            (_KEY, _AWAY),
            (_KEY, _AWAY),
            _STOP,
            Effect.PROVIDER_ERROR,
            ambiguous=True,
        ),
        faults.FirstEventLate: Row(
            Work.UNKNOWN,
            (_KEY, _AWAY),
            (_KEY, _AWAY),
            _STOP,
            Effect.MODEL_FAILURE,
            ambiguous=True,
            needs_half=True,
        ),
        faults.UpstreamTimedOut: Row(
            Work.UNKNOWN,
            (_AWAY, _KEY),
            (_AWAY, _KEY),
            _STOP,
            Effect.PROVIDER_ERROR,
            ambiguous=True,
            theirs=True,
        ),
        faults.ServerFailed: Row(
            Work.UNKNOWN,
            (_ONCE, _AWAY),
            (_ONCE, _AWAY),
            _STOP,
            Effect.MODEL_FAILURE,
            theirs=True,
        ),
        faults.BadGateway: Row(
            Work.UNKNOWN,
            (_AWAY, _BACK),
            (_AWAY, _BACK),
            _STOP,
            Effect.PROVIDER_DOWN,
            theirs=True,
        ),
        faults.Unavailable: Row(
            Work.NONE,
            (_AWAY, _BACK),
            (_AWAY, _BACK),
            _STOP,
            Effect.PROVIDER_DOWN,
            theirs=True,
        ),
        faults.Overloaded: Row(
            Work.NONE,
            (_AWAY, _BACK),
            (_AWAY, _BACK),
            _STOP,
            Effect.PROVIDER_TOLD,
            theirs=True,
        ),
        faults.KeyThrottled: Row(
            Work.NONE, (_GROUP, _AWAY), (_GROUP, _AWAY), _STOP, Effect.GROUP_THROTTLED
        ),
        faults.SlowDown: Row(
            Work.NONE, (_GROUP, _AWAY), (_GROUP, _AWAY), _STOP, Effect.GROUP_SLOWED
        ),
        faults.KeySpent: Row(
            Work.NONE, (_GROUP, _AWAY), (_GROUP, _AWAY), _STOP, Effect.GROUP_SPENT
        ),
        faults.KeyRejected: Row(
            Work.NONE, (_ONCE, _AWAY, _KEY), (_ONCE, _AWAY, _KEY), _STOP, Effect.KEY_SUSPECT
        ),
        faults.KeyRevoked: Row(
            Work.NONE, (_GROUP, _AWAY), (_GROUP, _AWAY), _STOP, Effect.GROUP_QUARANTINED
        ),
        faults.PolicyBlocked: Row(Work.NONE, _STOP, _STOP, _STOP, Effect.PROVIDER_BLOCKED),
        faults.ModelNotPermitted: Row(
            Work.NONE, (_KEY, _AWAY), (_KEY, _AWAY), _STOP, Effect.MODEL_OFF
        ),
        faults.Forbidden: Row(
            Work.NONE, (_ONCE, _AWAY), (_ONCE, _AWAY), _STOP, Effect.NONE, theirs=True
        ),
        faults.RequestRefused: Row(Work.NONE, _STOP, _STOP, _STOP, Effect.NONE, theirs=True),
        faults.ContextTooLong: Row(Work.NONE, _STOP, _STOP, _STOP, Effect.NONE, theirs=True),
        faults.ContentRefused: Row(Work.NONE, _STOP, _STOP, _STOP, Effect.NONE, theirs=True),
        faults.OperationMissing: Row(Work.NONE, (_AWAY,), (_AWAY,), _STOP, Effect.NONE),
        faults.Redirected: Row(Work.NONE, _STOP, _STOP, _STOP, Effect.PROVIDER_DOWN),
        faults.Unintelligible: Row(Work.UNKNOWN, (_AWAY,), (_AWAY,), _STOP, Effect.PROVIDER_ERROR),
        faults.EmptyReply: Row(
            Work.UNKNOWN,
            (_KEY, _AWAY),
            (_KEY, _AWAY),
            _STOP,
            Effect.PROVIDER_ERROR,
            ambiguous=True,
        ),
        faults.Truncated: Row(Work.DONE, _STOP, (_KEY, _AWAY), _STOP, Effect.PROVIDER_ERROR),
        faults.StreamBroken: Row(Work.DONE, _STOP, _STOP, _STOP, Effect.PROVIDER_ERROR),
        faults.StreamFailed: Row(Work.DONE, _STOP, _STOP, _STOP, Effect.PROVIDER_ERROR),
        faults.StreamStalled: Row(Work.DONE, _STOP, _STOP, _STOP, Effect.PROVIDER_ERROR),
        faults.DrainLate: Row(Work.DONE, _STOP, _STOP, _STOP, Effect.NONE),
    }
)


LOST_ON_THE_WAY = frozenset(
    {
        faults.RequestCut,
        faults.NoReply,
        faults.FirstEventLate,
        faults.Truncated,
        faults.StreamBroken,
        faults.StreamStalled,
    }
)
"""Faults that a proxy can cause as well as a provider: it is looked at before anybody is blamed."""


class Patience(Struct, frozen=True):
    """How much an exchange may try.

    Attributes:
        attempts: attempts in all, whatever came of them.
        processed: attempts that may have been processed.
        ambiguous: retries after an ambiguous fault, for paid work.
        ambiguous_repeatable: the same for repeatable requests.
        ambiguous_max_cost_micros: estimated cost above which an ambiguous fault is final.
    """

    attempts: int = 8
    processed: int = 3
    ambiguous: int = 1
    ambiguous_repeatable: int = 2
    ambiguous_max_cost_micros: int = 500_000


class FailedAttempt(Struct, frozen=True):
    """An attempt that came to nothing: what the next decision is made from."""

    target: Target
    key: str
    group: str
    fault: UpstreamFault
    egress: str = DIRECT


class Situation(Struct, frozen=True):
    """What a decision needs to know besides the attempts themselves.

    Attributes:
        kind: which column of the table applies.
        left_s: seconds left until the exchange's deadline.
        total_s: seconds the exchange had in all.
        cost_micros: estimated cost of one attempt, 0 when unknown.
        luck: a random number from 0 to 1.
    """

    kind: Kind
    left_s: float
    total_s: float
    cost_micros: int
    luck: float


class Step(Struct, frozen=True):
    """A place for the next attempt, to be taken if a key is ready there.

    Attributes:
        target: provider and model.
        avoid_keys: keys not to be used.
        avoid_groups: quota groups not to be used.
        only_key: the one key to be used, if it has to be a certain one.
        avoid_egresses: names of proxies not to be used.
        pause_s: how long to wait before.
    """

    target: Target
    avoid_keys: frozenset[str] = frozenset()
    avoid_groups: frozenset[str] = frozenset()
    only_key: str | None = None
    avoid_egresses: frozenset[str] = frozenset()
    pause_s: float = 0.0


def first_steps(route: Route) -> tuple[Step, ...]:
    """The targets of a route, in order: the first that has a ready key is asked."""
    return tuple(Step(target) for target in route.targets)


def next_steps(
    route: Route, failed: Sequence[FailedAttempt], patience: Patience, situation: Situation
) -> tuple[Step, ...]:
    """Choose where to go on, best first; empty when trying on would be wrong or pointless.

    The answer depends on the arguments alone, so a retry can be replayed from a ledger row.
    """
    row = DECISIONS[type(failed[-1].fault)]
    moves = row.moves(situation.kind)
    if not moves or _is_spent(failed, patience, situation):
        return ()
    if _is_last_chance(route, failed, patience) and Move.OTHER_PROVIDER in moves:
        moves = (Move.OTHER_PROVIDER, *moves)
    steps: list[Step] = []
    for move in moves:
        steps.extend(step for step in _steps(move, route, failed, situation) if step not in steps)
    return tuple(step for step in steps if step.pause_s + SHORTEST_ATTEMPT_S <= situation.left_s)


def _is_spent(failed: Sequence[FailedAttempt], patience: Patience, situation: Situation) -> bool:
    """Whether the limits of the exchange forbid another attempt."""
    rows = [DECISIONS[type(attempt.fault)] for attempt in failed]
    return (
        sum(row.counted for row in rows) >= patience.attempts
        or sum(row.work is not Work.NONE for row in rows) >= patience.processed
        or (rows[-1].needs_half and situation.left_s < situation.total_s / 2)
        or (rows[-1].ambiguous and _is_too_risky(rows, patience, situation))
    )


def _is_too_risky(rows: Sequence[Row], patience: Patience, situation: Situation) -> bool:
    """Whether repeating work that may be billed already would cost too much."""
    times = sum(row.ambiguous for row in rows)
    if situation.kind is Kind.REPEATABLE:
        return times > patience.ambiguous_repeatable
    return times > patience.ambiguous or situation.cost_micros > patience.ambiguous_max_cost_micros


def _is_last_chance(route: Route, failed: Sequence[FailedAttempt], patience: Patience) -> bool:
    """True when only one attempt is left and another provider has not been asked yet."""
    counted = sum(DECISIONS[type(attempt.fault)].counted for attempt in failed)
    return counted == patience.attempts - 1 and bool(_untried(route, failed))


def _untried(route: Route, failed: Sequence[FailedAttempt]) -> tuple[Target, ...]:
    tried = {attempt.target.provider for attempt in failed}
    return tuple(target for target in route.targets if target.provider not in tried)


def _steps(
    move: Move, route: Route, failed: Sequence[FailedAttempt], situation: Situation
) -> tuple[Step, ...]:
    last = failed[-1]
    pause = _hop_pause(len(failed), situation.luck)
    match move:
        case Move.OTHER_PROVIDER:
            return tuple(Step(target, pause_s=pause) for target in _untried(route, failed))
        case Move.OTHER_KEY:
            pause = _key_pause(last, situation, pause)
            return tuple(_other_key(target, failed, pause) for target in _like_the_last(failed))
        case Move.OTHER_KEY_ONCE:
            pause = _key_pause(last, situation, pause)
            return () if _again(failed) else (_other_key(last.target, failed, pause),)
        case Move.OTHER_GROUP:
            return (_other_group(last.target, failed, pause),)
        case Move.SAME_KEY_ONCE | Move.OTHER_EGRESS:
            return _same_key(move, failed)
        case Move.SAME_PROVIDER_ONCE:
            return () if _again(failed) else _same_provider(last, situation)
        case _:
            assert_never(move)


def _again(failed: Sequence[FailedAttempt], key: str | None = None) -> bool:
    """Whether the last fault happened before at its target, or there with that very key."""
    *before, last = failed
    return any(
        type(attempt.fault) is type(last.fault)
        and attempt.target == last.target
        and key in {None, attempt.key}
        for attempt in before
    )


def _like_the_last(failed: Sequence[FailedAttempt]) -> tuple[Target, ...]:
    """The target of the last fault, then those that were left for the same reason.

    When the other provider has nothing but bad keys either, the first may still have a good one.
    """
    kind = type(failed[-1].fault)
    alike = (attempt.target for attempt in reversed(failed) if type(attempt.fault) is kind)
    return tuple(dict.fromkeys(alike))


def _other_key(target: Target, failed: Sequence[FailedAttempt], pause_s: float) -> Step:
    keys = frozenset(attempt.key for attempt in failed if attempt.target == target)
    return Step(target, avoid_keys=keys, pause_s=pause_s)


def _same_key(move: Move, failed: Sequence[FailedAttempt]) -> tuple[Step, ...]:
    """The same key once more, or by a way on which it has not failed yet; nothing was sent."""
    last = failed[-1]
    if move is Move.OTHER_EGRESS:
        ways = frozenset(attempt.egress for attempt in failed if attempt.key == last.key)
        return (Step(last.target, only_key=last.key, avoid_egresses=ways),)
    return () if _again(failed, key=last.key) else (Step(last.target, only_key=last.key),)


def _other_group(target: Target, failed: Sequence[FailedAttempt], pause_s: float) -> Step:
    here = [attempt for attempt in failed if attempt.target == target]
    return Step(
        target,
        avoid_keys=frozenset(attempt.key for attempt in here),
        avoid_groups=frozenset(attempt.group for attempt in here),
        pause_s=pause_s,
    )


def _hop_pause(failures: int, luck: float) -> float:
    """Full jitter up to 250 ms before another key or provider is asked."""
    return luck * min(0.25, 0.025 * 2.0 ** (failures - 1))


def _key_pause(last: FailedAttempt, situation: Situation, hop: float) -> float:
    """Another key of a provider that failed by itself gets a longer pause."""
    if DECISIONS[type(last.fault)].work is Work.NONE:
        return hop
    return 0.25 + 0.75 * situation.luck


def _same_provider(last: FailedAttempt, situation: Situation) -> tuple[Step, ...]:
    told = last.fault.told
    pause = 1.0 + situation.luck if told is None else told
    return (Step(last.target, pause_s=pause),) if pause <= LONGEST_PAUSE_S else ()


def should_retry(fault: faults.Fault) -> bool:
    """What ``x-should-retry`` tells the client's own retry loop.

    True only when nothing can have been processed and we know when to come back.
    """
    if isinstance(fault, UpstreamFault) and DECISIONS[type(fault)].work is not Work.NONE:
        return False
    if fault.blame is Blame.CLIENT and not isinstance(fault, faults.TooManyAtOnce):
        return False
    return fault.retry_after is not None and fault.retry_after > 0


def surfaced(fault: UpstreamFault, model: str) -> faults.Fault:
    """What the client is told when a fault is the last word.

    The provider's dealings with our keys are none of the client's business: it hears that there is
    no capacity, and when to come back.
    """
    if isinstance(fault, faults.KeyThrottled | faults.SlowDown):
        return faults.AllThrottled(model=model, retry_after=_come_back_s(fault))
    if fault.blame is Blame.EGRESS:
        return faults.EgressDown(model=model, retry_after=_EGRESS_BACK_S)
    if fault.blame in {Blame.KEY, Blame.GROUP}:
        return faults.NoneReady(model=model, retry_after=_come_back_s(fault))
    return fault


def _come_back_s(fault: UpstreamFault) -> float:
    return min(fault.told or _COME_BACK_S, _LONGEST_COME_BACK_S)


def speaks_for_itself(fault: faults.Fault) -> bool:
    """True when the client is to be given the upstream's own answer.

    One that speaks of our key is not: a client would take it for its own.
    """
    return (
        isinstance(fault, UpstreamFault)
        and fault.answer is not None
        and fault.answer.status not in _ABOUT_OUR_KEY
        and DECISIONS[type(fault)].theirs
    )
