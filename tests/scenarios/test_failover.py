"""A client sees no error while keys and providers fail, and the ledger tells the story."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keymux.core.health import Status
from keymux.core.records import Outcome
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import (
    Banned,
    Overloaded,
    OverloadedIn200,
    Rejected,
    Revoked,
    Spent,
    Throttled,
)
from tests.scenarios.rig import GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, chat, post

BAD, GOOD, SPARE = "sk-sandbox-bad", "sk-sandbox-good", "sk-sandbox-spare"
OTHER = "sk-sandbox-other"
ALL_WAYS = [
    pytest.param(OPENAI_PATH, False, id="OpenAI, plain"),
    pytest.param(OPENAI_PATH, True, id="OpenAI, a stream"),
    pytest.param(ANTHROPIC_PATH, False, id="Anthropic, plain"),
    pytest.param(ANTHROPIC_PATH, True, id="Anthropic, a stream"),
]


@pytest.fixture
def sandbox() -> Iterator[SandboxThread]:
    """A fresh upstream."""
    with SandboxThread() as running:
        yield running


def _gateway(
    folder: Path, sandbox: SandboxThread, first: Keys, second: Keys | None = None
) -> GatewayProcess:
    """A gateway whose first provider is the one that fails."""
    urls = {name: sandbox.url(name) for name in ("openhands", "ohmygpt")}
    keys = {"openhands": first, "ohmygpt": second or Keys([OTHER])}
    return GatewayProcess(folder, config_of(urls), keys)


def _ask_all(gateway: GatewayProcess, times: int = 3) -> list[int]:
    """Statuses of some requests in every way there is."""
    return [
        post(gateway.port, path, chat(stream=stream)).status
        for path in (OPENAI_PATH, ANTHROPIC_PATH)
        for stream in (False, True)
        for _ in range(times)
    ]


def test_a_throttled_key_cools_as_long_as_it_was_told(
    tmp_path: Path, sandbox: SandboxThread
) -> None:
    """One key answers 429: others serve, and it is left alone until its time."""
    sandbox.behave(BAD, Throttled(retry_after=30))
    with _gateway(tmp_path, sandbox, Keys([BAD, GOOD])) as gateway:
        statuses = _ask_all(gateway)
        pause(0.6)
        key = gateway.keys("openhands")[BAD]
        asked = [seen for seen in sandbox.seen if seen.key == BAD]

        assert set(statuses) == {200}
        assert len(asked) == 1
        shade = key.state.shades["claude-sonnet-4-5-20250929"]
        assert shade.status is Status.RATE_LIMITED
        row = next(row for row in gateway.rows() if len(row.attempts) > 1)
        assert [attempt.outcome for attempt in row.attempts] == ["key_throttled", "ok"]
        assert row.outcome is Outcome.OK


@pytest.mark.parametrize(
    "spent",
    [
        pytest.param(Spent("budget400"), id="as a LiteLLM proxy said it before"),
        pytest.param(Spent("budget429"), id="as a LiteLLM proxy says it now"),
    ],
)
def test_a_spent_key_is_replaced_once(tmp_path: Path, sandbox: SandboxThread, spent: Spent) -> None:
    """A key without budget is exhausted, and one backup key takes over, once."""
    sandbox.behave(BAD, spent)
    first = Keys([BAD, GOOD], backups=[SPARE, "sk-sandbox-spare-2"])
    with _gateway(tmp_path, sandbox, first) as gateway:
        statuses = _ask_all(gateway)
        pause(0.6)
        keys, backups = gateway.keys("openhands"), gateway.backups("openhands")
        promotions = [row for row in gateway.audit() if row.action == "backup.promote"]

        assert set(statuses) == {200}
        assert keys[BAD].state.status is Status.EXHAUSTED
        assert keys[BAD].replaced_by == keys[SPARE].id
        assert len(promotions) == 1
        assert (backups[SPARE].is_used, backups[SPARE].used_for) == (True, keys[BAD].id)
        assert not backups["sk-sandbox-spare-2"].is_used
        assert SPARE in {seen.key for seen in sandbox.seen}


def test_a_spent_key_of_the_other_dialect_is_replaced_too(
    tmp_path: Path, sandbox: SandboxThread
) -> None:
    """OhMyGPT's own error shape means the same."""
    sandbox.behave(OTHER, Spent())
    second = Keys([OTHER, "sk-sandbox-other-2"], backups=[SPARE])
    urls = {name: sandbox.url(name) for name in ("ohmygpt", "openhands")}
    keys = {"ohmygpt": second, "openhands": Keys([GOOD])}
    with GatewayProcess(tmp_path, config_of(urls), keys) as gateway:
        statuses = _ask_all(gateway)
        pause(0.6)
        stored = gateway.keys("ohmygpt")

        assert set(statuses) == {200}
        assert stored[OTHER].state.status is Status.EXHAUSTED
        assert stored[OTHER].replaced_by == stored[SPARE].id


