"""Runs the application: granian's workers, and the signals they understand.

``SIGTERM`` or ``SIGINT`` drains: no new exchanges, the running ones may finish. A second one ends
them now, each with an error event and a settled bill. ``SIGHUP`` reads the config again.

A worker that dies is started again, and the others go on. The server ends by itself only when no
worker can be kept alive.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.server.mp import MPServer, WorkerProcess
from msgspec import Struct

DRAIN = signal.SIGUSR1
END_NOW = signal.SIGUSR2
RELOAD = signal.SIGHUP
_OF_WORKERS = frozenset({DRAIN, END_NOW, RELOAD, signal.SIGTERM, signal.SIGINT})

_HEADERS_COMPLETE_MS = 15_000
_HEADER_BUFFER = 128 * 1024
_BACKLOG = 2048
_GRACE_S = 15
_SPARE_CONNECTIONS = 512
_YOUNG_S = 5.0
_SHORTEST_LIFE_S = 1.0
_YOUNG_DEATHS = 5


class Listen(Struct, frozen=True):
    """Where and how to listen.

    Attributes:
        host: address.
        port: TCP port.
        workers: processes that share the port.
        exchanges: most at once in each; more connections than that are taken, so that refusals and
            health checks are answered at once when all places are taken.
        drain_s: how long exchanges may run on after the signal to stop.
    """

    host: str
    port: int
    workers: int
    exchanges: int
    drain_s: float


class Events(Struct, frozen=True):
    """What the supervisor tells.

    Attributes:
        died: a worker has; with the number of its process.
        reloading: the workers read the config again; those to come shall begin with that.
    """

    died: Callable[[int], object] = lambda _pid: None
    reloading: Callable[[], object] = lambda: None


class Server(MPServer):
    """A supervisor and its workers; the supervisor passes signals on.

    Args:
        listen: where and how.
        application: called in the worker; gives the ASGI application.
        events: what the supervisor tells.
    """

    def __init__(
        self, listen: Listen, application: Callable[[], Any], events: Events | None = None
    ) -> None:
        super().__init__(
            "keymux",
            address=listen.host,
            port=listen.port,
            interface=Interfaces.ASGI,
            workers=listen.workers,
            runtime_mode=RuntimeModes.st,
            loop=Loops.uvloop,
            http=HTTPModes.http1,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=2 * listen.exchanges + _SPARE_CONNECTIONS,
            http1_settings=HTTP1Settings(
                header_read_timeout=_HEADERS_COMPLETE_MS, max_buffer_size=_HEADER_BUFFER
            ),
            log_enabled=False,
            respawn_failed_workers=True,
            workers_kill_timeout=round(listen.drain_s) + _GRACE_S,
        )
        self._application = application
        self._events = events or Events()
        self._asked_to_stop = False
        self._died_young: Counter[int] = Counter()

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            SystemExit: with 1 when a worker could not start or ended by itself.
        """
        self.serve(target_loader=self._application, wrap_loader=False)

    def signal_handler_interrupt(self, *args: object, **kwargs: object) -> None:
        """Drain; the second time, end."""
        self._pass_on(END_NOW if self._asked_to_stop else DRAIN)
        self._asked_to_stop = True
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]  # -- granian's

    def signal_handler_reload(self, *args: object, **kwargs: object) -> None:  # noqa: ARG002 -- theirs
        """Read the config again; the workers do it themselves."""
        self._events.reloading()
        self._pass_on(RELOAD)

    def _pass_on(self, number: signal.Signals) -> None:
        for worker in self.wrks:
            pid = worker.inner.pid
            if pid is not None and worker.inner.is_alive():
                os.kill(pid, number)

    # -- workers -------------------------------------------------------------------------------
    def _spawn_workers(self, spawn_target: object, target_loader: object) -> None:
        with _held_back():
            super()._spawn_workers(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # -- granian's

    def _serve_loop(self, spawn_target: object, target_loader: object) -> None:
        """Start workers again that have died, until told to stop; each at most once a second."""
        while not self.interrupt_signal:
            self.main_loop_interrupt.wait()
            self.main_loop_interrupt.clear()
            while self.interrupt_children and not self.interrupt_signal:
                slot = self.interrupt_children[0]
                if self._is_hopeless(slot):
                    return  # with the slot on the list, which makes the exit code 1
                del self.interrupt_children[0]
                self._events.died(self.wrks[slot].inner.pid)
                self.main_loop_interrupt.wait(_SHORTEST_LIFE_S - _age(self.wrks[slot]))
                if not self.interrupt_signal:
                    with _held_back():
                        self._respawn_workers([slot], spawn_target, target_loader)

    def _is_hopeless(self, slot: int) -> bool:
        """Whether no worker can be kept alive; keeps count of those that died soon after a start.

        One that is killed is started again for as long as others are alive. One that ends by
        itself, soon after its start, cannot begin and need not be asked again unless others serve.
        """
        worker = self.wrks[slot]
        if _age(worker) > _YOUNG_S:
            self._died_young[slot] = 0
            return False
        self._died_young[slot] += 1
        alive = [one for one in self.wrks if one.inner.is_alive()]
        if any(_age(one) > _YOUNG_S for one in alive):
            return False
        is_enough = self._died_young[slot] > _YOUNG_DEATHS
        if (worker.inner.exitcode or 0) > 0:
            return is_enough or not alive
        return is_enough and not alive


def _age(worker: WorkerProcess) -> float:
    return float(time.monotonic() - worker.birth)


@contextmanager
def _held_back() -> Iterator[None]:
    """Keep signals waiting; workers that are born in here do so until they can act on them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen_again() -> None:
    """In a worker: from now on signals are understood; those that have waited come at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_WORKERS)
