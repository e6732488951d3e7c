"""A request that nobody waits for any more is let go of, whatever the upstream does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from keymux.core.vocabulary import Operation, WireFormat
from keymux.providers import CATALOGUE
from keymux.telemetry.redaction import redact_body
from keymux.upstream.asking import Ask, Service, UpstreamAnswer, Upstreams
from keymux.upstream.request import UpstreamRequest
from keymux.upstream.slots import MOST, SPARE, Slots
from keymux.upstream.transport import Transport, Way
from tests.upstream.raw_server import read_request, served

T = TypeVar("T")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
SOON_S = 1.0
FILES = Path("/proc/self/fd")


class Upstream:
    """A server that reads requests and says as much as it is told to."""

    def __init__(self, says: Callable[[bytes], bytes] = lambda _: b"") -> None:
        self.says = says
        self.arrived = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)
        self.open = 0

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        request = await read_request(reader)
        self.open += 1
        self.arrived.release()
        try:
            writer.write(self.says(request))
            await reader.read()
        finally:
            self.open -= 1
            self.left.release()


class House:
    """The way to an upstream."""

    def __init__(self, port: int) -> None:
        self.transport = Transport(connect_s=1.0)
        self.upstreams = Upstreams(self.transport, redact_body, time.time)
        service = Service(CATALOGUE["openhands"], f"http://127.0.0.1:{port}")
        self.upstreams.configure({"acme": service}, 10_000)

    @property
    def slots(self) -> Slots:
        """Those of the only way."""
        return self.transport.slots(Way())

    def ask(self, body: bytes = b"{}", *, stream: bool = True, left_s: float = 60.0) -> Ask:
        """An attempt."""
        return self.upstreams.ask(
            UpstreamRequest(
                "acme",
                "secret",
                "direct",
                WireFormat.OPENAI,
                Operation.GENERATE,
                stream,
                (),
                "",
                body,
                left_s,
            )
        )


@asynccontextmanager
async def _house(upstream: Upstream) -> AsyncIterator[House]:
    async with served(upstream.play) as port:
        house = House(port)
        yield house
        await house.transport.close()


def _told(says: Callable[[bytes], bytes], story: Callable[[House, Upstream], Awaitable[T]]) -> T:
    async def tell() -> T:
        upstream = Upstream(says)
        async with _house(upstream) as house:
            return await story(house, upstream)

    return asyncio.run(tell())


async def _give_up(*tasks: "asyncio.Task[UpstreamAnswer]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _open_files() -> int:
    return len(list(FILES.iterdir()))


async def _sent(house: House, upstream: Upstream, ask: Ask) -> "asyncio.Task[UpstreamAnswer]":
    task = asyncio.get_running_loop().create_task(ask.answer())
    await upstream.arrived.acquire()
    return task


def _silent(_: bytes) -> bytes:
    return b""


def _half_a_body(_: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"


@pytest.mark.parametrize(
    ("says", "stream"),
    [
        pytest.param(_silent, True, id="a stream without a head"),
        pytest.param(_silent, False, id="a plain answer without a head"),
        pytest.param(_half_a_body, False, id="a plain answer that stalls"),
    ],
)
def test_what_is_given_up_is_closed(says: Callable[[bytes], bytes], *, stream: bool) -> None:
    """The upstream sees the end of its connection within a second."""

    async def story(house: House, upstream: Upstream) -> dict[str, int]:
        task = await _sent(house, upstream, house.ask(stream=stream))
        await asyncio.sleep(0.05)
        await _give_up(task)
        async with asyncio.timeout(SOON_S):
            await upstream.left.acquire()
        return dict(house.slots.counts())

    counts = _told(says, story)

    assert counts["waiting"] == counts["active"] == 0


def test_the_others_go_on() -> None:
    """Of forty requests every second one is given up: the others stay, the dead are closed."""

    def says(request: bytes) -> bytes:
        return HEAD if request.endswith(b"good") else b""

    async def story(house: House, upstream: Upstream) -> tuple[int, dict[str, int]]:
        answers: list[UpstreamAnswer] = []
        dead: list[asyncio.Task[UpstreamAnswer]] = []
        for number in range(40):
            await asyncio.sleep(0.02)  # a client is built in the meantime
            body = b"good" if number % 2 else b"dead"
            task = await _sent(house, upstream, house.ask(body))
            if number % 2:
                answers.append(await task)
            else:
                dead.append(task)
        await _give_up(*dead)
        async with asyncio.timeout(2 * SOON_S):
            for _ in dead:
                await upstream.left.acquire()
        await asyncio.sleep(0.1)
        assert len(answers) == 20
        return upstream.open, dict(house.slots.counts())

    still_open, counts = _told(says, story)

    assert still_open == 20
    assert counts["active"] == 20
    assert counts["given up"] == counts["waiting"] == 0


def test_those_that_share_a_slot_are_closed_together() -> None:
    """Six at once have one client: the one that still waits is not hurt, and the last ends it."""

    async def story(house: House, upstream: Upstream) -> tuple[int, dict[str, int]]:
        loop = asyncio.get_running_loop()
        crowd = [loop.create_task(house.ask().answer()) for _ in range(6)]
        for _ in crowd:
            await upstream.arrived.acquire()
        await _give_up(*crowd[:5])
        await asyncio.sleep(0.3)
        before = upstream.open
        await _give_up(crowd[5])
        async with asyncio.timeout(SOON_S):
            for _ in crowd:
                await upstream.left.acquire()
        await asyncio.sleep(0.1)
        return before, dict(house.slots.counts())

    before, counts = _told(_silent, story)

    assert before == 6
    assert counts["given up"] == 0


def test_an_answer_beside_it_is_not_hurt() -> None:
    """What shares a client with a stream is closed with it at the latest."""

    def says(request: bytes) -> bytes:
        return HEAD if request.endswith(b"good") else b""

    async def story(house: House, upstream: Upstream) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        asks = [house.ask(b"good"), house.ask(b"dead")]
        good, dead = (loop.create_task(ask.answer()) for ask in asks)
        for _ in asks:
            await upstream.arrived.acquire()
        await good
        await _give_up(dead)
        await asyncio.sleep(0.2)
        during = upstream.open
        await asks[0].close()
        async with asyncio.timeout(SOON_S):
            for _ in asks:
                await upstream.left.acquire()
        return during, upstream.open

    during, after = _told(says, story)

    assert during >= 1
    assert after == 0


def test_a_slot_is_used_again() -> None:
    """One request after the other needs one client and one connection."""

    async def story(house: House, _: Upstream) -> dict[str, int]:
        for _turn in range(10):
            ask = house.ask(stream=False)
            assert await (await ask.answer()).whole() == b"{}"
            await ask.close()
        return dict(house.slots.counts())

    async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def tell() -> dict[str, int]:
        async with served(again) as port:
            house = House(port)
            try:
                return await story(house, Upstream())
            finally:
                await house.transport.close()

    counts = asyncio.run(tell())

    assert counts.pop("slots") <= 1 + SPARE
    assert set(counts.values()) == {0}


def test_there_are_never_too_many() -> None:
    """A crowd makes the slots grow, one at a time and up to a limit."""

    async def story(house: House, upstream: Upstream) -> int:
        crowd = []
        for _ in range(MOST + 40):
            crowd.append(await _sent(house, upstream, house.ask()))
            await asyncio.sleep(0.01)
        slots = house.slots.counts()["slots"]
        await _give_up(*crowd)
        async with asyncio.timeout(10.0):
            for _ in crowd:
                await upstream.left.acquire()
        return slots

    assert 8 < _told(_silent, story) <= MOST


def test_cutting_opens_nothing() -> None:
    """As many files are open after it as before."""

    async def story(house: House, upstream: Upstream) -> tuple[int, int]:
        before = _open_files()
        for _ in range(5):
            await _give_up(await _sent(house, upstream, house.ask()))
            async with asyncio.timeout(SOON_S):
                await upstream.left.acquire()
        await asyncio.sleep(0.1)
        return before, _open_files()

    before, after = _told(_silent, story)

    assert after <= before + 2


def test_what_cannot_be_cut_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is told how long the exchange has, and gives up a little later."""
    monkeypatch.setattr("keymux.upstream.asking._LATER_S", 0.2)

    async def story(house: House, upstream: Upstream) -> None:
        await _sent(house, upstream, house.ask(left_s=0.1))
        async with asyncio.timeout(SOON_S):
            await upstream.left.acquire()

    _told(_silent, story)
