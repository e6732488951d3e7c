"""Runs the application: granian's workers, and the signals they understand.

``SIGTERM`` or ``SIGINT`` drains: no new exchanges, the running ones may finish. A second one ends
them now, each with an error event and a settled bill. ``SIGHUP`` reads the config again.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.server.mp import MPServer
from msgspec import Struct

DRAIN = signal.SIGUSR1
END_NOW = signal.SIGUSR2
RELOAD = signal.SIGHUP

_HEADERS_COMPLETE_MS = 15_000
_HEADER_BUFFER = 128 * 1024
_BACKLOG = 2048
_GRACE_S = 15
_SPARE_CONNECTIONS = 512


class Listen(Struct, frozen=True):
    """Where and how to listen.

    Attributes:
        host: address.
        port: TCP port.
        exchanges: most at once; more connections than that are taken, so that refusals and health
            checks are answered at once when all places are taken.
        drain_s: how long exchanges may run on after the signal to stop.
    """

    host: str
    port: int
    exchanges: int
    drain_s: float


class Server(MPServer):
    """A supervisor and its workers; the supervisor passes signals on.

    Args:
        listen: where and how.
        application: called in the worker; gives the ASGI application.
    """

    def __init__(self, listen: Listen, application: Callable[[], Any]) -> None:
        super().__init__(
            "keymux",
            address=listen.host,
            port=listen.port,
            interface=Interfaces.ASGI,
            workers=1,
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
        self._asked_to_stop = False

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
        self._pass_on(RELOAD)

    def _pass_on(self, number: signal.Signals) -> None:
        for worker in self.wrks:
            pid = worker.inner.pid
            if pid is not None and worker.inner.is_alive():
                os.kill(pid, number)
