"""The sandbox beside code that does not await: in another thread, or in a process of its own."""

import asyncio
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from keymux.sandbox.asked import Endpoint
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.control import Standing, spelled_out
from keymux.sandbox.program import LISTENS
from keymux.sandbox.record import Seen
from keymux.sandbox.server import Sandbox

Found = TypeVar("Found")
_PATIENCE_S = 10.0


class SandboxThread:
    """A `Sandbox` whose event loop runs in a thread; use it as a context.

    Args:
        sandbox: to open; None for one with the usual settings.
    """

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        self._sandbox = sandbox or Sandbox()
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop = self._ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE_S)

    async def _live(self) -> None:
        self._stop = asyncio.Event()
        try:
            async with self._sandbox:
                self._ready.set_result(asyncio.get_running_loop())
                await self._stop.wait()
        except OSError as error:
            self._ready.set_exception(error)

    def url(self, dialect: str = "") -> str:
        """As `Sandbox.url`."""
        return self._sandbox.url(dialect)

    def behave(self, who: str, *script: Behaviour | str, on: Endpoint | None = None) -> None:
        """As `Sandbox.behave`."""
        self._there(lambda: self._sandbox.behave(who, *script, on=on))

    def reset(self) -> None:
        """As `Sandbox.reset`."""
        self._there(self._sandbox.reset)

    @property
    def seen(self) -> list[Seen]:
        """As `Sandbox.seen`."""
        return self._there(lambda: self._sandbox.seen)

    @property
    def connections(self) -> int:
        """As `Sandbox.connections`."""
        return self._there(lambda: self._sandbox.connections)

    @property
    def accepted(self) -> int:
        """As `Sandbox.accepted`."""
        return self._there(lambda: self._sandbox.accepted)

    def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """As `Sandbox.until`; the condition is looked at in the sandbox's thread."""
        waiting = self._sandbox.until(condition, within_s)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def _there(self, call: Callable[[], Found]) -> Found:
        """Call something in the sandbox's thread."""
        if threading.current_thread() is self._thread:
            return call()
        done: Future[Found] = Future()

        def carry_out() -> None:
            try:
                done.set_result(call())
            except Exception as error:  # noqa: BLE001 -- raised again where it was asked for
                done.set_exception(error)

        self._loop.call_soon_threadsafe(carry_out)
        return done.result(_PATIENCE_S)


class SandboxChild:
    """A sandbox in a child process, talked to over its control API; use it as a context.

    It ends with its context, and with this process if that is killed.

    Args:
        host: to listen on.
        port: to listen on, 0 for any free one.
        certificate: PEM file with a private key and its certificates; None for plain HTTP.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, certificate: Path | None = None
    ) -> None:
        self._arguments = [host, str(port), *([str(certificate)] if certificate else [])]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(  # noqa: S603 -- our own program
            [sys.executable, "-u", "-m", "keymux.sandbox.program", *self._arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for this process; it ends the child itself
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None  # noqa: S101 -- for the type checker
        first = self.process.stdout.readline()
        if not first.startswith(LISTENS):
            self._end()
            raise OSError("The sandbox did not start; its error output says why.")
        self._base = first.removeprefix(LISTENS).strip()
        # One connection for all questions: each new one would count as a change.
        self._control = _connection(self._base)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.close()
        self._end()

    def _end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=_PATIENCE_S)

    def url(self, dialect: str = "") -> str:
        """As `Sandbox.url`."""
        return f"{self._base}/{dialect}" if dialect else self._base

    def behave(self, who: str, *script: Behaviour | str, on: Endpoint | None = None) -> None:
        """As `Sandbox.behave`."""
        rule = {"who": who, "script": spelled_out(script), "on": on}
        self._ask("PUT", "behaviours", msgspec.json.encode([rule]))

    def reset(self) -> None:
        """As `Sandbox.reset`."""
        self._ask("POST", "reset")

    @property
    def seen(self) -> list[Seen]:
        """As `Sandbox.seen`; moments are of the child's clocks, which are the machine's."""
        return self.seen_since(0)

    def seen_since(self, number: int) -> list[Seen]:
        """The records after a number, oldest first, for those who ask many times."""
        return msgspec.json.decode(self._ask("GET", f"seen?since={number}"), type=list[Seen])

    @property
    def connections(self) -> int:
        """As `Sandbox.connections`."""
        return self._standing().connections

    @property
    def accepted(self) -> int:
        """As `Sandbox.accepted`."""
        return self._standing().accepted

    def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """As `Sandbox.until`."""
        end = time.monotonic() + within_s
        changes = self._standing().changes
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            changes = self._standing(changes, left).changes

    def _standing(self, after: int = -1, within_s: float = 0.0) -> Standing:
        found = self._ask("GET", f"status?after={after}&within_s={within_s}")
        return msgspec.json.decode(found, type=Standing)

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        self._control.request(method, f"/_sandbox/{path}", body)
        response = self._control.getresponse()
        found = response.read()
        if response.status >= 400:  # noqa: PLR2004 -- where HTTP's errors begin
            raise ValueError(found.decode())
        return found


def _connection(base: str) -> HTTPConnection:
    """To a child of our own, which may have a certificate for any name."""
    parts = urlsplit(base)
    if parts.scheme == "http":
        return HTTPConnection(parts.netloc, timeout=_PATIENCE_S)
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(parts.netloc, timeout=_PATIENCE_S, context=tls)
