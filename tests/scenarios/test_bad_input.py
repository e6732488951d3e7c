"""Whatever a client sends wrong gets a clear answer in its own format, and nothing else happens."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keymux.core.records import Outcome
from tests.scenarios.rig import CLIENT_KEY, MODEL, GatewayProcess, Keys, config_of, pause
from tests.scenarios.wire import (
    ANTHROPIC_PATH,
    OPENAI_PATH,
    Response,
    ask,
    chat,
    get,
    head,
    post,
    raw,
)

REVOKED = "km-" + "r" * 40
BODY_LIMIT = 100_000


class Silence:
    """Stands where the upstream would be and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.visitors = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.visitors += 1
            visitor.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Silence]:
    """Nobody is ever asked."""
    silence = Silence()
    yield silence
    silence.close()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: Silence
) -> Iterator[GatewayProcess]:
    """One gateway for all of it."""
    folder: Path = tmp_path_factory.mktemp("bad-input")
    url = f"http://127.0.0.1:{upstream.port}"
    config = config_of(
        {"acme": url},
        kind="openhands",
        limits={"body_bytes": BODY_LIMIT},
        timeouts={"client_body_s": 1.0},
    )
    with GatewayProcess(folder, config, {"acme": Keys(["sk-sandbox-1"])}) as running:
        yield running


def _check_shape(path: str, response: Response) -> dict[str, Any]:
    """The error of a response, after checking that it has the caller's own format."""
    found = response.json()
    assert response.headers["x-keymux-request-id"].startswith("req_")
    assert response.headers["x-should-retry"] == "false"
    if path.startswith(ANTHROPIC_PATH):
        assert found["type"] == "error"
        assert response.headers["request-id"]
        return {**found["error"], "code": found["error"]["details"]["error_code"]}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return dict(found["error"])


BODIES = [
    pytest.param(b'{"model": "', 400, "not valid JSON", id="a body cut off"),
    pytest.param(b"hello", 400, "not valid JSON", id="no JSON at all"),
    pytest.param(b"", 400, "not valid JSON", id="no body"),
    pytest.param(b"[1, 2]", 400, "Expected 'object'", id="a list"),
    pytest.param(b'{"messages": []}', 400, "model", id="no model"),
    pytest.param(b'{"model": 5}', 400, "model: Expected 'str'", id="a model that is a number"),
    pytest.param(b'{"model": "x", "stream": "yes"}', 400, "stream", id="a stream that is a word"),
    pytest.param(b'{"model": "\xff"}', 400, "", id="bytes that are no text"),
    pytest.param(b'{"model": "gpt-9"}', 404, "'gpt-9'", id="a model nobody serves"),
    pytest.param(b'{"model": "' + b"x" * BODY_LIMIT + b'"}', 413, "limit", id="too large"),
    pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "", id="nested too deeply"),
    pytest.param(
        json.dumps({"model": MODEL, "api_base": "http://evil"}).encode(),
        400,
        "api_base",
        id="a wish for another upstream",
    ),
    pytest.param(
        json.dumps({"base_url": "http://evil", "model": MODEL}).encode(),
        400,
        "base_url",
        id="the same by another name",
    ),
]


@pytest.mark.parametrize("path", [OPENAI_PATH, ANTHROPIC_PATH, "/v1/messages/count_tokens"])
@pytest.mark.parametrize(("body", "status", "words"), BODIES)
def test_a_wrong_body_is_explained(
    gateway: GatewayProcess, path: str, body: bytes, status: int, words: str
) -> None:
    """The message names the field and what to do."""
    response = post(gateway.port, path, body)
    error = _check_shape(path, response)

    assert response.status == status
    assert words in error["message"]


KEYS = [
    pytest.param({"Authorization": ""}, "missing", id="no key"),
    pytest.param({"Authorization": "Bearer"}, "missing", id="an empty bearer"),
    pytest.param({"Authorization": "Basic Zm9vOmJhcg=="}, "missing", id="another scheme"),
    pytest.param({"Authorization": "Bearer km-wrong"}, "not valid", id="a wrong key"),
    pytest.param({"Authorization": "", "x-api-key": "nope"}, "not valid", id="a wrong x-api-key"),
    pytest.param({"Authorization": f"Bearer {REVOKED}"}, "not valid", id="a revoked key"),
    pytest.param({"Authorization": "Bearer ' OR 1=1 --"}, "not valid", id="SQL instead of a key"),
    pytest.param({"Authorization": 'Bearer {"$gt":""}'}, "not valid", id="a query operator"),
]


@pytest.mark.parametrize("path", [OPENAI_PATH, ANTHROPIC_PATH])
@pytest.mark.parametrize(("headers", "words"), KEYS)
def test_a_stranger_is_turned_away(
    gateway: GatewayProcess, path: str, headers: dict[str, str], words: str
) -> None:
    """Without a valid client key there is a 401 that says how to get one."""
    response = post(gateway.port, path, chat(), headers)
    error = _check_shape(path, response)

    assert response.status == 401
    assert error["code"] == "invalid_client_key"
    assert words in error["message"]
    assert "keymux clients add" in error["message"]


