"""The journal: what was appended is read back, whatever happens to the process or the disk."""

import multiprocessing
import os
import resource
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keymux.core.health import Status
from keymux.core.records import (
    AttemptRecord,
    AttemptStarted,
    ExchangeRow,
    KeyState,
    Outcome,
    ProviderState,
    Reservation,
    Shade,
    Transition,
)
from keymux.core.vocabulary import Quality, Usage
from keymux.stores.journal import (
    SEGMENT_BYTES,
    Entry,
    Journal,
    JournalFull,
    entries_of,
    orphans,
)
from keymux.stores.port import StoreUnavailable, StoreUnusable

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
_LARGE = SEGMENT_BYTES // 4  # four of them do not go into one segment


def _entry(name: str, size: int = 0) -> Reservation:
    return Reservation(name, 1, "c", "openai", "generate", "x" * size, "m", stream=False)


def _names(entries: Sequence[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def _left(folder: Path) -> list[Entry]:
    """What the dead have left, oldest first; it stays there."""
    found: list[Entry] = []
    for orphan in orphans(folder):
        found.extend(orphan.entries())
        orphan.leave()
    return found


def _in(journal: Journal) -> list[Entry]:
    return [entry for segment in journal.segments() for entry in entries_of(segment.content())]


@contextmanager
def _full_disk() -> Iterator[None]:
    """No file of this process may grow."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal of this process."""
    made = Journal(tmp_path, "me")
    yield made
    for segment in made.segments():
        for owner in tuple(segment.owners):
            made.release(owner)
    made.close()


# -- appending and reading back ------------------------------------------------------------------
TEXT = st.text(max_size=40)
WHOLE = st.integers(0, 2**53)
SOME = st.none() | WHOLE
STATUS = st.sampled_from(Status)
SHADE = st.builds(Shade, STATUS, SOME, TEXT, WHOLE, whole_group=st.booleans())
KEY_STATE = st.builds(
    KeyState, STATUS, SOME, TEXT, WHOLE, WHOLE, WHOLE, SOME, st.dictionaries(TEXT, SHADE)
)
PROVIDER_STATE = st.builds(ProviderState, STATUS, SOME, TEXT, WHOLE, WHOLE)
ATTEMPT = st.builds(
    AttemptRecord, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, WHOLE, TEXT, WHOLE, WHOLE, WHOLE, TEXT, WHOLE
)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Reservation, TEXT, WHOLE, TEXT, TEXT, TEXT, TEXT, TEXT, st.booleans(), WHOLE, SOME),
    st.builds(AttemptStarted, TEXT, ATTEMPT),
    st.builds(
        ExchangeRow,
        id=TEXT,
        at=WHOLE,
        caller=TEXT,
        format=TEXT,
        operation=TEXT,
        asked=TEXT,
        model=TEXT,
        stream=st.booleans(),
        outcome=st.sampled_from(Outcome),
        attempts=st.lists(ATTEMPT, max_size=3).map(tuple),
        usage=st.builds(Usage, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE),
        quality=st.sampled_from(Quality),
        cost_micros=SOME,
        bound_micros=SOME,
    ),
    st.builds(
        Transition,
        id=TEXT,
        at=WHOLE,
        actor=TEXT,
        provider=TEXT,
        key=TEXT,
        model=TEXT,
        before=STATUS,
        after=STATUS,
        reason=TEXT,
        key_state=st.none() | KEY_STATE,
        provider_state=st.none() | PROVIDER_STATE,
    ),
)


