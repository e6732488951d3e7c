"""Clients that leave: whatever they leave behind is cleaned up, and nobody gets their answer."""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import uvloop
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.behaviours import Ok, Silent, Slow
from keymux.sandbox.record import Seen
from tests.scenarios.rig import IS_LONG, GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, chat, get, head

REQUESTS, AT_ONCE = (10_000 if IS_LONG else 4_000), 48
POOLED = 5 * AT_ONCE
"""Connections to the upstream that may be kept for later."""
WATCHED, SOME_AT_ONCE = 300, 8
CLOSED_WITHIN_S = 1.0
QUICK, SLOW = "sk-sandbox-ok-1", "sk-sandbox-leisurely"
MARKER = re.compile(rb"marker:n\d+")


class Left(Struct):
    """One request, and how its client left it.

    Attributes:
        at: when the client closed its connection, monotonic seconds.
        early: whether it had not read the whole answer.
        received: what it had read.
    """

    number: int
    at: float = 0.0
    early: bool = False
    received: bytes = b""


@pytest.fixture
def sandbox() -> Iterator[SandboxChild]:
    """An upstream with one key that answers at once and one that takes its time."""
    with SandboxChild() as running:
        _set_up(running)
        yield running


def _set_up(sandbox: SandboxChild) -> None:
    sandbox.reset()
    sandbox.behave(QUICK, Ok())
    sandbox.behave(SLOW, Slow(first_s=0.04, gap_s=0.02))


def _abort(writer: asyncio.StreamWriter) -> None:
    """Leave with a reset, as a client does that is killed."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_on(reader: asyncio.StreamReader, left: Left) -> None:
    while chunk := await reader.read(65536):
        left.received += chunk
        if b"\r\n0\r\n\r\n" in left.received[-16:]:
            return


async def _visit(port: int, number: int, luck: Random) -> Left:
    """One request on its own connection, ended as luck will have it."""
    left = Left(number)
    path = OPENAI_PATH if number % 2 else ANTHROPIC_PATH
    body = chat(f"marker:n{number}", stream=True, max_tokens=10)
    whole = head(path, body) + body
    stays, patience = luck.random() < 0.4, luck.expovariate(20)
    if luck.random() < 0.1:
        whole = whole[: luck.randrange(1, len(whole))]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(whole)
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(None if stays and whole.endswith(body) else patience):
            await _read_on(reader, left)
    left.early = not left.received.endswith(b"\r\n0\r\n\r\n")
    left.at = time.monotonic()
    if luck.random() < 0.5:
        _abort(writer)
    writer.close()
    return left


async def _mayhem(port: int, requests: int, luck: Random, at_once: int) -> list[Left]:
    """Many visits, so many at a time."""
    places = asyncio.Semaphore(at_once)

    async def visit(number: int) -> Left:
        async with places:
            return await _visit(port, number, luck)

    return await asyncio.gather(*(visit(number) for number in range(requests)))


def _visits(gateway: GatewayProcess, requests: int, luck: Random, at_once: int) -> list[Left]:
    """The same on a loop that leaves time for the others."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_mayhem(gateway.port, requests, luck, at_once))


def _metrics(gateway: GatewayProcess) -> dict[str, float]:
    """All metrics without labels."""
    page = get(gateway.port, "/metrics").body.decode()
    families = text_string_to_metric_families(page)
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


def _settled(gateway: GatewayProcess) -> dict[str, float]:
    """The metrics once nothing runs any more."""
    for _ in range(200):
        found = _metrics(gateway)
        if not found["keymux_active_exchanges"] and not found["keymux_usage_outbox_depth"]:
            return found
        pause(0.1)
    raise AssertionError("something runs on")


def _marker(data: bytes) -> bytes:
    found = MARKER.search(data)
    return found[0] if found else b""