def test_a_revoked_key_ends_at_once(gateway: GatewayProcess) -> None:
    """A key that worked is refused within a second of being revoked."""
    secret = "km-" + "t" * 40
    added = gateway.run("clients", "add", "--secret-stdin", "--label", "gone", stdin=secret)
    assert added.returncode == 0, added.stderr
    pause(1.0)
    before = get(gateway.port, "/v1/models", {"Authorization": f"Bearer {secret}"}).status
    listed = json.loads(gateway.run("clients", "list", "--json").stdout)
    key = next(client["id"] for client in listed if client["label"] == "gone")
    gateway.run("clients", "revoke", key)
    pause(1.0)

    after = get(gateway.port, "/v1/models", {"Authorization": f"Bearer {secret}"}).status

    assert (before, after) == (200, 401)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", OPENAI_PATH, 405, id="GET on an endpoint for POST"),
        pytest.param("DELETE", ANTHROPIC_PATH, 405, id="DELETE"),
        pytest.param("POST", "/v1/models", 405, id="POST on a page"),
        pytest.param("POST", "/v1/embeddings", 404, id="an endpoint we do not have"),
        pytest.param("POST", "/v1/chat/completions/", 404, id="a slash at the end"),
        pytest.param("POST", "//v1/chat/completions", 404, id="a doubled slash"),
        pytest.param("POST", "/v1/%63hat/completions", 404, id="an encoded letter"),
        pytest.param("POST", "/V1/chat/completions", 404, id="another case"),
        pytest.param("POST", "/v1/models/../chat/completions", 405, id="dots"),
        pytest.param("POST", "/v1/messages;x=1", 404, id="a path parameter"),
        pytest.param("POST", "/v1/messages%00", 404, id="a NUL"),
    ],
)
def test_only_what_is_in_the_table_exists(
    gateway: GatewayProcess, method: str, path: str, status: int
) -> None:
    """Paths are matched raw and whole."""
    response = asyncio.run(ask(gateway.port, path, chat(), method=method))
    _check_shape(path, response)

    assert response.status == status


def test_an_endpoint_says_which_method_it_takes(gateway: GatewayProcess) -> None:
    """405 comes with Allow."""
    response = get(gateway.port, OPENAI_PATH)

    assert response.headers["allow"] == "POST"


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


@pytest.mark.parametrize("path", [OPENAI_PATH, ANTHROPIC_PATH])
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"X-Filler": "a" * 100_000}, 431, "headers_too_large", id="100 KB of headers"),
        pytest.param(
            {"Transfer-Encoding": "chunked"}, 411, "length_required", id="both length headers"
        ),
        pytest.param({"Content-Encoding": "gzip"}, 415, "unsupported_encoding", id="compressed"),
        pytest.param({"Host": "a\r\nHost: b"}, 400, "bad_request", id="two hosts"),
    ],
)
def test_a_wrong_head_is_explained(
    gateway: GatewayProcess, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    """Even what is wrong with the framing is told in the caller's own format."""
    answer = raw(gateway.port, head(path, chat(), headers) + b"0\r\n\r\n", seconds=1.0)
    told = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]

    assert _status(answer) == status
    assert code in {told.get("code"), told.get("details", {}).get("error_code")}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
            b"Content-Length: 6\r\n\r\nhello!",
            id="two lengths that differ",
        ),
        pytest.param(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", id="a fold"),
        pytest.param(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", id="a space"),
        pytest.param(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n", id="a NUL"),
        pytest.param(
            b"POST /v1/messages HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            id="two hundred headers",
        ),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", id="a long path"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS on a plain port"),
    ],
)
def test_what_is_no_http_is_refused(gateway: GatewayProcess, data: bytes) -> None:
    """The parser says no, and the connection ends."""
    answer = raw(gateway.port, data, seconds=2.0)

    assert _status(answer) in {400, 404, 414, 431}
    assert b"200 OK" not in answer


def test_a_body_that_stops_arriving_is_given_up(gateway: GatewayProcess) -> None:
    """A client that claims more than it sends is told so after the time a gap may take."""
    claimed = head(OPENAI_PATH, b"x" * 5000) + b'{"model": "'

    answer = raw(gateway.port, claimed, seconds=4.0)

    assert _status(answer) == 408
    assert b"request_timeout" in answer


@pytest.mark.slow
def test_dripped_headers_are_not_waited_for(gateway: GatewayProcess) -> None:
    """A head that is not complete after 15 s ends the connection."""

    async def drip() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\n")
            for number in range(40):
                try:
                    async with asyncio.timeout(0.5):
                        return await reader.read(100)
                except TimeoutError:
                    writer.write(b"X-%d: y\r\n" % number)
        finally:
            writer.close()
        raise AssertionError("still open after 20 s")

    assert asyncio.run(drip()) == b""


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Forwarded-Host": "evil.example"}, id="a forwarded host"),
        pytest.param({"X-Api-Base": "http://evil.example"}, id="an address in a header"),
        pytest.param({"X-Original-Url": "/admin"}, id="another path"),
    ],
)
def test_headers_choose_nothing(gateway: GatewayProcess, headers: dict[str, str]) -> None:
    """Routing headers are not even read: the model list is the same with and without."""
    plain = get(gateway.port, "/v1/models")
    routed = get(gateway.port, "/v1/models", headers)

    assert (routed.status, routed.body) == (plain.status, plain.body)


def test_nothing_came_of_it(gateway: GatewayProcess, upstream: Silence) -> None:
    """No upstream was asked, and the ledger holds refusals only."""
    post(gateway.port, OPENAI_PATH, b"{}")
    pause(0.5)
    rows = gateway.rows()

    assert upstream.visitors == 0
    assert rows
    assert {row.outcome for row in rows} <= {Outcome.REFUSED, Outcome.CLIENT_GONE}
    assert all(not row.attempts and not row.usage.total and not row.cost_micros for row in rows)
    assert {row.caller for row in rows} == {"client_1"}


def test_strangers_are_counted_and_not_booked(gateway: GatewayProcess) -> None:
    """A refusal without a caller is a figure in the metrics."""
    post(gateway.port, OPENAI_PATH, chat(), {"Authorization": "Bearer nobody"})

    page = get(gateway.port, "/metrics").body.decode()

    assert 'keymux_turned_away_total{client_format="openai",code="invalid_client_key"}' in page
    assert CLIENT_KEY not in page
