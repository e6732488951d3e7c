"""What becomes of a stored state, and what operators see of it; the same in every store.

Pure: a store reads a record, asks here what follows, and writes that within one transaction.
"""

from math import inf

from msgspec import Struct
from msgspec.structs import replace

from keymux.core.health import AFTER, Event, Status
from keymux.core.records import KeyRecord, KeyState, Shade, Transition

_STATUSES = frozenset(Status)
_OPERATORS = frozenset({Status.DISABLED, Status.QUARANTINED})


class Seen(Struct, frozen=True):
    """The fields that operators look at: a key that cools for a model is not healthy to them."""

    status: Status
    until: int | None
    reason: str


def seen(state: KeyState) -> Seen:
    """A state as operators see it."""
    worst = _worst(state.shades) if state.status is Status.HEALTHY else None
    if worst is None:
        return Seen(state.status, state.cooldown_until, state.reason)
    return Seen(worst.status, worst.until, state.reason or worst.reason)


def unseen(stored: Seen, shades: dict[str, Shade]) -> Seen:
    """A key's own status, deadline and reason, from those that operators see."""
    worst = _worst(shades)
    if worst is not None and (worst.status, worst.until) == (stored.status, stored.until):
        return Seen(Status.HEALTHY, None, "")
    return stored


def _worst(shades: dict[str, Shade]) -> Shade | None:
    """The cooldown of a single model that lasts longest."""
    return max(shades.values(), key=_end, default=None)


def _end(shade: Shade) -> float:
    return inf if shade.until is None else shade.until


def status_of(word: str) -> Status:
    """A stored status; a word that was put there by hand and means nothing keeps the traffic away.

    It is no reason to turn away all the other keys, and only an operator can say what was meant.
    """
    return Status(word) if word in _STATUSES else Status.DISABLED


def after_operator(record: KeyRecord, event: Event, *, reason: str, at: int) -> KeyRecord:
    """A key after an operator's DISABLE, ENABLE, RESET or RESTORE."""
    before = record.state
    keeps = event in {Event.DISABLE, Event.ENABLE}
    status = AFTER[event][before.status]
    is_well = status is Status.HEALTHY
    after = KeyState(
        status=status,
        cooldown_until=before.cooldown_until if keeps and not is_well else None,
        reason=reason,
        generation=before.generation + 1,
        shades=before.shades if keeps else {},
    )
    replaced_by = "" if is_well else record.replaced_by
    return replace(record, state=after, replaced_by=replaced_by, updated_at=at)


def after_transition(record: KeyRecord, transition: Transition) -> KeyRecord | None:
    """A key after a transition of the server's; None when it changes nothing.

    What an operator decided, or a later transition, is not overwritten. A transition for one model
    changes the cooldown of that model and nothing else, so that processes which see different
    models do not overwrite each other.
    """
    stored, told = record.state, transition.key_state
    if told is None or stored.generation > told.generation or stored.status in _OPERATORS:
        return None
    failed = transition.after is not Status.HEALTHY
    return replace(
        record,
        state=_after(stored, transition.model, told),
        last_error=transition.reason if failed else record.last_error,
        updated_at=transition.at,
    )


def _after(stored: KeyState, model: str, told: KeyState) -> KeyState:
    """The stored state after a transition, of the key itself or of one model."""
    if not model:
        told = _later(stored, told) if stored.generation == told.generation else told
        return replace(told, shades=stored.shades)
    shades = {name: shade for name, shade in stored.shades.items() if name != model}
    if model in told.shades:
        shades[model] = told.shades[model]
    return replace(stored, shades=shades)


def _later(stored: KeyState, told: KeyState) -> KeyState:
    """Of two states that processes came to at once, the one that keeps the key away for longer."""
    if stored.cooldown_until is None or told.status in _OPERATORS:
        return told
    if told.cooldown_until is None or told.cooldown_until < stored.cooldown_until:
        return stored
    return told


def reason_of(transition: Transition) -> str:
    """Why, as the audit has it: with the model if it is about one."""
    return f"{transition.reason} ({transition.model})" if transition.model else transition.reason
