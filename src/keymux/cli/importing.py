"""Bring upstream keys and backup keys into the store, each secret once."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import TypeVar

import typer
from msgspec import Struct

from keymux.cli.intake import Entry, Intake, Problem, read, word_objections
from keymux.cli.moments import now_ms
from keymux.cli.place import Place
from keymux.cli.progress import progress
from keymux.cli.saying import FAILED, MISUSED, fail, note, say, say_json
from keymux.core.records import BackupKeyRecord, KeyRecord
from keymux.core.secrets import hash_of, shown
from keymux.stores.port import Store

_AT_ONCE = 1000
_NAMED = 20

T = TypeVar("T")


class Wish(Struct, frozen=True):
    """Which part of the input is wanted, and how.

    Attributes:
        keys: whether upstream keys are.
        backups: whether backup keys are.
        label: for entries without one of their own.
        group: the same.
        skip_bad: whether good entries are imported although others are bad.
        as_json: whether a program reads the report.
    """

    keys: bool = True
    backups: bool = True
    label: str = ""
    group: str = ""
    skip_bad: bool = False
    as_json: bool = False


class Known(Struct, frozen=True, rename="camel"):
    """An entry whose secret the store has already.

    Attributes:
        where: its line or JSON path.
        id: of the key in the store.
        shown: the ends of the secret.
        held_as: ``key`` or ``backup key``.
        status: of the key there, for operators who wonder why it gets no traffic.
    """

    where: str
    id: str
    shown: str
    held_as: str
    status: str = ""


class Added(Struct, frozen=True):
    """An entry that was stored."""

    id: str
    shown: str
    label: str


class Repeated(Struct, frozen=True):
    """An entry that stands in the input twice."""

    where: str
    first: str
    shown: str


class Report(Struct, frozen=True, rename="camel"):
    """What came of an import."""

    provider: str
    keys: tuple[Added, ...] = ()
    backup_keys: tuple[Added, ...] = ()
    known: tuple[Known, ...] = ()
    repeated: tuple[Repeated, ...] = ()
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()


def check_words(**words: str) -> None:
    """End the program if a label or a group could not be stored."""
    objections = [
        f"--{what}: it {objection}"
        for what, text in words.items()
        for objection in word_objections(what, text)
    ]
    if objections:
        fail(*objections, code=MISUSED)


def import_keys(place: Place, provider: str, data: bytes, file_name: str, wish: Wish) -> None:
    """Store what some bytes hold and say what came of it; the program ends if something is bad."""
    intake = read(data, file_name=file_name)
    keys = intake.keys if wish.keys else ()
    backups = intake.backups if wish.backups else ()
    if not wish.keys and not intake.backups:
        backups = intake.keys
    _note_left_out(intake, keys, backups)
    stops = intake.problems and not wish.skip_bad
    if not stops and not intake.problems and not keys and not backups:
        fail("no keys were found in what was given; nothing is changed")
    report = Report(
        provider,
        repeated=tuple(
            Repeated(entry.where, first, shown(entry.secret)) for entry, first in intake.repeated
        ),
        problems=intake.problems,
        ignored=intake.ignored,
    )
    if not stops:
        report = place.use(
            lambda store: _store(_Import(store, place.actor, wish), report, keys, backups),
            create=True,
        )
    _tell(report, wish)
    if intake.problems:
        raise typer.Exit(FAILED)


def _note_left_out(intake: Intake, keys: Sequence[Entry], backups: Sequence[Entry]) -> None:
    left_out = len(intake.keys) + len(intake.backups) - len(keys) - len(backups)
    if left_out:
        kind = "keys" if backups else "backup keys"
        note(f"{left_out} {kind} were left alone; `keymux seed` takes keys and backup keys")


class _Import(Struct, frozen=True):
    store: Store
    actor: str
    wish: Wish


async def _store(
    doing: _Import, report: Report, keys: Sequence[Entry], backups: Sequence[Entry]
) -> Report:
    held = await _held(doing.store, report.provider)
    known = [_known(entry, held[entry.hash]) for entry in (*keys, *backups) if entry.hash in held]
    new_keys = [entry for entry in keys if entry.hash not in held]
    new_backups = [entry for entry in backups if entry.hash not in held]
    provider, actor, store = report.provider, doing.actor, doing.store
    made = count(now_ms() - len(new_keys) - len(new_backups))  # the first of a file is the oldest
    with progress("importing", len(new_keys) + len(new_backups)) as done:
        stored = await in_chunks(
            [_key(entry, doing.wish, next(made)) for entry in new_keys],
            lambda chunk: store.keys.add(provider, chunk, actor),
            done,
        )
        stored |= await in_chunks(
            [_backup(entry, doing.wish, next(made)) for entry in new_backups],
            lambda chunk: store.backups.add(provider, chunk, actor),
            done,
        )
    return Report(
        provider,
        keys=tuple(_added(entry, doing.wish) for entry in new_keys if entry.id in stored),
        backup_keys=tuple(_added(entry, doing.wish) for entry in new_backups if entry.id in stored),
        known=(*report.known, *known),
        repeated=report.repeated,
        problems=report.problems,
        ignored=report.ignored,
    )


async def _held(store: Store, provider: str) -> Mapping[str, tuple[str, str, str]]:
    """By hash: id, what it is held as, and its status."""
    held = {
        hash_of(backup.secret): (backup.id, "backup key", "used" if backup.is_used else "spare")
        for backup in await store.backups.load(provider)
    }
    for key in await store.keys.load(provider):
        held[hash_of(key.secret)] = (key.id, "key", key.state.status)
    return held


def _known(entry: Entry, held: tuple[str, str, str]) -> Known:
    return Known(entry.where, held[0], shown(entry.secret), held[1], held[2])


async def in_chunks(
    records: Sequence[T],
    add: Callable[[Sequence[T]], Awaitable[list[str]]],
    done: Callable[[int], None],
    at_once: int = _AT_ONCE,
) -> set[str]:
    """Insert many records a thousand at a time: the server's own writes come in between."""
    stored: set[str] = set()
    for start in range(0, len(records), at_once):
        chunk = records[start : start + at_once]
        stored.update(await add(chunk))
        done(len(chunk))
    return stored