@given(st.lists(ENTRIES, max_size=20))
@settings(deadline=None, max_examples=40)
def test_what_was_appended_is_read_back(entries: list[Entry]) -> None:
    """Every kind of entry, in order and unchanged, by this process and by the next."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "me")
        for entry in entries:
            journal.append(entry.id, entry)
        here = _in(journal)
        journal.close()

        assert here == entries
        assert _left(Path(folder)) == entries


def test_one_segment_after_the_other(journal: Journal, tmp_path: Path) -> None:
    """When a segment is full the next one takes over, and the order is kept."""
    for number in range(10):
        journal.append(f"{number}", _entry(f"{number}", _LARGE))
        if journal.is_untidy:
            journal.tidy()

    assert len(journal.segments()) == 4
    assert _names(_in(journal)) == [f"{number}" for number in range(10)]


def test_a_journal_is_nobody_elses_business(journal: Journal, tmp_path: Path) -> None:
    """Folders and files can be read by their owner alone."""
    home = tmp_path / "me"

    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}


def test_two_processes_never_share_a_folder(journal: Journal, tmp_path: Path) -> None:
    """A name that is taken is refused."""
    with pytest.raises(FileExistsError):
        Journal(tmp_path, "me")


# -- releasing and using again -------------------------------------------------------------------
def test_what_is_released_leaves_no_trace(journal: Journal) -> None:
    """Nothing grows with the number of exchanges, however many segments one spans."""
    for number in range(9):
        journal.append("long", _entry("long", _LARGE))
        journal.append(f"{number}", _entry(f"{number}"))
        journal.release(f"{number}")
        if journal.is_untidy:
            journal.tidy()
    while_open = len(journal.segments())
    journal.release("long")
    journal.release("never seen")

    assert while_open == 3
    assert journal.segments() == ()
    assert journal._where == {}


def test_space_is_used_again(journal: Journal, tmp_path: Path) -> None:
    """A hundred segments' worth of entries needs the space of a few."""
    most = 0
    for number in range(300):
        journal.append(f"{number}", _entry(f"{number}", _LARGE))
        journal.release(f"{number}")
        if journal.is_untidy:
            journal.tidy()
        most = max(most, len(list((tmp_path / "me").glob("*.journal"))))

    assert most <= 5
    assert journal.segments() == ()


def test_old_content_is_never_read_as_new(journal: Journal, tmp_path: Path) -> None:
    """A segment that is used again still holds its former bytes, and none of its former entries."""
    for number in range(3000):
        journal.append(f"old {number}", _entry(f"old {number}", 5000))
        journal.release(f"old {number}")
        if journal.is_untidy:
            journal.tidy()
    journal.append("new", _entry("new", 5000))
    current = journal.segments()[0]
    raw = current.path.read_bytes()
    position = len(current.content())
    names = _names(entries_of(raw))

    assert b"old" in raw[position:]
    assert names[-1] == "new"
    assert len(names) < 850
    assert names[:-1] == [f"old {number}" for number in range(3001 - len(names), 3000)]


def test_no_more_spares_than_needed(journal: Journal, tmp_path: Path) -> None:
    """After a long time without the store its space is given back."""
    for number in range(30):
        journal.append(f"{number}", _entry(f"{number}", _LARGE))
        if journal.is_untidy:
            journal.tidy()
    many = len(list((tmp_path / "me").glob("*.journal")))
    for number in range(30):
        journal.release(f"{number}")
    journal.tidy()

    assert many >= 10
    assert len(list((tmp_path / "me").glob("*.journal"))) == 3
    assert not journal.is_untidy


# -- damage --------------------------------------------------------------------------------------
def _segment_with(journal: Journal, *names: str) -> bytes:
    for name in names:
        journal.append(name, _entry(name))
    return journal.segments()[0].content()


def test_a_torn_entry_is_no_entry(journal: Journal) -> None:
    """Cut anywhere in the last entry: all that were whole are read, and the torn one is not."""
    two = len(_segment_with(journal, "1", "2"))
    content = _segment_with(journal, "3")
    found = {cut: _names(entries_of(content[:cut])) for cut in range(two, len(content))}

    assert set(map(tuple, found.values())) == {("1", "2")}
    assert _names(entries_of(content)) == ["1", "2", "3"]


