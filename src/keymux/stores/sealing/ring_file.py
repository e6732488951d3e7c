"""Where a key ring is kept: in a file that only its owner can read, or in the environment.

A file is replaced whole, so that a reader finds the old ring or the new one, also after a crash.
Whoever changes it holds the lock of its folder.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from keymux.stores.sealing.ring import BadRing, KeyRing, parse

_MODE = 0o600
_LARGEST = 2**20
Stamp = tuple[int, int, int, int]


class RingSource(Protocol):
    """Where a ring comes from."""

    @property
    def where(self) -> str:
        """For messages."""

    def latest(self) -> KeyRing | None:
        """The ring as it is now, None if there is none; raises BadRing."""

    def make(self, ring: KeyRing) -> KeyRing:
        """Keep a new ring unless there is one; gives the one that is kept; raises BadRing."""


class GivenRing:
    """A ring that stands in the environment; it is what it was when the program started."""

    where = "the key ring of the environment"

    def __init__(self, text: str) -> None:
        self._text = text

    def latest(self) -> KeyRing | None:
        """The ring."""
        return parse(self._text)

    def make(self, ring: KeyRing) -> KeyRing:  # noqa: ARG002 -- as the port has it
        """The ring that is there."""
        return parse(self._text)


class RingFile:
    """A ring in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[Stamp, KeyRing] | None = None

    @property
    def where(self) -> str:
        """The file."""
        return f"the key ring {self.path.absolute()}"

    def latest(self) -> KeyRing | None:
        """The ring, read again only if the file is another one than last time.

        Raises:
            BadRing: others may read it, or it is none.
        """
        try:
            found = self.path.stat()
            if self._read is not None and self._read[0] == _stamp(found):
                return self._read[1]
            return self._read_anew()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadRing(f"cannot be read: {error.strerror}") from None

    def _read_anew(self) -> KeyRing:
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadRing("is no plain file")
            if found.st_mode & 0o077:
                raise BadRing(f"can be read by others: chmod 600 {self.path}")
            content = file.read(_LARGEST)
        try:
            ring = parse(content.decode())
        except UnicodeDecodeError:
            raise BadRing("is not JSON") from None
        self._read = (_stamp(found), ring)
        return ring

    def make(self, ring: KeyRing) -> KeyRing:
        """Write a new ring unless there is one; of several processes that do so one wins.

        Raises:
            BadRing: the folder cannot be written, or the file that is there cannot be used.
        """
        fresh = self._written_aside(ring)
        try:
            os.link(fresh, self.path)
            self._sync_folder()
        except FileExistsError:
            pass
        except OSError as error:
            raise BadRing(f"cannot be made: {error.strerror}") from None
        finally:
            fresh.unlink()
        kept = self.latest()
        if kept is None:
            raise BadRing("is gone again")
        return kept

    def replace(self, ring: KeyRing) -> None:
        """Put another ring in the place of the one that is there.

        Raises:
            BadRing: the folder cannot be written.
        """
        fresh = self._written_aside(ring)
        try:
            fresh.replace(self.path)
            self._sync_folder()
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise BadRing(f"cannot be replaced: {error.strerror}") from None

    def take_back(self, ring: KeyRing) -> None:
        """Remove a ring that was just made and that nothing is sealed with."""
        if self.latest() == ring:
            self.path.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else change the ring meanwhile.

        Raises:
            BadRing: somebody else is changing it.
        """
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(folder)
            yield
        finally:
            os.close(folder)

    def _written_aside(self, ring: KeyRing) -> Path:
        path = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            path.unlink(missing_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(ring.text())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadRing(f"cannot be written: {error.strerror}") from None
        return path

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadRing("is being changed by another command: let that end first") from None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_mode


def source_of(place: Path | str) -> RingSource:
    """The source that a config names: a file, or a ring itself."""
    return RingFile(place) if isinstance(place, Path) else GivenRing(place)
