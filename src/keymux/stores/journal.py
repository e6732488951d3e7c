"""Keeps what happened safe until the store has it.

A journal is a folder of segment files that are mapped into memory. Appending is a copy into such a
map: the request path waits for nothing, and what was copied survives a ``kill -9``, because the
pages belong to the kernel. (It does not survive the loss of power before the kernel has written
them; what the store has acknowledged does.) Space for a segment is reserved before it is used, so
that a full disk shows here and not as a fault in the middle of a copy.

Each process writes into a folder of its own and holds a lock on it. A folder without a lock belongs
to a process that is dead: its records are there to be recovered. Folders are made and looked
through under a lock on the folder around them, so that nobody takes a new one for a dead one.
"""

import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from zlib import crc32

import msgspec

from keymux.core.records import AttemptStarted, ExchangeRow, Reservation, Transition
from keymux.stores.port import StoreUnavailable, StoreUnusable

SEGMENT_BYTES = 4 * 2**20

_MAGIC = b"keymux journal 1\n"
_ANY_MAGIC = b"keymux journal "
_HEADER = struct.Struct(f"<{len(_MAGIC)}sI")
_PREFIX = struct.Struct("<II")
_LARGEST = SEGMENT_BYTES - _HEADER.size - 2 * _PREFIX.size
_LOCK = "lock"
_SPARES = 2

Entry = Reservation | AttemptStarted | ExchangeRow | Transition

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class JournalFull(Exception):  # noqa: N818 -- it names a state
    """No segment has room, and no other could be made ready."""


