"""Clients that are slow, silent or half gone cost little, and cost the others nothing."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keymux.core.records import ExchangeRow, Outcome
from keymux.core.vocabulary import Quality
from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import GatewayProcess, Keys, config_of, islands_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, ask, chat, get, head

MIB = 2**20
IDLE = 500
LARGE = 200 * MIB
BUFFERED = 24 * MIB
"""What the kernel may keep of it on its way through two loopback connections."""

EVENT = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":' + (
    b'[{"index":0,"delta":{"content":"' + b"x" * 65_000 + b'"},"finish_reason":null}]}\n\n'
)
START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
LAST = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":9,"total_tokens":10}}\n\ndata: [DONE]\n\n'
)
EVENTS = LARGE // len(EVENT)


class Torrent:
    """An upstream that streams 200 MB to everybody, as fast as they are taken.

    Attributes:
        sent: bytes of the last answer that the kernel took.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._pour, args=(visitor,), daemon=True).start()

    def _pour(self, visitor: socket.socket) -> None:
        with visitor:
            asked = visitor.recv(65_536)
            while not asked.endswith(b"}"):
                asked += visitor.recv(65_536)
            self.sent = 0
            start = (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            )
            try:
                visitor.sendall(start)
                for _ in range(EVENTS):
                    visitor.sendall(EVENT)
                    self.sent += len(EVENT)
                visitor.sendall(LAST)
            except ConnectionError:
                return

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def torrent() -> Iterator[Torrent]:
    """The upstream."""
    running = Torrent()
    yield running
    running.close()


def _memory(gateway: GatewayProcess) -> int:
    """Bytes of memory of the largest worker."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in gateway.workers()]
    return max(pages) * 4096


def _torrential(folder: Path, torrent: Torrent, **timeouts: float) -> GatewayProcess:
    config = config_of({"openhands": torrent.url}, timeouts=timeouts)
    return GatewayProcess(folder, config, {"openhands": Keys(["sk-sandbox-torrent"])})


async def _reluctant(gateway: GatewayProcess, torrent: Torrent) -> tuple[int, int, int, int]:
    """A client that reads nothing for two seconds and then everything.

    Returns:
        Bytes that the upstream got rid of meanwhile, memory that the gateway took meanwhile and at
        the end, and bytes that the client received.
    """
    before = _memory(gateway)
    body = chat("Everything", stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=65_536)
    try:
        writer.write(head(OPENAI_PATH, body, {"Connection": "close"}) + body)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2.0)
        taken, grown = torrent.sent, _memory(gateway) - before
        received, most = 0, grown
        while chunk := await reader.read(MIB):
            received += len(chunk)
            if received // MIB % 16 == 0:
                most = max(most, _memory(gateway) - before)
        return taken, grown, most, received
    finally:
        writer.close()


@pytest.mark.slow
def test_a_slow_reader_slows_the_upstream_down(tmp_path: Path, torrent: Torrent) -> None:
    """What a client does not read is not fetched: memory stays bounded, and nothing is lost."""
    with _torrential(tmp_path, torrent) as gateway:
        taken, grown, most, received = asyncio.run(_reluctant(gateway, torrent))
        row = gateway.wait_for_rows(1)[0]

    assert taken < BUFFERED
    assert grown < 32 * MIB
    assert most < 48 * MIB
    assert received > EVENTS * len(EVENT)
    assert (row.outcome, row.quality) == (Outcome.OK, Quality.FINAL)


def test_a_client_that_reads_nothing_is_given_up(tmp_path: Path, torrent: Torrent) -> None:
    """After the time a write may take the exchange ends, and the upstream's connection with it."""
    body = chat("Everything", stream=True)
    with (
        _torrential(tmp_path, torrent, client_write_s=1.0) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as client,
    ):
        client.sendall(head(OPENAI_PATH, body) + body)
        row = gateway.wait_for_rows(1)[0]
        sent = torrent.sent
        pause(0.3)

        assert (row.outcome, row.fault) == (Outcome.CLIENT_GONE, "client_stalled")
        assert row.quality is Quality.PARTIAL
        assert 1000 <= row.took_ms < 3000
        assert torrent.sent == sent < BUFFERED


