"""What an operator may do to upstream keys, and when it makes sense."""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import typer
from msgspec import Struct

from keymux.cli import standing
from keymux.cli.picking import candidate, pick_keys
from keymux.cli.place import Place
from keymux.cli.saying import MISUSED, fail, note, say, say_json
from keymux.core.health import AFTER, Event, Status
from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.stores.port import Store

_INSTEAD: Mapping[tuple[Event, Status], str] = MappingProxyType(
    {
        (Event.ENABLE, Status.QUARANTINED): "`keymux keys restore` lifts a quarantine",
        (Event.RESET, Status.QUARANTINED): "`keymux keys restore` lifts a quarantine",
        (Event.RESET, Status.DISABLED): "`keymux keys enable` puts it back",
        (Event.RESTORE, Status.DISABLED): "`keymux keys enable` puts it back",
    }
)


class Changed(Struct, frozen=True):
    """What became of one key."""

    id: str
    before: Status
    after: Status
    changed: bool


def objection(record: KeyRecord, event: Event) -> str:
    """Why an event would not do what the operator expects; empty if it would."""
    instead = _INSTEAD.get((event, record.state.status), "")
    if instead:
        return f"{record.id} is {record.state.status}: {instead}"
    return ""


def is_done(record: KeyRecord, event: Event) -> bool:
    """Whether a key is already as the operator wants it."""
    if event is Event.RESET:
        return False
    comes_back = event is Event.RESTORE and (record.state.shades or record.replaced_by)
    return AFTER[event][record.state.status] is record.state.status and not comes_back


def change_keys(
    place: Place, provider: str, ids: Sequence[str], event: Event, reason: str, *, as_json: bool
) -> None:
    """Let an event happen to keys: to all of them, or the program ends before the first."""
    done = place.use(lambda store: _change(store, place.actor, provider, ids, event, reason))
    if as_json:
        say_json(done)
        return
    for each in done:
        words = f"{each.before} -> {each.after}" if each.changed else f"{each.after} already"
        say(f"{each.id}: {words}")


async def _change(
    store: Store, actor: str, provider: str, ids: Sequence[str], event: Event, reason: str
) -> list[Changed]:
    records = {record.id: record for record in await store.keys.load(provider)}
    chosen = pick_keys(ids, list(records.values()), provider)
    objections = [words for key_id in chosen if (words := objection(records[key_id], event))]
    if objections:
        fail(*objections, "nothing was changed")
    done = []
    for key_id in chosen:
        before = standing.of_key(records[key_id]).status
        if is_done(records[key_id], event):
            done.append(Changed(key_id, before, before, changed=False))
            continue
        after = await store.keys.change(
            provider, key_id, event, actor=actor, reason=reason or _reason(event, actor)
        )
        done.append(Changed(key_id, before, standing.of_key(after).status, changed=True))
        if records[key_id].replaced_by and not after.replaced_by:
            note(f"{key_id} is in rotation again, beside {records[key_id].replaced_by}")
    return done


def _reason(event: Event, actor: str) -> str:
    """A disabled key shows who did it; one that is well again needs no reason."""
    return f"disabled by {actor}" if event is Event.DISABLE else ""


def sure(records: Sequence[KeyRecord | BackupKeyRecord], *, yes: bool) -> None:
    """Ask before secrets are deleted; the program ends here if the answer is not yes."""
    lines = [f"  {candidate(record)}" for record in records]
    question = f"Delete {len(records)} for good?"
    agreed(question, lines, "this deletes secrets for good", yes=yes)


def agreed(question: str, lines: Sequence[str], consequence: str, *, yes: bool) -> None:
    """Ask whether something is to be done; the program ends here if the answer is not yes.

    Args:
        question: for a person.
        lines: what they should have read before.
        consequence: said where there is nobody to ask.
        yes: the answer, given in advance.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{consequence} and there is nobody to ask: add --yes", code=MISUSED)
    for line in lines:
        note(line)
    if not typer.confirm(question, err=True):
        fail("nothing was changed")