def _key(entry: Entry, wish: Wish, created_at: int) -> KeyRecord:
    return KeyRecord(
        id=entry.id,
        secret=entry.secret,
        label=entry.label or wish.label,
        group=entry.group or wish.group,
        created_at=created_at,
    )


def _backup(entry: Entry, wish: Wish, created_at: int) -> BackupKeyRecord:
    label = entry.label or wish.label
    return BackupKeyRecord(id=entry.id, secret=entry.secret, label=label, created_at=created_at)


def _added(entry: Entry, wish: Wish) -> Added:
    return Added(entry.id, shown(entry.secret), entry.label or wish.label)


# -- telling ---------------------------------------------------------------------------------------
def _tell(report: Report, wish: Wish) -> None:
    note_all([str(problem) for problem in report.problems], "bad")
    note_all([_known_words(known) for known in report.known], "known")
    note_all(
        [f"{each.where}: {each.shown} stands at {each.first} already" for each in report.repeated],
        "repeated",
    )
    if report.ignored:
        note(f"fields that mean nothing here were ignored: {', '.join(report.ignored)}")
    if report.problems and not wish.skip_bad:
        note("nothing was imported; mend the above, or add --skip-bad to import the rest")
    if wish.as_json:
        say_json(report)
        return
    _say_added(report.provider, "key", report.keys)
    _say_added(report.provider, "backup key", report.backup_keys)
    if not (report.keys or report.backup_keys or report.problems):
        say(f"{report.provider}: nothing new")


def _known_words(known: Known) -> str:
    status = f" ({known.status})" if known.status else ""
    place = f"{known.where}: {known.shown}"
    return f"{place} is known already: {known.held_as} {known.id}{status}"


def note_all(lines: Sequence[str], what: str) -> None:
    """The first of many remarks, and how many there are beside them."""
    for line in lines[:_NAMED]:
        note(line)
    if len(lines) > _NAMED:
        note(f"and {len(lines) - _NAMED} more {what} entries")


def _say_added(provider: str, kind: str, added: Sequence[Added]) -> None:
    if not added:
        return
    say(f"{provider}: {len(added)} {kind}{'s' if len(added) > 1 else ''} added")
    for each in added[:_NAMED]:
        say(f"  {each.id}  {each.shown}  {each.label}".rstrip())
    if len(added) > _NAMED:
        say(f"  and {len(added) - _NAMED} more")