@pytest.mark.parametrize(
    "death",
    [pytest.param(Revoked(), id="revoked"), pytest.param(Banned(), id="its account is banned")],
)
def test_a_dead_key_is_quarantined(
    tmp_path: Path, sandbox: SandboxThread, death: Revoked | Banned
) -> None:
    """What the provider revoked gets no traffic until a person acts."""
    sandbox.behave(BAD, death)
    with _gateway(tmp_path, sandbox, Keys([BAD, GOOD], backups=[SPARE])) as gateway:
        statuses = _ask_all(gateway)
        pause(0.6)
        asked = [seen for seen in sandbox.seen if seen.key == BAD]

        assert set(statuses) == {200}
        assert len(asked) == 1
        assert gateway.keys("openhands")[BAD].state.status is Status.QUARANTINED
        assert gateway.backups("openhands")[SPARE].is_used


def test_a_rejected_key_has_a_second_chance(tmp_path: Path, sandbox: SandboxThread) -> None:
    """The first 401 is only remembered; the second puts the key into quarantine."""
    sandbox.behave(BAD, Rejected())
    with _gateway(tmp_path, sandbox, Keys([BAD, GOOD])) as gateway:
        statuses = _ask_all(gateway)
        pause(0.6)
        asked = [seen for seen in sandbox.seen if seen.key == BAD]

        assert set(statuses) == {200}
        assert len(asked) == 2
        assert gateway.keys("openhands")[BAD].state.status is Status.QUARANTINED


def test_four_dead_keys_do_not_stop_the_first_request(
    tmp_path: Path, sandbox: SandboxThread
) -> None:
    """Refusals that cost nothing go on to the key that works, at one provider alone."""
    dead = [f"sk-sandbox-dead-{number}" for number in range(4)]
    for key in dead:
        sandbox.behave(key, Rejected())
    keys = {"openhands": Keys([*dead, GOOD])}
    with GatewayProcess(tmp_path, config_of({"openhands": sandbox.url("openhands")}), keys) as one:
        response = post(one.port, OPENAI_PATH, chat())

        assert response.status == 200
        assert response.headers["x-keymux-attempts"] == "5"


@pytest.mark.parametrize(("path", "stream"), ALL_WAYS)
@pytest.mark.parametrize(
    "overload",
    [
        pytest.param(OverloadedIn200(), id="as the first event of a 200"),
        pytest.param(OverloadedIn200("preamble"), id="after the preamble of a 200"),
        pytest.param(Overloaded(status=529), id="as 529"),
        pytest.param(Overloaded(status=503, retry_after=5), id="as 503 with a time"),
    ],
)
def test_an_overloaded_provider_is_stepped_around(
    tmp_path: Path,
    sandbox: SandboxThread,
    path: str,
    stream: bool,  # noqa: FBT001 -- a parameter of the test
    overload: Overloaded,
) -> None:
    """The other provider answers; the keys of the first are not blamed."""
    sandbox.behave("openhands", overload)
    with _gateway(tmp_path, sandbox, Keys([BAD, GOOD])) as gateway:
        responses = [post(gateway.port, path, chat(stream=stream)) for _ in range(3)]
        pause(0.6)

        assert {response.status for response in responses} == {200}
        assert {response.headers["x-keymux-provider"] for response in responses} == {"ohmygpt"}
        assert sum(seen.dialect == "openhands" for seen in sandbox.seen) == 1
        states = {key.state.status for key in gateway.keys("openhands").values()}
        assert states == {Status.HEALTHY}


@pytest.mark.parametrize(("path", "stream"), ALL_WAYS)
def test_a_provider_that_is_down_is_stepped_around(
    tmp_path: Path,
    sandbox: SandboxThread,
    path: str,
    stream: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    """Nobody listens at the first provider: the second serves."""
    urls = {"openhands": "http://127.0.0.1:1", "ohmygpt": sandbox.url("ohmygpt")}
    keys = {"openhands": Keys([BAD]), "ohmygpt": Keys([OTHER])}
    with GatewayProcess(tmp_path, config_of(urls), keys) as gateway:
        responses = [post(gateway.port, path, chat(stream=stream)) for _ in range(3)]

        assert {response.status for response in responses} == {200}
        assert [response.headers["x-keymux-attempts"] for response in responses] == ["2", "1", "1"]


def test_explain_tells_the_story(tmp_path: Path, sandbox: SandboxThread) -> None:
    """The command line says what was tried, what came of it, and where the keys stand now."""
    sandbox.behave(BAD, Throttled(retry_after=30))
    with _gateway(tmp_path, sandbox, Keys([BAD])) as gateway:
        response = post(gateway.port, OPENAI_PATH, chat())
        pause(0.6)
        told = gateway.run("explain", response.headers["x-keymux-request-id"])
        why = gateway.run("explain", "claude-sonnet-4-5")

        assert told.returncode == 0, told.stderr
        for words in ("key_throttled", "openhands", "ohmygpt", "ok"):
            assert words in told.stdout
        assert why.returncode == 0, why.stderr
        assert "rate_limited" in why.stdout
