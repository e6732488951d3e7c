"""The sandbox as an object: it listens while its context is open."""

import asyncio
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

from keymux.sandbox.answer import Pace
from keymux.sandbox.asked import Endpoint
from keymux.sandbox.behaviour import Behaviour
from keymux.sandbox.connection import Connection, House
from keymux.sandbox.control import Control, Standing, spelled_out
from keymux.sandbox.record import Records, Seen
from keymux.sandbox.scripts import Scripts
from keymux.sandbox.stage import Stage

_BACKLOG = 4_096
_SETTLE_S = 0.01
"""A server of Python 3.11 that closes forgets the connections it is just accepting, unclosed."""
_USUAL_PACE = Pace()
_REMEMBERED = 10_000


class Sandbox:
    """A scripted upstream on real sockets.

    ```python
    async with Sandbox() as sandbox:
        sandbox.behave("sk-sandbox-a", Throttled(retry_after=7), Ok())
        ...  # requests to sandbox.url("openhands") with the key sk-sandbox-a
        assert [seen.status for seen in sandbox.seen] == [429, 200]
    ```

    Args:
        host: to listen on.
        port: to listen on, 0 for any free one.
        tls: None for plain HTTP.
        pace: usual timing of streams.
        remember: how many records are kept.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        pace: Pace = _USUAL_PACE,
        remember: int = _REMEMBERED,
    ) -> None:
        self.host, self.port = host, port
        self._tls = tls
        self._accepted = 0
        self._scripts = Scripts()
        self._records = Records(remember)
        control = Control(self._scripts, self._records, self._standing)
        self._house = House(Stage(self._scripts, pace), self._records, control.answer, {}, set())

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, self.host, self.port, ssl=self._tls, backlog=_BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.sleep(_SETTLE_S)
        self._server.close()
        tasks = [connection.abort() for connection in tuple(self._house.here.values())]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, dialect: str = "") -> str:
        """The base URL under which a dialect is served; the default one has no path."""
        scheme = "https" if self._tls else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        base = f"{scheme}://{host}:{self.port}"
        return f"{base}/{dialect}" if dialect else base

    def behave(self, who: str, *script: Behaviour | str, on: Endpoint | None = None) -> None:
        """Set how requests are met: the first by the first behaviour, and so on; the last stays.

        Args:
            who: an upstream key, which is accepted from now on, or the name of a dialect.
            script: behaviours, or lines of text such as ``throttled@7+ok``.
            on: the endpoint it is for, None for all.
        """
        self._scripts.set(who, spelled_out(script), on)

    def reset(self) -> None:
        """Forget all scripts and records."""
        self._scripts.clear()
        self._records.clear()

    @property
    def seen(self) -> list[Seen]:
        """The records of all requests, oldest first, as they are now."""
        return list(self._records.since(0))

    @property
    def connections(self) -> int:
        """How many connections are open, those of the control API left out."""
        return self._standing().connections

    @property
    def accepted(self) -> int:
        """How many connections there have been, those of the control API left out."""
        return self._standing().accepted

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait until something holds; it is looked at whenever the sandbox saw or sent something.

        Raises:
            TimeoutError: when it does not come to hold in that time.
        """
        await self._records.until(condition, within_s)

    def _connection(self) -> Connection:
        self._accepted += 1
        return Connection(self._house, self._accepted)

    def _standing(self) -> Standing:
        house = self._house
        return Standing(
            connections=len(house.here.keys() - house.controls),
            accepted=self._accepted - len(house.controls),
            changes=self._records.changes,
        )