def test_a_damaged_entry_is_no_entry(journal: Journal) -> None:
    """Any byte of the last entry changed: all before it are read, and it is not."""
    two = len(_segment_with(journal, "1", "2"))
    content = _segment_with(journal, "3")
    for position in range(two, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55

        assert _names(entries_of(bytes(damaged))) == ["1", "2"]


NOT_OURS = [
    pytest.param(b"", id="an empty file"),
    pytest.param(b"keymux", id="a file that ends within its header"),
    pytest.param(b"\x00" * 4096, id="a segment that was never begun"),
    pytest.param(b"GIF89a" * 100, id="a file of another kind"),
]


@pytest.mark.parametrize("content", NOT_OURS)
def test_what_is_no_segment_has_no_entries(content: bytes) -> None:
    """It is passed over."""
    assert entries_of(content) == []


def test_entries_count_in_segments_only(journal: Journal) -> None:
    """A file with another beginning is no segment, even if what follows looks like entries."""
    content = _segment_with(journal, "1")

    assert entries_of(b"KEYMUX" + content[6:]) == []


def _later_version(content: bytes) -> bytes:
    return content.replace(b"keymux journal 1", b"keymux journal 2", 1)


def _unknown_entry(content: bytes) -> bytes:
    """The same bytes, with a checksum that is right, for a kind of entry that is not known yet."""
    changed = content.replace(b"reserved", b"foretold")
    head = len(b"keymux journal 1\n") + 4
    seed = struct.unpack_from("<I", content, head - 4)[0]
    payload = changed[head + 8 :]
    return changed[:head] + struct.pack("<II", len(payload), crc32(payload, seed)) + payload


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_later_version, id="a later version of the file"),
        pytest.param(_unknown_entry, id="a kind of entry that is not known"),
    ],
)
def test_another_versions_journal_is_kept(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """It is not taken for an empty one: the operator is told which file it is."""
    journal = Journal(tmp_path, "me")
    content = _segment_with(journal, "1")
    path = journal.segments()[0].path
    journal.close()
    path.write_bytes(change(content))
    with pytest.raises(StoreUnusable, match=f"{path}.*another version.*move it away"):
        _left(tmp_path)

    assert path.exists()


# -- no space ------------------------------------------------------------------------------------
def _taken(journal: Journal) -> Iterator[str]:
    """Append until that is refused; the names of what was taken."""
    with suppress(JournalFull):
        for number in range(1000):
            journal.append(f"{number}", _entry(f"{number}", _LARGE))
            yield f"{number}"


def test_a_full_disk_shows_before_anything_is_lost(journal: Journal, tmp_path: Path) -> None:
    """D09: what was taken is whole, the rest is refused, and it goes on when there is space."""
    with _full_disk():
        taken = list(_taken(journal))
    with _full_disk(), pytest.raises(OSError, match="too large"):
        journal.tidy()
    files = list((tmp_path / "me").glob("*.journal"))
    journal.append("small", _entry("small"))
    journal.tidy()
    journal.append("large", _entry("large", _LARGE))

    assert taken == [f"{number}" for number in range(9)]
    assert len(files) == 3
    assert _names(_in(journal)) == [*taken, "small", "large"]


def test_no_space_at_the_start(tmp_path: Path) -> None:
    """A process that is started again and again on a full disk leaves nothing there each time."""
    with _full_disk(), pytest.raises(StoreUnavailable, match="no space for a journal"):
        Journal(tmp_path, "me")
    left = list(tmp_path.iterdir())
    Journal(tmp_path, "me").close()

    assert left == []


def test_what_no_segment_can_hold_is_refused(journal: Journal) -> None:
    """And does no harm to what follows."""
    largest = next(
        size for size in range(SEGMENT_BYTES, 0, -1) if len(_segment_of(size)) <= SEGMENT_BYTES - 8
    )
    journal.append("first", _entry("first"))
    with pytest.raises(JournalFull):
        journal.append("x", _entry("x", largest + 1))
    journal.append("x", _entry("x", largest))
    journal.append("last", _entry("last"))

    assert _names(_in(journal)) == ["first", "x", "last"]


def _segment_of(size: int) -> bytes:
    """As many bytes as a segment with one entry of that size has."""
    head = len(b"keymux journal 1\n") + 4 + 8
    return bytes(head + len(_encoded(size)))


def _encoded(size: int) -> bytes:
    return msgspec.msgpack.encode(_entry("x", size))


# -- whose it is ---------------------------------------------------------------------------------
def _journal_until_told(folder: Path, told: Connection) -> None:
    journal = Journal(folder, "other")
    journal.append("1", _entry("1"))
    told.send("ready")
    told.recv()


def test_only_the_dead_leave_orphans(tmp_path: Path) -> None:
    """The folder of a process that lives is nobody's to take; once it is dead it is."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_journal_until_told, args=(tmp_path, theirs))
    process.start()
    ours.recv()
    alive = list(orphans(tmp_path))
    process.kill()
    process.join()

    assert alive == []
    assert _names(_left(tmp_path)) == ["1"]


def test_the_own_journal_is_no_orphan(journal: Journal, tmp_path: Path) -> None:
    """Also when a process looks through its own folder."""
    assert list(orphans(tmp_path)) == []


def test_an_orphan_is_recovered_by_one_process(tmp_path: Path) -> None:
    """Whoever takes it first has it; what he leaves can be taken again."""
    journal = Journal(tmp_path, "dead")
    journal.append("1", _entry("1"))
    journal.close()
    (first,) = orphans(tmp_path)
    meanwhile = list(orphans(tmp_path))
    first.leave()
    (again,) = orphans(tmp_path)
    names = _names(list(again.entries()))
    again.drop()

    assert meanwhile == []
    assert names == ["1"]
    assert list(tmp_path.iterdir()) == []


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    """Files, folders without a lock, and what somebody put into a journal's folder."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    journal = Journal(tmp_path, "dead")
    journal.append("1", _entry("1"))
    journal.close()
    (tmp_path / "dead" / "notes.txt").write_text("mine")
    for orphan in orphans(tmp_path):
        orphan.drop()

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "dead",
        "dead/notes.txt",
        "folder",
        "notes.txt",
    ]


