"""Starting, stopping and reading the config again, while clients are being served."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest

from keymux.core.records import Outcome
from keymux.core.vocabulary import Quality
from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import (
    ANTHROPIC_PATH,
    OPENAI_PATH,
    Connection,
    ask,
    chat,
    post,
)

UNHURRIED = "sk-sandbox-slow@0@gap_s=0.08"
ENDS = (b"[DONE]", b"message_stop")
PATHS = [
    pytest.param(OPENAI_PATH, id="OpenAI"),
    pytest.param(ANTHROPIC_PATH, id="Anthropic"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture
def config(sandbox: SandboxThread) -> dict[str, Any]:
    """One provider."""
    return config_of({"openhands": sandbox.url("openhands")})


@pytest.fixture
def gateway(tmp_path: Path, config: dict[str, Any]) -> Iterator[GatewayProcess]:
    """A gateway whose upstream answers word by word."""
    with GatewayProcess(tmp_path, config, {"openhands": Keys([UNHURRIED])}) as running:
        yield running


class Streaming:
    """A client in the middle of a stream."""

    def __init__(self, events: AsyncIterator[h11.Event]) -> None:
        self._events = events
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_whole = False

    async def start(self) -> None:
        """Wait for the head and the first event."""
        head, first = await anext(self._events), await anext(self._events)
        assert isinstance(head, h11.Response)
        assert isinstance(first, h11.Data)
        self.headers = {name.decode(): value.decode() for name, value in head.headers}
        self.body = bytes(first.data)

    async def finish(self) -> "Streaming":
        """Read to the end."""
        async for event in self._events:
            if isinstance(event, h11.Data):
                self.body += bytes(event.data)
            self.is_whole = isinstance(event, h11.EndOfMessage)
        return self

    @property
    def request_id(self) -> str:
        """The gateway's."""
        return self.headers["x-keymux-request-id"]


@asynccontextmanager
async def _streaming(port: int, path: str, words: int) -> AsyncIterator[Streaming]:
    """A client that has received the first event of a stream."""
    async with await Connection.open(port) as connection:
        client = Streaming(connection.events())
        await connection.ask(path, chat(f"words:{words}", stream=True, max_tokens=2000))
        await client.start()
        yield client


def _during_a_stream(
    gateway: GatewayProcess, path: str, words: int, act: Callable[[], None]
) -> Streaming:
    """Do something while a stream runs, then read it to its end."""

    async def story() -> Streaming:
        async with _streaming(gateway.port, path, words) as streaming:
            await asyncio.to_thread(act)
            return await streaming.finish()

    return asyncio.run(story())


def _exit_code(gateway: GatewayProcess, seconds: float = 10.0) -> int:
    """How the program ends that was told to."""
    assert gateway.process is not None
    code = gateway.process.wait(seconds)
    gateway.process = None
    return code


# -- stopping ------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stream_that_runs_may_finish(
    gateway: GatewayProcess, path: str, number: signal.Signals
) -> None:
    """The signal to stop cuts nobody off; the program ends with the last stream, and well."""
    streaming = _during_a_stream(gateway, path, 12, lambda: gateway.signal(number))
    code = _exit_code(gateway)
    row = gateway.row(streaming.request_id)

    assert code == 0
    assert streaming.is_whole
    assert any(end in streaming.body for end in ENDS)
    assert (row.outcome, row.quality) == (Outcome.OK, Quality.FINAL)
    assert [line["event"] for line in gateway.log() if line["event"] != "exchange"] == [
        "ready",
        "draining",
        "stopped",
    ]


async def _status_or_nothing(port: int, path: str, method: str) -> int:
    """The status of a new request, 0 when it is not taken at all."""
    try:
        response = await ask(port, path, chat() if method == "POST" else b"", method=method)
    except ConnectionError:
        return 0
    return response.status