# -- clients that do not end their request, or only half of their connection ---------------------
@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """An upstream that answers."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """A gateway with two seconds for everything."""
    keys = {
        "quick": Keys(["sk-sandbox-ok-1"]),
        "slow": Keys(["sk-sandbox-slow@0.6@gap_s=0.05-1"]),
    }
    timeouts = {"overall_s": 2.0, "early_commit_s": 2.0, "client_body_s": 1.0}
    config: dict[str, Any] = islands_of(sandbox.url("openhands"), keys, timeouts=timeouts)
    with GatewayProcess(tmp_path_factory.mktemp("slow"), config, keys) as running:
        yield running


def test_a_dripped_body_is_not_waited_for_without_end(gateway: GatewayProcess) -> None:
    """Bytes now and then keep a request alive no longer than the exchange may take."""

    async def drip() -> tuple[bytes, float]:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            writer.write(head(OPENAI_PATH, b"x" * 5000))
            while time.monotonic() - began < 6.0:
                writer.write(b" ")
                try:
                    async with asyncio.timeout(0.3):
                        return await reader.read(1000), time.monotonic() - began
                except TimeoutError:
                    continue
        finally:
            writer.close()
        raise AssertionError("still waited for")

    answer, took = asyncio.run(drip())

    assert b" 504 " in answer.split(b"\r\n")[0] or b" 408 " in answer.split(b"\r\n")[0]
    assert 2.0 <= took < 3.5


def _rows(gateway: GatewayProcess, model: str) -> list[ExchangeRow]:
    return [row for row in gateway.rows() if row.model == model]


def _until_read(gateway: GatewayProcess) -> None:
    """Wait until an exchange is under way."""
    give_up = time.monotonic() + 5.0
    while b"keymux_active_exchanges 0" in get(gateway.port, "/metrics").body:
        assert time.monotonic() < give_up, "the request was not read"


@pytest.mark.parametrize("stream", [False, True], ids=["a plain answer", "a stream"])
@pytest.mark.parametrize("path", [OPENAI_PATH, ANTHROPIC_PATH], ids=["OpenAI", "Anthropic"])
def test_a_client_that_only_ends_its_side_is_gone(
    gateway: GatewayProcess,
    path: str,
    stream: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    """Half a close is a close, as it is to most servers: nobody waits for the answer."""
    before = len(_rows(gateway, "slow"))
    body = chat("Half", stream=stream, model="slow")
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(head(path, body) + body)
        _until_read(gateway)  # who ends it before that was never here
        client.shutdown(socket.SHUT_WR)
        give_up = time.monotonic() + 10.0
        while len(rows := _rows(gateway, "slow")) == before and time.monotonic() < give_up:
            pause(0.05)
    row = rows[-1]

    assert len(rows) == before + 1
    assert row.outcome is Outcome.CLIENT_GONE
    assert row.quality is Quality.UNKNOWN


# -- many of them ---------------------------------------------------------------------------------


async def _beside(port: int, first_bytes: bytes) -> tuple[list[int], float]:
    """Statuses and the longest time of some requests beside many connections that do nothing."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    try:
        for _, writer in opened:
            writer.write(first_bytes)
        statuses, longest = [], 0.0
        for number in range(20):
            began = time.monotonic()
            path = OPENAI_PATH if number % 2 else ANTHROPIC_PATH
            answer = await ask(port, path, chat(model="quick", stream=number % 4 > 1))
            longest = max(longest, time.monotonic() - began)
            statuses.append(answer.status)
        return statuses, longest
    finally:
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize(
    "first_bytes",
    [
        pytest.param(b"", id="that say nothing"),
        pytest.param(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nX-", id="in the midst of a head"),
        pytest.param(head(OPENAI_PATH, b"x" * 5000) + b"{", id="in the midst of a body"),
    ],
)
def test_idle_connections_hinder_nobody(gateway: GatewayProcess, first_bytes: bytes) -> None:
    """Five hundred of them, and the others are served at once."""
    statuses, longest = asyncio.run(_beside(gateway.port, first_bytes))

    assert set(statuses) == {200}
    assert longest < 1.0


def test_connections_that_come_and_go_leave_nothing(gateway: GatewayProcess) -> None:
    """Files and tasks are back where they were."""

    def standing() -> dict[str, float]:
        lines = get(gateway.port, "/metrics").body.decode().splitlines()
        named = ("process_open_fds ", "keymux_tasks ", "keymux_active_exchanges ")
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(named)}

    visitors = head(OPENAI_PATH, b"x" * 5000) + b"{"
    asyncio.run(_beside(gateway.port, visitors))  # connections to the upstream are kept
    pause(0.5)
    before = standing()
    asyncio.run(_beside(gateway.port, visitors))
    give_up = time.monotonic() + 3.0
    while (after := standing()) != before and time.monotonic() < give_up:
        pause(0.1)

    assert len(before) == 3
    assert all(after[name] <= before[name] for name in before)


def test_one_connection_serves_many_requests(gateway: GatewayProcess) -> None:
    """Keep-alive: one after the other, streams and plain answers, refusals between them."""

    async def story() -> list[int]:
        statuses = []
        async with await Connection.open(gateway.port) as connection:
            for number in range(12):
                model = "nobody" if number % 3 == 2 else "quick"
                await connection.ask(OPENAI_PATH, chat(stream=number % 2 == 0, model=model))
                statuses.append((await connection.answer()).status)
        return statuses

    assert asyncio.run(story()) == [200, 200, 404] * 4