def _late(seen: list[Seen], visits: list[Left]) -> list[float]:
    """How long upstreams went on after their client had left, in seconds."""
    left = {b"marker:n%d" % visit.number: visit for visit in visits if visit.early}
    ends = []
    for request in seen:
        visit = left.get(_marker(request.body))
        if visit is not None:
            ended = request.peer_left_at or request.finished_at
            assert ended is not None
            ends.append(ended - max(visit.at, request.at))
    return ends


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_thousands_of_visits_leave_nothing_behind(tmp_path: Path, sandbox: SandboxChild) -> None:
    """No task, socket, lease or reservation stays; all is booked; answers find their own."""
    luck = Random(20261123)  # noqa: S311 -- moments
    config = config_of({"openhands": sandbox.url("openhands")})
    with GatewayProcess(tmp_path, config, {"openhands": Keys([QUICK, SLOW])}) as gateway:
        _visits(gateway, 200, luck, AT_ONCE)
        before = _settled(gateway)
        visits = _visits(gateway, REQUESTS, luck, AT_ONCE)
        after = _settled(gateway)
        sandbox.until(lambda: all(one.finished_at or one.peer_left_at for one in sandbox.seen))
        pooled = sandbox.connections
        rows = gateway.rows()
        stopped = gateway.stop()
        gateway.start()
        ready = [line for line in gateway.log() if line["event"] == "ready"][-1]

    for visit in visits:
        assert set(MARKER.findall(visit.received)) <= {b"marker:n%d" % visit.number}
    assert 0.3 < sum(visit.early for visit in visits) / REQUESTS < 0.8
    assert after["keymux_active_exchanges"] == after["keymux_leases"] == 0
    assert after["keymux_tasks"] <= before["keymux_tasks"]
    assert pooled <= POOLED
    assert after["process_open_fds"] <= before["process_open_fds"] + POOLED
    assert stopped == 0
    assert ready["interrupted_exchanges"] == 0
    assert len({row.id for row in rows}) == len(rows)
    answered = sum(row.outcome is Outcome.OK for row in rows)
    gone = sum(row.outcome is Outcome.CLIENT_GONE for row in rows)
    assert answered + gone == len(rows)
    assert answered >= sum(not visit.early for visit in visits)


def test_a_client_that_leaves_takes_its_upstream_along(
    tmp_path: Path, sandbox: SandboxChild
) -> None:
    """99 of 100 upstreams are let go within a second of their client's leaving."""
    luck = Random(20261124)  # noqa: S311 -- moments
    config = config_of({"openhands": sandbox.url("openhands")})
    with GatewayProcess(tmp_path, config, {"openhands": Keys([QUICK, SLOW])}) as gateway:
        visits = _visits(gateway, WATCHED, luck, SOME_AT_ONCE)
        _settled(gateway)
        late = sorted(_late(sandbox.seen, visits))

    assert len(late) > WATCHED / 4
    assert late[len(late) * 99 // 100] < CLOSED_WITHIN_S


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a plain answer"])
def test_an_upstream_that_has_said_nothing_is_let_go(
    tmp_path: Path, sandbox: SandboxChild, *, stream: bool
) -> None:
    """Twenty clients leave before there is a head: each upstream is closed within a second."""
    sandbox.behave(QUICK, Silent())
    sandbox.behave(SLOW, Silent())
    config = config_of({"openhands": sandbox.url("openhands")})
    with GatewayProcess(tmp_path, config, {"openhands": Keys([QUICK, SLOW])}) as gateway:

        async def visit(number: int) -> Left:
            await asyncio.sleep(number / 20)
            body = chat(f"marker:n{number}", stream=stream)
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(head(OPENAI_PATH, body) + body)
            await asyncio.sleep(0.6)
            writer.close()
            return Left(number, time.monotonic(), early=True)

        async def all_of_them() -> list[Left]:
            return await asyncio.gather(*(visit(number) for number in range(20)))

        visits = asyncio.run(all_of_them())
        sandbox.until(lambda: all(one.peer_left_at for one in sandbox.seen))
        late = _late(sandbox.seen, visits)
        rows = gateway.wait_for_rows(20)

    assert len(late) == 20
    assert max(late) < CLOSED_WITHIN_S
    assert {(row.outcome, row.quality) for row in rows} == {(Outcome.CLIENT_GONE, "unknown")}