def test_nothing_new_is_taken_while_draining(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """Readiness is gone at once, and what comes now is turned away before it costs anything."""

    async def story() -> tuple[list[int], list[int], Streaming]:
        ready, served = [], []
        async with _streaming(gateway.port, OPENAI_PATH, 25) as streaming:
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
            for _ in range(8):
                ready.append(await _status_or_nothing(gateway.port, "/readyz", "GET"))
                served.append(await _status_or_nothing(gateway.port, ANTHROPIC_PATH, "POST"))
                await asyncio.sleep(0.1)
            return ready, served, await streaming.finish()

    before = len(sandbox.seen)
    ready, served, streaming = asyncio.run(story())

    assert _exit_code(gateway) == 0
    assert set(ready) <= {0, 503}
    assert set(served) <= {0, 503}
    assert streaming.is_whole
    assert len(sandbox.seen) == before + 1


@pytest.mark.parametrize("path", PATHS)
def test_a_second_signal_ends_everything_now(
    gateway: GatewayProcess, sandbox: SandboxThread, path: str
) -> None:
    """Running streams end with an error event, their upstreams are closed, their rows booked."""

    def twice() -> None:
        gateway.signal(signal.SIGTERM)
        pause(0.5)
        gateway.signal(signal.SIGTERM)

    began = time.monotonic()
    streaming = _during_a_stream(gateway, path, 500, twice)
    took = time.monotonic() - began
    code = _exit_code(gateway)
    row = gateway.row(streaming.request_id)
    sandbox.until(lambda: sandbox.seen[-1].peer_left_at is not None)

    assert code == 0
    assert took < 3.0
    assert streaming.is_whole
    assert b"is shutting down" in streaming.body
    assert not any(end in streaming.body for end in ENDS)
    assert (row.outcome, row.fault, row.quality) == (Outcome.CUT, "draining", Quality.PARTIAL)
    assert row.usage.output > 0


def test_draining_has_an_end(tmp_path: Path, config: dict[str, Any]) -> None:
    """Streams that run on for longer than they may are ended, and the program with them."""
    config["timeouts"] = {"drain_s": 1.0}
    keys = {"openhands": Keys([UNHURRIED])}
    with GatewayProcess(tmp_path, config, keys) as gateway:
        began = time.monotonic()
        streaming = _during_a_stream(
            gateway, OPENAI_PATH, 500, lambda: gateway.signal(signal.SIGTERM)
        )
        took = time.monotonic() - began
        code = _exit_code(gateway)

        assert code == 0
        assert 1.0 <= took < 3.0
        assert b"is shutting down" in streaming.body
        assert gateway.row(streaming.request_id).fault == "draining"


def test_an_idle_gateway_stops_at_once(gateway: GatewayProcess) -> None:
    """Connections that only wait for their next request hold nobody up."""
    assert gateway.process is not None

    async def story() -> float:
        async with await Connection.open(gateway.port) as connection:
            await connection.ask("/livez", b"", None, "GET")
            await connection.answer()
            began = time.monotonic()
            code = await asyncio.to_thread(gateway.stop)
            assert code == 0
            return time.monotonic() - began

    took = asyncio.run(story())

    assert took < 3.0
    assert not list((gateway.folder / "keymux.journal").iterdir())


def test_a_worker_that_dies_is_replaced(gateway: GatewayProcess) -> None:
    """A crash costs the running exchanges, which are booked as interrupted, and nothing else."""
    before = gateway.workers()

    def kill() -> None:
        for worker in before:
            os.kill(worker, signal.SIGKILL)

    with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
        _during_a_stream(gateway, OPENAI_PATH, 500, kill)
    gateway.wait_until_ready()
    response = post(gateway.port, OPENAI_PATH, chat(max_tokens=3))
    rows = gateway.wait_for_rows(2)

    assert response.status == 200
    assert before != gateway.workers()
    assert [row.outcome for row in rows] == [Outcome.INTERRUPTED, Outcome.OK]
    assert rows[0].quality is Quality.UNKNOWN
