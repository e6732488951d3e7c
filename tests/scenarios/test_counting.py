"""Tokens are counted by the provider, or estimated and marked so; it costs and harms nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from keymux.core.health import Status as Health
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Behaviour, Ok, Raw, ServerError, Status, Throttled
from tests.scenarios.rig import GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, chat, post

KEY, OTHER = "sk-sandbox-here", "sk-sandbox-there"
PATH = f"{ANTHROPIC_PATH}/count_tokens"
BODY = json.dumps(
    {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "one two three " * 40}]}
).encode()
NOTHING = Raw(
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n"
    b'{"input_tokens":0}'
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """An upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, sandbox: SandboxThread) -> Iterator[GatewayProcess]:
    """A gateway with one key at each of two providers."""
    sandbox.reset()
    urls = {name: sandbox.url(name) for name in ("openhands", "ohmygpt")}
    keys = {"openhands": Keys([KEY]), "ohmygpt": Keys([OTHER])}
    with GatewayProcess(tmp_path, config_of(urls), keys) as running:
        yield running


def _everywhere(sandbox: SandboxThread, *script: Behaviour) -> None:
    sandbox.behave(KEY, *script)
    sandbox.behave(OTHER, *script)


def test_the_provider_counts(gateway: GatewayProcess) -> None:
    """Its own figure reaches the client, and the ledger books no tokens."""
    response = post(gateway.port, PATH, BODY)
    row = gateway.row(response.headers["x-keymux-request-id"])

    assert json.loads(response.body)["input_tokens"] > 0
    assert "x-keymux-estimated" not in response.headers
    assert (row.usage.total, row.cost_micros) == (0, 0)


def test_another_provider_counts(gateway: GatewayProcess, sandbox: SandboxThread) -> None:
    """One that does not know the path is passed by, and not asked again."""
    sandbox.behave(KEY, Status(404))
    responses = [post(gateway.port, PATH, BODY) for _ in range(3)]

    assert [response.headers["x-keymux-provider"] for response in responses] == ["ohmygpt"] * 3
    assert [seen.key for seen in sandbox.seen] == [KEY, OTHER, OTHER, OTHER]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param((Status(404),), id="no provider knows the path"),
        pytest.param((Status(405),), id="it takes no POST"),
        pytest.param((NOTHING,), id="it counts nothing"),
        pytest.param((Throttled(30),), id="all keys are throttled"),
        pytest.param((ServerError(),) * 8, id="all of them fail"),
    ],
)
def test_an_estimate_is_marked(
    gateway: GatewayProcess, sandbox: SandboxThread, script: tuple[Behaviour, ...]
) -> None:
    """Where nobody counts, the client gets a figure, and is told that it is an estimate."""
    _everywhere(sandbox, *script)
    response = post(gateway.port, PATH, BODY)

    assert response.status == 200
    assert response.headers["x-keymux-estimated"] == "true"
    assert 50 < json.loads(response.body)["input_tokens"] < 500


def test_what_a_provider_lacks_is_remembered(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """It is asked once, and generation goes on with the very same keys."""
    _everywhere(sandbox, Status(404), Ok())
    counts = [post(gateway.port, PATH, BODY).status for _ in range(5)]
    asked = len(sandbox.seen)
    answer = post(gateway.port, ANTHROPIC_PATH, chat())
    pause(0.6)

    assert counts == [200] * 5
    assert asked == 2
    assert (answer.status, answer.headers["x-keymux-provider"]) == (200, "openhands")
    assert gateway.keys("openhands")[KEY].state.status is Health.HEALTHY


def test_a_bad_request_is_no_reason_to_guess(
    gateway: GatewayProcess, sandbox: SandboxThread
) -> None:
    """What the provider refuses for the client's fault, the client hears."""
    sandbox.behave(KEY, Status(400))
    response = post(gateway.port, PATH, BODY)

    assert response.status == 400
