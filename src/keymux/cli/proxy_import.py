"""Bring egress proxies into the store, each once and each with a name of its own."""

from collections.abc import Mapping, Sequence
from itertools import count

import typer
from msgspec import Struct
from msgspec.structs import replace

from keymux.cli.importing import in_chunks, note_all
from keymux.cli.intake import Problem
from keymux.cli.leaving import plural
from keymux.cli.moments import now_ms
from keymux.cli.place import Place
from keymux.cli.progress import progress
from keymux.cli.proxy_intake import COLUMNS, ProxyEntry, ProxyIntake, read
from keymux.cli.saying import FAILED, fail, note, say, say_json
from keymux.core.egress import ProxyRecord, ProxyType
from keymux.core.proxy_text import name_for
from keymux.ids import record_id
from keymux.stores.egress import identity
from keymux.stores.port import Store

_NAMED = 20
_AT_ONCE = 5000
"""More than of keys: for each portion a store looks at all the names it has."""

Identity = tuple[str, str, int, str]


class AddedProxy(Struct, frozen=True, rename="camel"):
    """A proxy that was stored."""

    id: str
    name: str
    address: str


class KnownProxy(Struct, frozen=True, rename="camel"):
    """A proxy that the store has already.

    Attributes:
        where: its line.
        name: it has in the store.
        same_password: whether the password is the one that is stored.
    """

    where: str
    name: str
    same_password: bool


class ProxyReport(Struct, frozen=True, rename="camel"):
    """What came of an import."""

    added: tuple[AddedProxy, ...] = ()
    known: tuple[KnownProxy, ...] = ()
    repeated: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    ignored: int = 0


def import_proxies(
    place: Place, data: bytes, plain_type: ProxyType, *, skip_bad: bool, as_json: bool
) -> None:
    """Store what some bytes hold and say what came of it; the program ends if something is bad."""
    intake = read(data, plain_type)
    if not intake.entries and not intake.problems:
        fail("no egress proxies were found in what was given; nothing is changed")
    report = ProxyReport(repeated=intake.repeated, problems=intake.problems, ignored=intake.ignored)
    if not intake.problems or skip_bad:
        report = place.use(
            lambda store: _store(store, place.actor, intake, report, skip_bad=skip_bad),
            create=True,
        )
    _tell(report, skip_bad=skip_bad, as_json=as_json)
    if report.problems:
        raise typer.Exit(FAILED)


async def _store(
    store: Store, actor: str, intake: ProxyIntake, report: ProxyReport, *, skip_bad: bool
) -> ProxyReport:
    there = await store.proxies.load()
    held = {identity(record.address): record for record in there}
    known = tuple(
        _known(entry, held[identity(entry.address)])
        for entry in intake.entries
        if identity(entry.address) in held
    )
    new, clashes = _without_clashes(intake.entries, held, {record.name for record in there})
    report = replace(report, known=known, problems=(*report.problems, *clashes))
    if (report.problems and not skip_bad) or not new:
        return report
    records = _records(new, {record.name for record in there})
    with progress("importing", len(records)) as done:
        stored = await in_chunks(
            records, lambda chunk: store.proxies.add(chunk, actor), done, at_once=_AT_ONCE
        )
    added = tuple(
        AddedProxy(record.id, record.name, record.address.shown)
        for record in records
        if record.id in stored
    )
    return replace(report, added=added)


def _known(entry: ProxyEntry, record: ProxyRecord) -> KnownProxy:
    is_same = entry.address.password == record.address.password
    return KnownProxy(entry.where, record.name, is_same)


def _without_clashes(
    entries: Sequence[ProxyEntry], held: Mapping[Identity, ProxyRecord], names: set[str]
) -> tuple[list[ProxyEntry], list[Problem]]:
    """The entries that are new, and those of them whose name belongs to another proxy."""
    new = [entry for entry in entries if identity(entry.address) not in held]
    why = "has a name that another egress proxy in the store has"
    clashes = [Problem(entry.where, why) for entry in new if entry.name in names]
    return [entry for entry in new if entry.name not in names], clashes


def _records(entries: Sequence[ProxyEntry], names: set[str]) -> list[ProxyRecord]:
    """Records with names that nobody else has; the first of a file is the oldest."""
    taken = names | {entry.name for entry in entries}
    made = count(now_ms() - len(entries))
    numbers: dict[str, count[int]] = {}
    records = []
    for entry in entries:
        name = entry.name or _free_name(entry, taken, numbers)
        taken.add(name)
        records.append(ProxyRecord(record_id("proxy"), name, entry.address, created_at=next(made)))
    return records


def _free_name(entry: ProxyEntry, taken: set[str], numbers: dict[str, "count[int]"]) -> str:
    """A name made of host and port; a number follows where others have the same."""
    tries = numbers.setdefault(name_for(entry.address), count(1))
    return next(name for number in tries if (name := name_for(entry.address, number)) not in taken)


# -- telling ---------------------------------------------------------------------------------------
def _tell(report: ProxyReport, *, skip_bad: bool, as_json: bool) -> None:
    note_all([str(problem) for problem in report.problems], "bad")
    note_all([_known_words(known) for known in report.known], "known")
    note_all([f"{where}: the same as {first}" for where, first in report.repeated], "repeated")
    if report.ignored:
        columns = f"{plural(report.ignored, 'column')} of the header"
        verb = "was" if report.ignored == 1 else "were"
        note(f"{columns} {verb} left aside; there are {', '.join(COLUMNS)}")
    if report.problems and not skip_bad:
        note("nothing was imported; mend the above, or add --skip-bad to import the rest")
    if as_json:
        say_json(report)
        return
    say(_summary(report))
    for each in report.added[:_NAMED]:
        say(f"  {each.name}  {each.address}")
    if len(report.added) > _NAMED:
        say(f"  and {len(report.added) - _NAMED} more")
    if report.added:
        say("`keymux proxies test --all` finds out how they are")


def _known_words(known: KnownProxy) -> str:
    if known.same_password:
        return f"{known.where}: is known already as {known.name}"
    return (
        f"{known.where}: is known already as {known.name}, with another password, which stays; "
        f"to change it, remove {known.name} and add it again"
    )


def _summary(report: ProxyReport) -> str:
    counts = {
        "added": len(report.added),
        "known already": len(report.known),
        "repeated": len(report.repeated),
        "bad": len(report.problems),
    }
    counts = {what: number for what, number in counts.items() if number or what == "added"}
    return ", ".join(f"{number} {what}" for what, number in counts.items())
