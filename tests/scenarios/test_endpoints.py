"""Everything that is answered here, without an upstream, and what every answer carries."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keymux import __version__
from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import (
    CLIENT_KEY,
    MODEL,
    UPSTREAM_MODEL,
    GatewayProcess,
    Keys,
    config_of,
    pause,
)
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Response, ask, chat, get, post

KEY = "sk-sandbox-ok-1"
SHAPE = {
    "id",
    "object",
    "created",
    "owned_by",
    "type",
    "display_name",
    "created_at",
    "lifecycle",
}
METRICS = {
    "keymux_requests": {"route", "client_format", "model", "provider", "outcome"},
    "keymux_upstream_attempts": {"provider", "egress", "outcome"},
    "keymux_tokens": {"provider", "model", "kind"},
    "keymux_cost_usd": {"provider", "model"},
    "keymux_turned_away": {"client_format", "code"},
    "keymux_upstream_latency_seconds": {"provider", "le"},
    "keymux_time_to_first_token_seconds": {"provider", "model", "le"},
    "keymux_overhead_seconds": {"le"},
    "keymux_queue_wait_seconds": {"le"},
    "keymux_build_info": {"version"},
    "keymux_ready": set(),
    "keymux_active_exchanges": set(),
    "keymux_leases": set(),
    "keymux_tasks": set(),
    "keymux_usage_outbox_depth": set(),
    "keymux_log_lines_dropped": set(),
    "keymux_keys": {"provider", "state"},
    "keymux_backup_keys": {"provider", "state"},
    "keymux_key_up": {"provider", "key"},
    "keymux_provider_up": {"provider"},
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
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
    """One gateway for all of it."""
    folder: Path = tmp_path_factory.mktemp("endpoints")
    config = config_of({"openhands": sandbox.url("openhands")})
    config["models"].append(
        {**config["models"][0], "id": "plain", "name": "Plain One", "aliases": [], "created": 86400}
    )
    with GatewayProcess(folder, config, {"openhands": Keys([KEY])}) as running:
        yield running


def _ask(gateway: GatewayProcess, method: str, path: str, body: bytes = b"") -> Response:
    return asyncio.run(ask(gateway.port, path, body, {"Authorization": ""}, method))


# -- operations ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/livez", b"ok\n", id="alive"),
        pytest.param("/readyz", b"ready\n", id="ready"),
        pytest.param("/health", b"ready\n", id="healthy"),
    ],
)
def test_monitors_need_no_client_key(gateway: GatewayProcess, path: str, body: bytes) -> None:
    """A plain word and a status."""
    response = _ask(gateway, "GET", path)

    assert (response.status, response.body) == (200, body)
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/", "/api/hello", "/livez", "/readyz", "/health", "/metrics"])
def test_head_has_no_body(gateway: GatewayProcess, path: str) -> None:
    """Programs look whether we are there before they ask."""
    response = _ask(gateway, "HEAD", path)

    assert (response.status, response.body, response.complete) == (200, b"", True)


@pytest.mark.parametrize("query", ["?x=1", "?beta=true"])
def test_a_query_does_not_hide_a_page(gateway: GatewayProcess, query: str) -> None:
    """Only the path chooses."""
    assert _ask(gateway, "GET", f"/livez{query}").status == 200
    assert get(gateway.port, f"/v1/models{query}").status == 200


@pytest.mark.parametrize("keys", [Keys(), Keys(["sk-sandbox-revoked-1"])], ids=["none", "dead"])
def test_a_gateway_without_a_usable_key_is_ready(
    tmp_path: Path, sandbox: SandboxThread, keys: Keys
) -> None:
    """It takes requests and says what it lacks; restarting it would not help."""
    config = config_of({"openhands": sandbox.url("openhands")})
    with GatewayProcess(tmp_path, config, {"openhands": keys}) as gateway:
        refused = [post(gateway.port, OPENAI_PATH, chat()) for _ in range(2)]

        assert get(gateway.port, "/readyz").status == 200
        assert get(gateway.port, "/v1/models").status == 200
        assert {response.status for response in refused} == {503}
        assert {response.json()["error"]["code"] for response in refused} == {"no_capacity"}
        assert int(refused[-1].headers["retry-after"]) > 0


def _families(gateway: GatewayProcess) -> dict[str, Any]:
    page = get(gateway.port, "/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    return {one.name: one for one in text_string_to_metric_families(page.body.decode())}


def test_the_metrics_have_their_names_and_labels(gateway: GatewayProcess) -> None:
    """Dashboards and alerts are built on them: a change here is a change for operators."""
    post(gateway.port, OPENAI_PATH, chat(stream=True))
    post(gateway.port, OPENAI_PATH, chat(), {"Authorization": "Bearer nobody"})
    gateway.wait_for_rows(1)
    families = _families(gateway)
    labels = {
        name: set().union(*(sample.labels for sample in families[name].samples)) for name in METRICS
    }

    assert labels == METRICS
    assert all(family.documentation for name, family in families.items() if name in METRICS)


def test_the_metrics_count_what_was_booked(gateway: GatewayProcess) -> None:
    """Requests, attempts, tokens and dollars are those of the ledger."""
    response = post(gateway.port, ANTHROPIC_PATH, chat(model="plain"))
    row = gateway.row(response.headers["x-keymux-request-id"])
    families = _families(gateway)

    def value(name: str, **labels: str) -> float:
        samples = families[name].samples
        return float(
            next(s.value for s in samples if labels.items() <= s.labels.items() and s.value)
        )

    assert value("keymux_requests", model="plain", client_format="anthropic", outcome="ok") == 1
    assert value("keymux_tokens", model="plain", kind="output") == row.usage.output
    assert value("keymux_tokens", model="plain", kind="input") == row.usage.input
    assert value("keymux_cost_usd", model="plain") == (row.cost_micros or 0) / 1_000_000
    assert value("keymux_build_info", version=__version__) == 1
    assert value("keymux_keys", provider="openhands", state="healthy") == 1
    assert value("keymux_provider_up", provider="openhands") == 1


# -- models --------------------------------------------------------------------------------------
def test_models_have_one_shape_for_both_sdks(gateway: GatewayProcess) -> None:
    """Every field that either SDK reads, in a list with both envelopes."""
    page = get(gateway.port, "/v1/models").json()
    first, second = page["data"]

    assert page["object"] == "list"
    assert page["has_more"] is False
    assert (page["first_id"], page["last_id"]) == (UPSTREAM_MODEL, "plain")
    assert set(first) == set(second) == SHAPE
    assert (first["object"], first["type"], first["lifecycle"]) == ("model", "model", "active")
    assert (second["display_name"], second["created"]) == ("Plain One", 86400)
    assert second["created_at"] == "1970-01-02T00:00:00Z"


@pytest.mark.parametrize(
    "name", [UPSTREAM_MODEL, MODEL, "claude-sonnet%2D4-5"], ids=["id", "alias", "encoded"]
)
def test_a_model_is_found_by_any_of_its_names(gateway: GatewayProcess, name: str) -> None:
    """It says its id whatever it was asked for by."""
    response = get(gateway.port, f"/v1/models/{name}")

    assert response.status == 200
    assert response.json()["id"] == UPSTREAM_MODEL


ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        pytest.param({}, {"code": "model_not_found"}, id="OpenAI"),
        pytest.param(ANTHROPIC, {"type": "not_found_error"}, id="Anthropic"),
    ],
)
def test_a_model_that_is_not_served_is_not_found(
    gateway: GatewayProcess, headers: dict[str, str], error: dict[str, str]
) -> None:
    """The refusal has the format of whoever asks."""
    response = get(gateway.port, "/v1/models/nobody", headers)
    body = response.json()

    assert response.status == 404
    assert error.items() <= body["error"].items()
    assert (body.get("type") == "error") is bool(headers)


@pytest.mark.parametrize(
    "shown", [{"Authorization": f"Bearer {CLIENT_KEY}"}, {"x-api-key": CLIENT_KEY}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/plain"])
def test_models_are_for_callers(gateway: GatewayProcess, path: str, shown: dict[str, str]) -> None:
    """A client key in either header opens the list; without one there is a 401."""
    known = asyncio.run(ask(gateway.port, path, b"", {"Authorization": "", **shown}, "GET"))

    assert known.status == 200
    assert _ask(gateway, "GET", path).status == 401


def test_callers_see_the_models_they_may_use(gateway: GatewayProcess) -> None:
    """Others are neither listed, nor found, nor served."""
    secret = "km-" + "l" * 40
    added = gateway.run("clients", "add", "--secret-stdin", "--model", "plain", stdin=secret)
    shown = {"Authorization": f"Bearer {secret}"}
    _wait_for(gateway, shown)
    page = get(gateway.port, "/v1/models", shown).json()

    assert added.returncode == 0, added.stderr
    assert [model["id"] for model in page["data"]] == ["plain"]
    assert get(gateway.port, f"/v1/models/{MODEL}", shown).status == 404
    assert post(gateway.port, OPENAI_PATH, chat(), shown).status == 403
    assert post(gateway.port, OPENAI_PATH, chat(model="plain"), shown).status == 200


def _wait_for(gateway: GatewayProcess, shown: dict[str, str]) -> None:
    for _ in range(100):
        if get(gateway.port, "/v1/models", shown).status == 200:
            return
        pause(0.05)
    raise AssertionError("the client key is not taken over")


# -- what is not there -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/nowhere", 404, "unknown_path", id="a path we do not have"),
        pytest.param("POST", "/v1/completions", 404, "unknown_path", id="an older API"),
        pytest.param("POST", "/v1/messages/batches", 404, "unknown_path", id="batches"),
        pytest.param("GET", "/v1/messages", 405, "method_not_allowed", id="GET for POST"),
        pytest.param("PUT", "/v1/chat/completions", 405, "method_not_allowed", id="PUT"),
        pytest.param("POST", "/livez", 405, "method_not_allowed", id="POST for GET"),
        pytest.param("DELETE", "/v1/models/plain", 405, "method_not_allowed", id="DELETE"),
        pytest.param("OPTIONS", "/v1/messages", 405, "method_not_allowed", id="OPTIONS"),
    ],
)
@pytest.mark.parametrize("headers", [{}, ANTHROPIC], ids=["OpenAI", "Anthropic"])
def test_what_is_not_there_is_told_in_the_format_of_the_caller(
    gateway: GatewayProcess,
    headers: dict[str, str],
    method: str,
    path: str,
    status: int,
    code: str,
) -> None:
    """The path tells the format, and where it does not, the version header does."""
    response = asyncio.run(ask(gateway.port, path, b"", headers, method))
    error = response.json()["error"]
    as_anthropic = path.startswith("/v1/messages") or (
        bool(headers) and not path.startswith("/v1/chat")
    )

    assert response.status == status
    assert (error["details"]["error_code"] if as_anthropic else error["code"]) == code
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["content-type"] == "application/json"
    assert ("request-id" if as_anthropic else "x-request-id") in response.headers


# -- every exchange ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param(OPENAI_PATH, "x-request-id", id="OpenAI"),
        pytest.param(ANTHROPIC_PATH, "request-id", id="Anthropic"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["a plain answer", "a stream"])
def test_an_answer_says_whose_it_is(
    gateway: GatewayProcess,
    sandbox: SandboxThread,
    path: str,
    name: str,
    stream: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    """The upstream's id under the name the SDK reads, and how the request was served."""
    response = post(gateway.port, path, chat(stream=stream))
    row = gateway.row(response.headers["x-keymux-request-id"])

    assert response.headers[name] == row.upstream_id != ""
    assert response.headers["x-keymux-provider"] == row.provider == "openhands"
    assert response.headers["x-keymux-model"] == row.model == UPSTREAM_MODEL
    assert response.headers["x-keymux-attempts"] == "1"
    assert response.headers["server"] == f"keymux/{__version__}"


