"""What becomes of a stored key when a process reports a transition or an operator decides.

The rules are those of `keymux.stores.port`: what an operator decided stands, later generations
hold, of two deadlines in one generation the later one does, and a transition about one model
changes the cooldown of that model alone.
"""

from msgspec.structs import replace

from keymux.core.health import AFTER, Event, Status
from keymux.core.records import KeyRecord, KeyState, Shade, Transition

OPERATORS = frozenset({Status.DISABLED, Status.QUARANTINED})
"""Only an operator takes a key out of these."""

_STATUSES = frozenset(Status)


def after_transition(record: KeyRecord, transition: Transition) -> KeyRecord | None:
    """The record after a transition of one of its processes; None when it changes nothing."""
    told = transition.key_state
    if told is None or record.state.generation > told.generation:
        return None
    if record.state.status in OPERATORS:
        return None
    failed = transition.after is not Status.HEALTHY
    return replace(
        record,
        state=_after(record.state, transition.model, told),
        last_error=transition.reason if failed else record.last_error,
        updated_at=transition.at,
    )


def _after(stored: KeyState, model: str, told: KeyState) -> KeyState:
    if not model:
        told = _later(stored, told) if stored.generation == told.generation else told
        return replace(told, shades=stored.shades)
    shades = {name: shade for name, shade in stored.shades.items() if name != model}
    if model in told.shades:
        shades[model] = told.shades[model]
    return replace(stored, shades=shades)


def _later(stored: KeyState, told: KeyState) -> KeyState:
    """Of two states that processes came to at once, the one that keeps the key away for longer."""
    if stored.cooldown_until is None or told.status in OPERATORS:
        return told
    if told.cooldown_until is None or told.cooldown_until < stored.cooldown_until:
        return stored
    return told


def after_decision(record: KeyRecord, event: Event, *, reason: str, at: int) -> KeyRecord:
    """The record after an operator's DISABLE, ENABLE, RESET or RESTORE."""
    before = record.state
    keeps = event in {Event.DISABLE, Event.ENABLE}
    status = AFTER[event][before.status]
    is_well = status is Status.HEALTHY
    state = KeyState(
        status=status,
        cooldown_until=before.cooldown_until if keeps and not is_well else None,
        reason=reason,
        generation=before.generation + 1,
        shades=before.shades if keeps else {},
    )
    replaced_by = "" if is_well else record.replaced_by
    return replace(record, state=state, replaced_by=replaced_by, updated_at=at)


def told_reason(transition: Transition) -> str:
    """The reason as the audit gives it."""
    return f"{transition.reason} ({transition.model})" if transition.model else transition.reason


# -- what operators see ----------------------------------------------------------------------------
def worst(state: KeyState) -> Shade | None:
    """The cooldown of a single model that lasts longest, if the key itself is well."""
    if state.status is not Status.HEALTHY or not state.shades:
        return None
    return max(state.shades.values(), key=lambda shade: shade.until or 0)


def shown_status(state: KeyState) -> str:
    """The status that operators see: a key that cools for a model is not healthy to them."""
    shade = worst(state)
    return (shade.status if shade else state.status).value


def shown_until(state: KeyState) -> int | None:
    """The deadline that operators see."""
    shade = worst(state)
    return shade.until if shade else state.cooldown_until


def shown_reason(state: KeyState) -> str:
    """The reason that operators see."""
    shade = worst(state)
    return state.reason or (shade.reason if shade else "")


def status_of(word: str) -> Status:
    """A stored status; a word that was put there by hand and means nothing keeps the traffic away.

    It is no reason to turn away all the other keys, and only an operator can say what was meant.
    """
    return Status(word) if word in _STATUSES else Status.DISABLED