def test_no_folder_no_orphans(tmp_path: Path) -> None:
    """The first start of all."""
    assert list(orphans(tmp_path / "missing")) == []


def test_a_journal_that_holds_nothing_goes_away(tmp_path: Path) -> None:
    """Everything is in the store: nothing is left of it, and nothing can be done with it."""
    journal = Journal(tmp_path, "me")
    journal.append("1", _entry("1"))
    journal.release("1")
    journal.close()
    journal.tidy()

    assert list(tmp_path.iterdir()) == []


def test_a_closed_journal_keeps_what_the_store_lacks(tmp_path: Path) -> None:
    """And only that: segments whose entries are all in the store are deleted."""
    journal = Journal(tmp_path, "me")
    for number in range(5):
        journal.append(f"{number}", _entry(f"{number}", _LARGE))
    for number in range(3):
        journal.release(f"{number}")
    journal.close()

    assert _names(_left(tmp_path)) == ["3", "4"]
    assert len(list((tmp_path / "me").glob("*.journal"))) == 1


# -- kill -9 -------------------------------------------------------------------------------------
_WINDOW = 1500


def _write_until_killed(folder: Path, told: int) -> None:
    """Append for ever; whoever listens is told of each entry after it was appended."""
    journal = Journal(folder, "victim")
    for number in count():
        journal.append(f"{number}", _entry(f"{number}", 3000))
        os.write(told, struct.pack("<q", number))
        journal.release(f"{number - _WINDOW}")
        if journal.is_untidy:
            journal.tidy()


def _killed_after(folder: Path, entries: int) -> int:
    """Kill a writer when it has told of so many entries; gives the last it has told of."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:  # nothing but the journal runs in it
        os.close(receiving)
        _write_until_killed(folder, sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        told = pipe.read(8 * entries)
        os.kill(child, 9)
        told += pipe.read()
    os.waitpid(child, 0)
    return int.from_bytes(told[-8:], "little")


def _thirty_deaths(folder: Path, results: Connection) -> None:
    """Thirty writers are killed; for each: the last entry it told of, and what is read back."""
    luck = Random(20261123)  # noqa: S311 -- moments
    for number in range(30):
        last = _killed_after(folder / f"{number}", 1 + int(luck.random() ** 3 * 9000))
        results.send((last, [int(name) for name in _names(_left(folder / f"{number}"))]))


def test_nothing_that_was_appended_is_lost(tmp_path: Path) -> None:
    """T01: killed at thirty moments, every entry is read back whose append returned.

    The writer is a process of its own, forked from one that has no threads.
    """
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_thirty_deaths, args=(tmp_path, theirs))
    process.start()
    found: list[tuple[int, list[int]]] = [ours.recv() for _ in range(30)]
    process.join()
    lost = [set(range(max(0, last - _WINDOW + 1), last + 1)) - set(names) for last, names in found]

    assert lost == [set()] * 30
    assert all(names == sorted(set(names)) for _, names in found)
    assert all(last <= names[-1] <= last + 1 for last, names in found)
    assert max(last for last, _ in found) > 5000
