"""The process's own sockets, looked at from outside the library that opened them (Linux)."""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_USER_TIMEOUT = 18  # TCP_USER_TIMEOUT; the socket module of Python 3.11 does not name it
_INFO = struct.Struct("@44xI4xI")
"""Of ``struct tcp_info``: milliseconds since data was last sent, and since it last arrived."""


class Scissors:
    """Cuts connections by their mark, all that are due in one pass over the open files."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[bool, Callable[[int], None]]] = {}
        self._is_cutting = False
        self._is_closed = False

    def cut(self, mark: int, done: Callable[[int], None], *, spare_answered: bool) -> None:
        """Shut down the sockets that carry a mark, in a moment.

        Args:
            mark: their ``TCP_USER_TIMEOUT`` in milliseconds.
            done: told how many of them waited for an answer.
            spare_answered: leave those alone on which something arrived since the last sending.
        """
        self._due[mark] = (spare_answered, done)
        self._go_on()

    def close(self) -> None:
        """Cut nothing more."""
        self._is_closed = True

    def _go_on(self) -> None:
        if self._is_cutting or self._is_closed or not self._due:
            return
        due, self._due = self._due, {}
        self._is_cutting = True
        marks = {mark: spare for mark, (spare, _) in due.items()}

        def done(cutting: "asyncio.Future[Mapping[int, int]]") -> None:
            self._is_cutting = False
            if self._is_closed or cutting.cancelled():
                return
            for mark, cut in cutting.result().items():
                due[mark][1](cut)
            self._go_on()

        asyncio.get_running_loop().run_in_executor(None, _cut, marks).add_done_callback(done)


def _cut(marks: Mapping[int, bool]) -> Mapping[int, int]:
    """Shut down what carries one of the marks; gives how many of each were waiting."""
    cut = dict.fromkeys(marks, 0)
    for connection in _own_sockets():
        with connection, contextlib.suppress(OSError):
            mark = connection.getsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT)
            if mark not in marks:
                continue
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
            sent_ms_ago, received_ms_ago = _INFO.unpack(info)
            if sent_ms_ago < received_ms_ago or not marks[mark]:
                connection.shutdown(socket.SHUT_RDWR)
                cut[mark] += sent_ms_ago <= received_ms_ago
    return cut


def _own_sockets() -> Iterator[socket.socket]:
    """A second handle on each socket of the process."""
    for name in sorted(entry.name for entry in Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            number = int(name)
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield _adopted(os.dup(number))


def _adopted(copy: int) -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=copy)
    except OSError:  # another thread has put something else in its place
        os.close(copy)
        raise
