"""``kill -9`` at random moments under load: nothing booked is lost, nothing is booked twice."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct

from keymux.core.health import Status
from keymux.core.records import ExchangeRow, KeyRecord, KeyState, Outcome
from keymux.core.vocabulary import Quality
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Throttled
from keymux.sandbox.record import Seen
from tests.scenarios.rig import IS_LONG, GatewayProcess, Keys, config_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, Response, chat

ROUNDS = 30 if IS_LONG else 12
CLIENTS = 6
TOLD_S = 3600
STEADY = tuple(f"sk-sandbox-ok-{number}" for number in range(4))
FRAGILE = tuple(f"sk-sandbox-fragile-{number}" for number in range(ROUNDS))
WAYS = [(path, stream) for path in (OPENAI_PATH, ANTHROPIC_PATH) for stream in (True, False)]


class Client:
    """Asks one request after the other on one connection, until that breaks.

    Attributes:
        begun: ids of the answers of which at least the head came.
        settled: ids of those whose exchange was over when the kill came, for the connection had
            already been used for the next one.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.settled: list[str] = []

    async def run(self, port: int, numbers: "count[int]") -> None:
        """Ask until the connection breaks."""
        last = ""
        async with await Connection.open(port) as connection:
            while True:
                number = next(numbers)
                path, stream = WAYS[number % len(WAYS)]
                try:
                    await connection.ask(path, chat(f"marker:n{number}", stream=stream))
                except ConnectionError:
                    return
                response = await connection.answer()
                if response.status:
                    self._note(response, number, last)
                if not response.complete:
                    return
                last = response.headers["x-keymux-request-id"]

    def _note(self, response: Response, number: int, last: str) -> None:
        assert response.status == 200
        assert set(re.findall(rb"marker:n\d+", response.body)) <= {b"marker:n%d" % number}
        self.begun.append(response.headers["x-keymux-request-id"])
        if last:
            self.settled.append(last)


async def _until_killed(
    gateway: GatewayProcess, clients: list[Client], numbers: "count[int]", seconds: float
) -> None:
    """Load, and in the midst of it the end."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(gateway.port, numbers))
        await asyncio.sleep(seconds)
        await asyncio.to_thread(gateway.kill)


def _known_to_be_throttled(seen: list[Seen]) -> set[str]:
    """Keys whose 429 the gateway had read before it was killed: it went on with another key."""
    markers = [re.findall(rb"marker:n\d+", request.body)[0] for request in seen]
    last = {marker: number for number, marker in enumerate(markers)}
    return {
        request.key
        for number, (request, marker) in enumerate(zip(seen, markers, strict=True))
        if request.status == 429 and last[marker] > number
    }


class Story(Struct):
    """What all rounds have shown from outside."""

    seen: list[Seen] = []
    clients: list[Client] = []
    throttled: set[str] = set()


def _rounds(gateway: GatewayProcess, sandbox: SandboxThread) -> Story:
    """Load and a kill, again and again; in each round one more key is told to wait for an hour."""
    luck = Random(20261123)  # noqa: S311 -- moments
    numbers, story = count(), Story()
    for already, key in enumerate(FRAGILE):
        sandbox.reset()
        for throttled in (*FRAGILE[:already], key):
            sandbox.behave(throttled, Throttled(TOLD_S))
        clients = [Client() for _ in range(CLIENTS)]
        gateway.start()
        asyncio.run(_until_killed(gateway, clients, numbers, luck.uniform(0.05, 0.8)))
        seen = sandbox.seen
        assert not {request.key for request in seen} & story.throttled
        story.throttled |= _known_to_be_throttled(seen)
        story.seen += seen
        story.clients += clients
    return story


def _check_the_rows(rows: list[ExchangeRow], story: Story) -> None:
    """What clients began has a row; what was settled when the kill came has its figures."""
    by_id = {row.id: row for row in rows}
    begun = {name for client in story.clients for name in client.begun}
    settled = [by_id[name] for client in story.clients for name in client.settled]
    interrupted = [row for row in rows if row.outcome is Outcome.INTERRUPTED]

    assert len(by_id) == len(rows)
    assert begun <= by_id.keys()
    assert {row.outcome for row in settled} == {Outcome.OK}
    assert {row.quality for row in settled} == {Quality.FINAL}
    assert 0 < len(interrupted) <= ROUNDS * CLIENTS


def _check_the_counters(
    rows: list[ExchangeRow], keys: Mapping[str, KeyRecord], story: Story
) -> None:
    """Counters add up to the rows; whatever reached the upstream is an attempt in some row."""
    attempts = Counter(attempt.key for row in rows for attempt in row.attempts)
    sent = Counter(request.key for request in story.seen)
    for secret, key in keys.items():
        assert sent[secret] <= attempts[key.id] == key.requests_count
        assert key.tokens_used == sum(row.usage.total for row in rows if row.key == key.id)


def _waits(state: KeyState) -> bool:
    return Status.RATE_LIMITED in {state.status, *(s.status for s in state.shades.values())}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_lose_nothing(tmp_path: Path) -> None:
    """Every started exchange has one row, every settled one its figures, every cooldown holds."""
    with SandboxThread() as sandbox:
        config = config_of({"openhands": sandbox.url("openhands")})
        gateway = GatewayProcess(tmp_path, config, {"openhands": Keys([*STEADY, *FRAGILE])})
        story = _rounds(gateway, sandbox)
        sandbox.reset()
        gateway.start()
        code = gateway.stop()
    rows, keys = gateway.rows(), gateway.keys("openhands")

    assert code == 0
    assert len(story.seen) > 1000
    assert len(story.throttled) > ROUNDS / 2
    _check_the_rows(rows, story)
    _check_the_counters(rows, keys, story)
    assert all(_waits(keys[secret].state) for secret in story.throttled)
