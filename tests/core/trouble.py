"""What the tests of the rules are made of: a route, faults on it, and a situation."""

from keymux.core.faults import UpstreamFault, leaves
from keymux.core.retrying import FailedAttempt, Situation
from keymux.core.vocabulary import Kind, Route, Target

HERE = Target("here", "model")
THERE = Target("there", "model")
YONDER = Target("yonder", "model")
ALONE = Route("model", (HERE,))
TWO = Route("model", (HERE, THERE))
THREE = Route("model", (HERE, THERE, YONDER))

UPSTREAM_FAULTS = [fault for fault in leaves(UpstreamFault) if issubclass(fault, UpstreamFault)]


def made(kind: type[UpstreamFault], told: float | None = None) -> UpstreamFault:
    """A fault of a kind, with whatever facts its message wants."""
    return kind(told=told, seconds="5", how="cut")


def failed(
    kind: type[UpstreamFault],
    target: Target = HERE,
    key: str = "k1",
    *,
    group: str = "",
    told: float | None = None,
) -> FailedAttempt:
    """An attempt that came to nothing; every key is a quota group of its own unless told."""
    return FailedAttempt(target, key, group or f"group of {key}", made(kind, told))


def situation(
    kind: Kind = Kind.GENERATION,
    *,
    left_s: float = 600.0,
    total_s: float = 600.0,
    cost_micros: int = 0,
    luck: float = 0.5,
) -> Situation:
    """All the time in the world, unless said otherwise."""
    return Situation(kind, left_s, total_s, cost_micros, luck)
