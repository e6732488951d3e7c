"""SIGHUP: a new config holds from the next exchange on, a wrong one never."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest

from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import MODEL, UPSTREAM_MODEL, GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, chat, get, post

KEY, OTHER = "sk-sandbox-ok-1", "sk-sandbox-ok-2"
RELOADED, REFUSED = "config reloaded", "config not reloaded"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxThread]:
    """The upstream."""
    with SandboxThread() as running:
        yield running


@pytest.fixture
def config(sandbox: SandboxThread) -> dict[str, Any]:
    """One provider."""
    return config_of({"openhands": sandbox.url("openhands")})


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, sandbox: SandboxThread
) -> Iterator[GatewayProcess]:
    """One gateway for all of it: every test brings the config it wants."""
    first = config_of({"openhands": sandbox.url("openhands")})
    keys = {"openhands": Keys([KEY]), "ohmygpt": Keys([OTHER])}
    folder: Path = tmp_path_factory.mktemp("reload")
    with GatewayProcess(folder, first, {"openhands": keys["openhands"]}) as running:
        yield running


def _told(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """What the log says of reloading, so far."""
    return [line for line in gateway.log() if line["event"] in {RELOADED, REFUSED}]


def _reload(gateway: GatewayProcess, config: dict[str, Any] | str) -> dict[str, Any]:
    """Write a config, send the signal, and give what the log says of it."""
    before = len(_told(gateway))
    if isinstance(config, str):
        gateway.config_path.write_text(config)
    else:
        gateway.configure(config)
    gateway.signal(signal.SIGHUP)
    give_up = time.monotonic() + 5.0
    while len(told := _told(gateway)) == before and time.monotonic() < give_up:
        pause(0.02)

    assert len(told) == before + 1
    return told[-1]


def test_a_new_name_is_served_and_an_old_one_no_more(
    gateway: GatewayProcess, config: dict[str, Any]
) -> None:
    """Routes are those of the new config, in requests and in the list of models."""
    _reload(gateway, config)
    config["models"][0]["aliases"] = ["opus-the-cat"]
    told = _reload(gateway, config)

    assert told["event"] == RELOADED
    assert post(gateway.port, OPENAI_PATH, chat(model="opus-the-cat")).status == 200
    assert post(gateway.port, ANTHROPIC_PATH, chat(model=MODEL)).status == 404
    assert get(gateway.port, "/v1/models/opus-the-cat").json()["id"] == UPSTREAM_MODEL


def test_a_new_price_is_booked(gateway: GatewayProcess, config: dict[str, Any]) -> None:
    """The rows after it cost what it says, those before what it said."""
    ids = []
    for price in (10.0, 1000.0):
        config["models"][0]["price"] = {"input": price, "output": price}
        _reload(gateway, config)
        response = post(gateway.port, OPENAI_PATH, chat("The same for both"))
        ids.append(response.headers["x-keymux-request-id"])
    cheap, dear = (gateway.row(request_id) for request_id in ids)

    assert cheap.usage == dear.usage
    assert (dear.cost_micros or 0) == 100 * (cheap.cost_micros or 0) > 0


def test_a_new_limit_holds(gateway: GatewayProcess, config: dict[str, Any]) -> None:
    """A body that was small enough is too large now."""
    _reload(gateway, config)
    body = chat("x" * 2000)
    before = post(gateway.port, OPENAI_PATH, body).status
    _reload(gateway, {**config, "limits": {"body_bytes": 1000}})

    assert before == 200
    assert post(gateway.port, OPENAI_PATH, body).status == 413


def test_a_new_provider_is_asked(
    gateway: GatewayProcess, sandbox: SandboxThread, config: dict[str, Any]
) -> None:
    """Keys of a provider that comes with the new config are taken into rotation."""
    wider = config_of({name: sandbox.url(name) for name in ("ohmygpt", "openhands")})
    _reload(gateway, wider)
    added = gateway.run("keys", "add", "ohmygpt", "--stdin", stdin=f"{OTHER}\n")
    pause(1.0)
    response = post(gateway.port, OPENAI_PATH, chat())
    _reload(gateway, config)

    assert added.returncode == 0, added.stderr
    assert response.headers["x-keymux-provider"] == "ohmygpt"
    assert post(gateway.port, OPENAI_PATH, chat()).headers["x-keymux-provider"] == "openhands"


async def _reload_during_a_stream(gateway: GatewayProcess, config: dict[str, Any]) -> bytes:
    """The rest of a stream that began under another config."""
    async with await Connection.open(gateway.port) as connection:
        body = chat("words:15", stream=True, max_tokens=1000)
        await connection.ask(OPENAI_PATH, body)
        received = b""
        async for event in connection.events():
            if isinstance(event, h11.Data):
                if not received:
                    await asyncio.to_thread(_reload, gateway, config)
                received += bytes(event.data)
        return received


def test_a_stream_that_runs_is_not_disturbed(
    gateway: GatewayProcess, sandbox: SandboxThread, config: dict[str, Any]
) -> None:
    """It goes on under the terms it began with, even if its model is gone."""
    _reload(gateway, config)
    sandbox.behave(KEY, "slow@0@gap_s=0.05", "ok")
    config["models"][0] |= {"id": "another", "aliases": []}
    received = asyncio.run(_reload_during_a_stream(gateway, config))

    assert received.endswith(b"data: [DONE]\n\n")
    assert post(gateway.port, OPENAI_PATH, chat()).status == 404


WRONG = [
    pytest.param({"limits": {"body_bytes": "many"}}, "$.limits.body_bytes", id="a wrong type"),
    pytest.param({"timeout": {}}, "$.timeout", id="an unknown section"),
    pytest.param({"retry": {"attempts": 0}}, "$.retry.attempts", id="a figure out of range"),
    pytest.param({"models": []}, "$.models", id="no models"),
    pytest.param(
        {"providers": {"openhands": {"kind": "nobody"}}},
        "$.providers.openhands.kind",
        id="an unknown dialect",
    ),
]


@pytest.mark.parametrize(("change", "place"), WRONG)
def test_a_wrong_config_changes_nothing(
    gateway: GatewayProcess, config: dict[str, Any], change: dict[str, Any], place: str
) -> None:
    """The log names every wrong field by its path, and the old config serves on."""
    _reload(gateway, config)
    config["models"][0]["aliases"] = ["never-served"]
    told = _reload(gateway, {**config, **change})

    assert told["event"] == REFUSED
    assert told["level"] == "error"
    assert any(problem.startswith(place) for problem in told["problems"])
    assert post(gateway.port, OPENAI_PATH, chat()).status == 200
    assert post(gateway.port, OPENAI_PATH, chat(model="never-served")).status == 404


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="an empty file"),
        pytest.param('{"port": ', id="half a file"),
        pytest.param("[]", id="a list"),
        pytest.param("\x00\x01", id="no text"),
    ],
)
def test_a_file_that_is_no_config_changes_nothing(
    gateway: GatewayProcess, config: dict[str, Any], text: str
) -> None:
    """An editor that writes in two steps does no harm."""
    _reload(gateway, config)
    told = _reload(gateway, text)

    assert told["event"] == REFUSED
    assert told["problems"]
    assert post(gateway.port, OPENAI_PATH, chat()).status == 200


def test_a_config_that_is_gone_changes_nothing(
    gateway: GatewayProcess, config: dict[str, Any]
) -> None:
    """The old one is in memory."""
    _reload(gateway, config)
    gateway.config_path.unlink()
    before = len(_told(gateway))
    gateway.signal(signal.SIGHUP)
    pause(0.5)
    told = _told(gateway)[before:]

    assert [line["event"] for line in told] == [REFUSED]
    assert post(gateway.port, OPENAI_PATH, chat()).status == 200


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"port": 9}, ["port"], id="the port"),
        pytest.param({"log": {"level": "debug"}}, ["log"], id="the log"),
        pytest.param({"retry": {"queue_s": 1.0}}, ["retry"], id="the retry budgets"),
        pytest.param({"store": "sqlite:///other.db"}, ["store"], id="the store"),
        pytest.param({"timeouts": {"connect_s": 3}}, ["timeouts.connect_s"], id="a timeout"),
        pytest.param({"timeouts": {"idle_s": 3}}, [], id="another timeout"),
    ],
)
def test_what_needs_a_restart_is_named(
    gateway: GatewayProcess, config: dict[str, Any], change: dict[str, Any], needed: list[str]
) -> None:
    """Whatever cannot change while running is said to be so."""
    _reload(gateway, config)
    told = _reload(gateway, {**config, **change})

    assert told["event"] == RELOADED
    assert told["needs_restart"] == needed


def test_a_restart_is_named_as_long_as_it_is_needed(
    gateway: GatewayProcess, config: dict[str, Any]
) -> None:
    """The second reload does not forget what the first could not bring into effect."""
    _reload(gateway, config)
    changed = {**config, "log": {"level": "debug"}}
    _reload(gateway, changed)
    told = _reload(gateway, changed)

    assert told["needs_restart"] == ["log"]
