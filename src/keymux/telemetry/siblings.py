"""The figures of all workers of a host, so that any of them can show the sum.

Each worker writes its figures into a file of its own about once a second. Those of a worker that
has died are added to a file of the dead, so that what was counted never becomes less.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from keymux.telemetry.tally import Snapshot, Tally, added_up

PUBLISH_EVERY_S = 1.0

_ENDING = ".worker"
_DEAD = "dead"
_REMEMBERED = 100


class _Dead(Struct):
    """The workers that have died.

    Attributes:
        tally: of all of them.
        last: the names of those that were added last; their own files may still be there, or have
            been when somebody looked.
    """

    tally: Tally
    last: list[str] = []


class Siblings:
    """The folder in which workers meet.

    Args:
        folder: of this server's workers alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # -- a worker ------------------------------------------------------------------------------
    def name(self) -> str:
        """A name for the figures of this process, never used before."""
        return f"{os.getpid()}-{time.time_ns()}"

    def publish(self, name: str, snapshot: bytes) -> None:
        """Show the figures of a worker to the others, all of them at once or not at all."""
        self._put(name + _ENDING, snapshot)

    def all_together(self) -> tuple[Snapshot, int]:
        """The figures of all workers as those of one, and how many are alive.

        The dead are read last: a worker whose file is gone by then is among them, and one whose
        file was read before is left out if it is among them by now.
        """
        alive = dict(self._read())
        dead = self._dead()
        for name in dead.last:
            alive.pop(name, None)
        for snapshot in alive.values():
            dead.tally.add(snapshot.tally)
        now = added_up(snapshot.now for snapshot in alive.values())
        return Snapshot(dead.tally, now), len(alive)

    def _read(self) -> Iterator[tuple[str, Snapshot]]:
        for path in sorted(self._folder.glob(f"*{_ENDING}")):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            yield path.stem, msgspec.msgpack.decode(content, type=Snapshot)

    # -- the supervisor ------------------------------------------------------------------------
    def bury(self, pid: int) -> None:
        """A worker has died: what it had counted is remembered."""
        for path in sorted(self._folder.glob(f"{pid}-*{_ENDING}")):
            dead = self._dead()
            if path.stem not in dead.last:
                content = path.read_bytes()
                dead.tally.add(msgspec.msgpack.decode(content, type=Snapshot).tally)
                dead.last = [*dead.last[-_REMEMBERED:], path.stem]
                self._put(_DEAD, msgspec.msgpack.encode(dead))
            path.unlink()

    def _dead(self) -> _Dead:
        try:
            return msgspec.msgpack.decode((self._folder / _DEAD).read_bytes(), type=_Dead)
        except FileNotFoundError:
            return _Dead(Tally())

    def _put(self, name: str, content: bytes) -> None:
        fresh = self._folder / f"{name}.{os.getpid()}.new"
        fresh.write_bytes(content)
        fresh.rename(self._folder / name)