class Segment:
    """One mapped file.

    Every entry carries a checksum that begins with the segment's own seed. A segment that is used
    again gets another seed, and what it held before is no entry any more.

    Attributes:
        path: where it is.
        owners: whose entries in it the store does not have yet.
    """

    __slots__ = ("_map", "_position", "_seed", "owners", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owners: set[str] = set()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, SEGMENT_BYTES)
            self._map = mmap.mmap(file, SEGMENT_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        self.begin()

    def begin(self) -> None:
        """Forget what it held."""
        self._seed = secrets.randbits(32)
        _HEADER.pack_into(self._map, 0, _MAGIC, self._seed)
        self._position = _HEADER.size

    def append(self, payload: bytes) -> bool:
        """Copy an entry in; False when there is no room."""
        position, size = self._position, len(payload)
        start = position + _PREFIX.size
        end = start + size
        if end + _PREFIX.size > SEGMENT_BYTES:
            return False
        self._map[start:end] = payload
        # the prefix last: until it is there, the entry is not
        _PREFIX.pack_into(self._map, position, size, crc32(payload, self._seed))
        self._position = end
        return True

    def content(self) -> bytes:
        """What it holds now, header and all."""
        return self._map[: self._position]

    def move(self, path: Path) -> None:
        """Give the file another name."""
        self.path = self.path.rename(path)

    def drop(self) -> None:
        """Delete the file."""
        self._map.close()
        self.path.unlink(missing_ok=True)


def entries_of(content: bytes) -> list[Entry]:
    """The entries of a segment, up to the first that is not whole.

    Raises:
        StoreUnusable: another keymux wrote it, in a way that this one cannot read.
    """
    if len(content) < _HEADER.size:
        return []
    magic, seed = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        if magic.startswith(_ANY_MAGIC):
            raise StoreUnusable("another version of keymux wrote it")
        return []
    found: list[Entry] = []
    position = _HEADER.size
    while position + _PREFIX.size <= len(content):
        length, checksum = _PREFIX.unpack_from(content, position)
        start = position + _PREFIX.size
        payload = content[start : start + length]
        if not length or len(payload) < length or crc32(payload, seed) != checksum:
            break
        found.append(_read(payload))
        position = start + length
    return found


def _read(payload: bytes) -> Entry:
    try:
        entry: Entry = _decode(payload)
    except msgspec.MsgspecError as error:
        raise StoreUnusable(f"another version of keymux wrote it: {error}") from error
    return entry


class Journal:
    """The journal of this process.

    Entries of one exchange are kept until `release` is called with its id; a transition until it
    is called with the transition's.

    Args:
        folder: common to all processes that share a store.
        name: of this process; a folder of that name is made.

    Raises:
        StoreUnavailable: there is no space; nothing is left behind.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._home = folder / name
        with _looking_through(folder):
            self._home.mkdir(mode=0o700)
            self._lock = _locked(self._home, os.O_RDWR | os.O_CREAT)
        self._tidying = Lock()
        self._is_closed = False
        self._number = 0
        self._where: dict[str, list[Segment]] = {}
        self._full: list[Segment] = []
        try:
            self._current = self._segment()
            self._spares = [self._segment() for _ in range(_SPARES)]
        except OSError as error:
            _delete(self._home)
            os.close(self._lock)
            raise StoreUnavailable(
                f"no space for a journal in {folder}: {error.strerror}"
            ) from error

    def _segment(self) -> Segment:
        self._number += 1
        return Segment(self._home / f"{self._number:08d}.journal")

    def append(self, owner: str, entry: Entry) -> None:
        """Keep an entry until its owner is released.

        Raises:
            JournalFull: there is no room, and none could be reserved.
        """
        payload = _encode(entry)
        if not self._current.append(payload):
            self._turn_over(len(payload))
            self._current.append(payload)
        current = self._current
        if owner not in current.owners:
            current.owners.add(owner)
            self._where.setdefault(owner, []).append(current)

    def _turn_over(self, size: int) -> None:
        """Go on in another segment, if that one has room for so many bytes."""
        if not self._spares or size > _LARGEST:
            raise JournalFull
        self._full.append(self._current)
        self._current = self._spares.pop(0)

    def release(self, owner: str) -> None:
        """The store has everything of an owner."""
        for segment in self._where.pop(owner, ()):
            segment.owners.discard(owner)

    @property
    def is_untidy(self) -> bool:
        """Whether `tidy` has something to do."""
        return not self._spares or any(not full.owners for full in self._full)

    def tidy(self) -> None:
        """Make spare segments of those that nobody needs any more; may block on the disk.

        Raises:
            OSError: no space for a spare; what is there goes on working.
        """
        with self._tidying:
            if not self._is_closed:
                self._tidy()

    def _tidy(self) -> None:
        for segment in [full for full in self._full if not full.owners]:
            self._full.remove(segment)
            if len(self._spares) < _SPARES:
                self._number += 1
                segment.begin()  # first: under its new name it would be read as the latest
                segment.move(self._home / f"{self._number:08d}.journal")
                self._spares.append(segment)
            else:
                segment.drop()
        if not self._spares:
            self._spares.append(self._segment())

    def segments(self) -> tuple[Segment, ...]:
        """The segments that hold entries the store does not have, oldest first."""
        return tuple(one for one in (*self._full, self._current) if one.owners)

    def close(self) -> None:
        """Give the folder up; what is not in the store stays for the next process."""
        with self._tidying:
            self._is_closed = True
        kept = self.segments()
        for segment in (*self._full, self._current, *self._spares):
            if segment not in kept:
                segment.drop()
        if not kept:
            _delete(self._home)
        os.close(self._lock)


@contextmanager
def _looking_through(folder: Path) -> Iterator[None]:
    """Only one process at a time makes, takes or deletes a journal in a folder."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _delete(home: Path) -> None:
    """Delete the folder of a journal, whose lock is held."""
    with _looking_through(home.parent):
        for path in home.glob("*.journal"):
            path.unlink(missing_ok=True)
        (home / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's file is in it, or it is gone
            home.rmdir()


def _locked(home: Path, how: int) -> int:
    """Hold a lock on a folder for as long as the process lives.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    file = os.open(home / _LOCK, how | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


class Orphan:
    """The folder of a dead process; the lock on it is ours while we recover it."""

    def __init__(self, home: Path, lock: int) -> None:
        self._home = home
        self._lock = lock

    def entries(self) -> Iterator[Entry]:
        """Everything the process left, oldest first.

        Raises:
            StoreUnusable: another keymux wrote it, in a way that this one cannot read.
        """
        for path in sorted(self._home.glob("*.journal")):
            try:
                yield from entries_of(path.read_bytes())
            except StoreUnusable as error:
                raise StoreUnusable(f"{path}: {error}; move it away to start without") from error

    def drop(self) -> None:
        """Delete it: the store has everything."""
        _delete(self._home)
        os.close(self._lock)

    def leave(self) -> None:
        """Keep it for later."""
        os.close(self._lock)


def orphans(folder: Path) -> Iterator[Orphan]:
    """The folders of processes that are dead."""
    for home in sorted(folder.iterdir()) if folder.is_dir() else ():
        with _looking_through(folder):
            lock = _lock_of_the_dead(home)
        if lock is not None:
            yield Orphan(home, lock)


def _lock_of_the_dead(home: Path) -> int | None:
    try:
        return _locked(home, os.O_RDWR)
    except (BlockingIOError, FileNotFoundError, NotADirectoryError):
        return None
