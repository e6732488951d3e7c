"""How often a request is sent upstream: by the rules, and never more than an outage can bear."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import ServerError
from tests.scenarios.rig import GatewayProcess, Keys, islands_of
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, ask, chat

REQUESTS, AT_ONCE = 120, 30
DEAR = 100_000
"""So many tokens of output cost more than an ambiguous attempt may."""


class Case(Struct):
    """A request that fails upstream.

    Attributes:
        way: behaviour of all keys.
        status: that the client gets.
        fault: as code.
        attempts: that the rules allow.
        billing: of each.
    """

    way: str
    status: int
    fault: str
    attempts: int
    billing: str = "unknown"
    stream: bool = False
    max_tokens: int = 100


CASES = [
    pytest.param(Case("no-reply", 502, "upstream_no_reply", 2), id="no answer, once more"),
    pytest.param(
        Case("no-reply", 502, "upstream_no_reply", 2, stream=True), id="no stream, once more"
    ),
    pytest.param(Case("no-reply@reset", 502, "upstream_no_reply", 2), id="a reset, once more"),
    pytest.param(
        Case("empty-stream", 502, "upstream_empty", 2, stream=True), id="no event, once more"
    ),
    pytest.param(
        Case("no-reply", 502, "upstream_no_reply", 1, max_tokens=DEAR),
        id="no answer to what may cost much, and that is all",
    ),
    pytest.param(Case("server-error", 500, "upstream_error", 2), id="500, once another key"),
    pytest.param(
        Case("truncated", 502, "upstream_truncated", 1), id="an answer that was cut, no more"
    ),
    pytest.param(Case("refused", 400, "request_refused", 1, ""), id="a refusal, no more"),
]
KEYS_EACH = 5
PATHS = [
    pytest.param(OPENAI_PATH, id="OpenAI"),
    pytest.param(ANTHROPIC_PATH, id="Anthropic"),
]


def _island(case: Case, path: str) -> str:
    """A name of its own for each case and path."""
    return f"case{_cases().index(case)}_{path.rpartition('/')[2]}"


def _cases() -> list[Case]:
    return [case for param in CASES for case in param.values if isinstance(case, Case)]


def _body(case: Case, path: str) -> bytes:
    model = _island(case, path)
    return chat(stream=case.stream, model=model, max_tokens=case.max_tokens)


def _pools() -> dict[str, Keys]:
    """Keys that all fail in the way of the case."""
    islands = {
        _island(case, path): case.way for case in _cases() for path in (OPENAI_PATH, ANTHROPIC_PATH)
    }
    return {
        island: Keys([f"sk-sandbox-{way}-{island}-{number}" for number in range(KEYS_EACH)])
        for island, way in islands.items()
    }


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """A gateway with the usual rules."""
    keys = _pools()
    config = islands_of(sandbox.url("openhands"), keys)
    with GatewayProcess(tmp_path_factory.mktemp("retries"), config, keys) as running:
        yield running


@pytest.fixture(scope="module")
def answers(gateway: GatewayProcess) -> dict[str, Response]:
    """What came of every case, by island; all of them ran at once."""

    async def all_at_once() -> dict[str, Response]:
        ways = [(case, path) for case in _cases() for path in (OPENAI_PATH, ANTHROPIC_PATH)]
        asked = [ask(gateway.port, path, _body(case, path)) for case, path in ways]
        islands = [_island(case, path) for case, path in ways]
        return dict(zip(islands, await asyncio.gather(*asked), strict=True))

    return asyncio.run(all_at_once())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_as_many_attempts_as_the_rules_allow(
    gateway: GatewayProcess,
    sandbox: SandboxThread,
    answers: dict[str, Response],
    case: Case,
    path: str,
) -> None:
    """The upstream is asked so often and not again, each time with another key."""
    island = _island(case, path)
    response = answers[island]
    row = gateway.row(response.headers["x-keymux-request-id"])
    asked = [seen.key for seen in sandbox.seen if f"-{island}-" in seen.key]

    assert (response.status, row.fault) == (case.status, case.fault)
    assert response.headers["x-keymux-attempts"] == str(case.attempts)
    assert response.headers["x-should-retry"] == "false"
    assert len(asked) == len(set(asked)) == len(row.attempts) == case.attempts
    assert {attempt.billing for attempt in row.attempts} == {case.billing}
    assert all(bool(attempt.tokens) == bool(case.billing) for attempt in row.attempts)


def _outage(url: str, folder: Path, **retry: Any) -> GatewayProcess:
    """A gateway whose two keys fail; no failure is held against them."""
    keys = {"down": Keys(["sk-sandbox-down-1", "sk-sandbox-down-2"])}
    config = islands_of(url, keys, retry=retry, cooldown={"failure_threshold": 10**6})
    return GatewayProcess(folder, config, keys)


async def _storm(port: int, requests: int, headers: dict[str, str]) -> list[Response]:
    """Many requests, so many at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> Response:
        async with places:
            return await ask(port, OPENAI_PATH, chat(model="down"), headers)

    return await asyncio.gather(*(one() for _ in range(requests)))


@pytest.mark.parametrize(
    ("retry", "headers", "most"),
    [
        pytest.param(
            {"budget_floor": 3}, {}, REQUESTS * 1.2 + 3, id="a fifth more than was asked for"
        ),
        pytest.param({}, {}, REQUESTS + 30, id="thirty more in ten seconds by default"),
        pytest.param(
            {"budget_floor": 3},
            {"x-stainless-retry-count": "1"},
            REQUESTS,
            id="no more at all when the clients repeat themselves",
        ),
        pytest.param({"budget_percent": 0, "budget_floor": 0}, {}, REQUESTS, id="none if so told"),
    ],
)
def test_an_outage_is_not_multiplied(
    tmp_path: Path,
    sandbox: SandboxThread,
    retry: dict[str, int],
    headers: dict[str, str],
    most: float,
) -> None:
    """While everything fails, retries stay within the provider's budget."""
    for key in ("sk-sandbox-down-1", "sk-sandbox-down-2"):
        sandbox.behave(key, ServerError())
    before = len(sandbox.seen)
    with _outage(sandbox.url("openhands"), tmp_path, **retry) as gateway:
        responses = asyncio.run(_storm(gateway.port, REQUESTS, headers))
    asked = len(sandbox.seen) - before

    assert {response.status for response in responses} == {500}
    assert REQUESTS <= asked <= most
    assert sum(int(response.headers["x-keymux-attempts"]) for response in responses) == asked


def test_there_is_a_budget_to_speak_of(tmp_path: Path, sandbox: SandboxThread) -> None:
    """The check above can tell: with a generous budget every request is tried twice."""
    for key in ("sk-sandbox-down-1", "sk-sandbox-down-2"):
        sandbox.behave(key, ServerError())
    before = len(sandbox.seen)
    with _outage(sandbox.url("openhands"), tmp_path, budget_floor=1000) as gateway:
        asyncio.run(_storm(gateway.port, AT_ONCE, {}))

    assert len(sandbox.seen) - before == 2 * AT_ONCE