def test_ids_are_never_given_twice(gateway: GatewayProcess) -> None:
    """Also those of refusals; and they can be sorted by time."""
    ids = [
        post(gateway.port, path, body).headers["x-keymux-request-id"]
        for path in (OPENAI_PATH, ANTHROPIC_PATH, "/nowhere")
        for body in (chat(), b"{}")
        for _ in range(5)
    ]

    assert len(set(ids)) == len(ids)
    moments = [name[: len("req_") + 12] for name in ids]  # milliseconds; the rest is chance
    assert sorted(moments) == moments


def test_an_exchange_is_one_line_of_the_log(gateway: GatewayProcess) -> None:
    """One and no more, with the figures of its row, whether it went well or not."""
    responses = [
        post(gateway.port, OPENAI_PATH, chat("Nobody reads marker:prompt")),
        post(gateway.port, ANTHROPIC_PATH, chat(stream=True)),
        post(gateway.port, OPENAI_PATH, chat(model="nobody")),
        post(gateway.port, ANTHROPIC_PATH, b"no JSON"),
    ]
    ids = [response.headers["x-keymux-request-id"] for response in responses]
    rows = [gateway.row(request_id) for request_id in ids]
    _wait_for_lines(gateway, ids[-1])
    lines = {
        request_id: [line for line in gateway.log() if line.get("request_id") == request_id]
        for request_id in ids
    }

    for row in rows:
        (line,) = lines[row.id]
        assert line["event"] == "exchange"
        assert (line["outcome"], line["fault"]) == (row.outcome, row.fault)
        assert (line["input_tokens"], line["output_tokens"]) == (row.usage.input, row.usage.output)
        assert (line["caller"], line["status"]) == ("client_1", row.status)
    assert "marker:prompt" not in gateway.log_path.read_text()


def _wait_for_lines(gateway: GatewayProcess, request_id: str) -> None:
    for _ in range(100):
        if request_id in gateway.log_path.read_text():
            return
        pause(0.02)
    raise AssertionError("no line")


def test_pages_leave_no_trace(gateway: GatewayProcess) -> None:
    """Monitors ask often: neither ledger nor log grows by it."""
    gateway.row(post(gateway.port, OPENAI_PATH, chat()).headers["x-keymux-request-id"])
    rows, lines = len(gateway.rows()), len(gateway.log())
    for path in ("/livez", "/readyz", "/metrics", "/v1/models", "/nowhere"):
        get(gateway.port, path)
    gateway.row(post(gateway.port, OPENAI_PATH, chat()).headers["x-keymux-request-id"])

    assert len(gateway.rows()) == rows + 1
    assert len(gateway.log()) <= lines + 2
    assert json.dumps("/livez") not in gateway.log_path.read_text()
