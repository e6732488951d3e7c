"""The sandbox as an object in the test's own event loop."""

import asyncio
import resource
from urllib.parse import urlsplit

import pytest

from keymux.sandbox import Sandbox
from keymux.sandbox.answer import Pace
from keymux.sandbox.asked import Endpoint
from keymux.sandbox.behaviours import Ok, Silent, Status, Throttled
from tests.sandbox.peer import CHAT, KEY, MESSAGES, body_for

COUNT = "/v1/messages/count_tokens"


def _request(path: str, key: str = KEY, *, stream: bool = False) -> bytes:
    body = body_for(path, stream=stream)
    head = f"POST {path} HTTP/1.1\r\nHost: s\r\nX-Api-Key: {key}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _connect(sandbox: Sandbox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(sandbox.host, sandbox.port)


async def _status(sandbox: Sandbox, path: str = CHAT, key: str = KEY) -> int:
    reader, writer = await _connect(sandbox)
    writer.write(_request(path, key))
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def _statuses(sandbox: Sandbox, *paths: str) -> list[int]:
    return [await _status(sandbox, path) for path in paths]


def test_a_request_is_recorded_whole() -> None:
    """Everything that came and went, in order, with times."""

    async def scenario() -> None:
        async with Sandbox() as sandbox:
            await _status(sandbox, f"/ohmygpt{MESSAGES}?beta=true")
            await sandbox.until(lambda: sandbox.connections == 0)
            [seen] = sandbox.seen

        assert (seen.number, seen.dialect, seen.endpoint) == (1, "ohmygpt", "generate")
        assert (seen.method, seen.target) == ("POST", "/ohmygpt/v1/messages?beta=true")
        assert [name for name, _ in seen.headers] == ["Host", "X-Api-Key", "Content-Length"]
        assert (seen.key, seen.behaviour, seen.status) == (KEY, "ok", 200)
        assert (seen.is_whole, seen.is_finished) == (True, True)
        assert seen.finished_at is not None
        assert seen.at <= seen.finished_at
        assert seen.source == "127.0.0.1"

    asyncio.run(scenario())


def test_behaviours_may_differ_by_endpoint() -> None:
    """A provider without ``count_tokens`` serves everything else."""

    async def scenario() -> list[int]:
        async with Sandbox() as sandbox:
            sandbox.behave(KEY, Status(404), on=Endpoint.COUNT_TOKENS)
            return await _statuses(sandbox, MESSAGES, COUNT, MESSAGES)

    assert asyncio.run(scenario()) == [200, 404, 200]


def test_scripts_are_behaviours_or_text() -> None:
    """Both may be mixed, and any key becomes known by its script."""

    async def scenario() -> list[int]:
        async with Sandbox() as sandbox:
            sandbox.behave("my-own-key", Throttled(7), "spent@balance402+status@500", Ok())
            return [await _status(sandbox, key="my-own-key") for _ in range(5)]

    assert asyncio.run(scenario()) == [429, 402, 500, 200, 200]


def test_resetting_forgets_scripts_and_records() -> None:
    """Numbers go on, so that they never name two requests."""

    async def scenario() -> tuple[list[int], list[int]]:
        async with Sandbox() as sandbox:
            sandbox.behave("openhands", Status(500))
            statuses = [await _status(sandbox)]
            sandbox.reset()
            statuses.append(await _status(sandbox))
            return statuses, [seen.number for seen in sandbox.seen]

    assert asyncio.run(scenario()) == ([500, 200], [2])


def test_only_the_last_records_are_kept() -> None:
    """A sandbox that runs for days does not grow."""

    async def scenario() -> list[int]:
        async with Sandbox(remember=2) as sandbox:
            await _statuses(sandbox, CHAT, CHAT, CHAT)
            return [seen.number for seen in sandbox.seen]

    assert asyncio.run(scenario()) == [2, 3]


def test_waiting_ends_with_the_time() -> None:
    """A condition that never holds is an error."""

    async def scenario() -> None:
        async with Sandbox() as sandbox:
            with pytest.raises(TimeoutError):
                await sandbox.until(lambda: False, within_s=0.01)

    asyncio.run(scenario())


def test_leaving_the_context_ends_every_connection() -> None:
    """Nobody waits for a sandbox that is gone, and its port is free."""

    async def scenario() -> bytes:
        async with Sandbox() as sandbox:
            sandbox.behave(KEY, Silent())
            reader, writer = await _connect(sandbox)
            writer.write(_request(CHAT))
            await sandbox.until(lambda: bool(sandbox.seen))
        async with Sandbox(port=sandbox.port):
            pass
        rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(scenario()) == b""


def test_a_taken_port_is_an_error() -> None:
    """The context does not open."""

    async def scenario() -> None:
        async with Sandbox() as sandbox:
            with pytest.raises(OSError, match="in use"):
                async with Sandbox(port=sandbox.port):
                    pass

    asyncio.run(scenario())


def test_the_url_names_address_and_dialect() -> None:
    """An IPv6 address stands in brackets."""
    assert Sandbox(host="::1", port=8).url("ohmygpt") == "http://[::1]:8/ohmygpt"
    assert urlsplit(Sandbox(port=8).url()).path == ""


def test_a_thousand_streams_at_once() -> None:
    """All of them are open, all go on, and all are gone when their peers are."""
    many = 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))

    async def scenario() -> None:
        async with Sandbox(pace=Pace(gap_s=30.0)) as sandbox:
            peers = [await _connect(sandbox) for _ in range(many)]
            for _, writer in peers:
                writer.write(_request(CHAT, stream=True))
            firsts = [await reader.readuntil(b"\n\n") for reader, _ in peers]

            assert sandbox.connections == many
            assert all(first.startswith(b"HTTP/1.1 200") for first in firsts)

            for _, writer in peers:
                writer.close()
            await sandbox.until(lambda: sandbox.connections == 0)

            assert sum(seen.peer_left_at is not None for seen in sandbox.seen) == many

    asyncio.run(scenario())
