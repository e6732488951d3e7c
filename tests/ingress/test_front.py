"""The table of paths, the pages, and the life of the application."""

import asyncio
from typing import Any

import pytest

from tests.exchange.rig import ANTHROPIC_PATH, OPENAI_PATH, House, Visitor, asked


def _get(path: str, method: str = "GET", **headers: str) -> Visitor:
    return House().visit(Visitor(), path=path, method=method, **headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/livez", b"ok\n", id="alive"),
        pytest.param("/readyz", b"ready\n", id="ready"),
        pytest.param("/metrics", b"metrics", id="metrics"),
        pytest.param("/", b"", id="the root"),
        pytest.param("/api/hello", b"", id="what a client probes"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pages_need_no_client_key(path: str, body: bytes, method: str) -> None:
    """They are there for monitors and probes."""
    visitor = _get(path, method, authorization="")

    assert (visitor.status, visitor.body) == (200, body)


@pytest.mark.parametrize("path", ["/readyz", "/health"])
def test_a_process_that_is_not_ready_says_so(path: str) -> None:
    """503, so that nothing is sent to it."""
    house = House()
    house.readiness.is_ready = False
    visitor = house.visit(Visitor(), path=path, method="GET")

    assert (visitor.status, visitor.body) == (503, b"not ready\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", OPENAI_PATH, 405, id="GET for POST"),
        pytest.param("POST", "/livez", 405, id="POST for a page"),
        pytest.param("POST", "/", 405, id="POST for a probe"),
        pytest.param("POST", "/v1/models", 405, id="POST for models"),
        pytest.param("GET", "/v1/modelsx", 404, id="almost models"),
        pytest.param("GET", "/nowhere", 404, id="nowhere"),
        pytest.param("POST", "/v1/messages/", 404, id="a slash too many"),
    ],
)
def test_what_is_not_in_the_table_is_not_there(method: str, path: str, status: int) -> None:
    """Nothing is guessed, and nobody is asked for a key first."""
    assert _get(path, method, authorization="").status == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        pytest.param("GET", OPENAI_PATH, "POST", id="an endpoint for POST"),
        pytest.param("DELETE", "/v1/models/sonnet", "GET", id="a model"),
        pytest.param("POST", "/metrics", "GET", id="a page"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(method: str, path: str, allowed: str) -> None:
    """In words and in the header."""
    visitor = _get(path, method)

    assert visitor.status == 405
    assert visitor.headers["allow"] == allowed
    assert f"takes {allowed}, not {method}" in visitor.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "headers", "is_anthropic"),
    [
        pytest.param("/nowhere", {}, False, id="OpenAI where nothing says otherwise"),
        pytest.param("/nowhere", {"anthropic_version": "1"}, True, id="a header that does"),
        pytest.param(f"{ANTHROPIC_PATH}/x", {}, True, id="a path that does"),
    ],
)
def test_refusals_have_a_format(*, path: str, headers: dict[str, str], is_anthropic: bool) -> None:
    """That of the caller, as far as anybody can know."""
    visitor = _get(path, **headers)

    assert (visitor.json().get("type") == "error") is is_anthropic
    assert ("request-id" in visitor.headers) is is_anthropic


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/v1/models/sonnet", 200, id="by its id"),
        pytest.param("/v1/models/s-anything", 200, id="by a prefix"),
        pytest.param("/v1/models/s%2Danything", 200, id="encoded"),
        pytest.param("/v1/models/nobody", 404, id="not at all"),
    ],
)
def test_a_model_is_found_by_its_names(path: str, status: int) -> None:
    """It says its id whatever it was asked for by."""
    visitor = _get(path)

    assert visitor.status == status
    assert visitor.json().get("id") == ("sonnet" if status == 200 else None)


def test_every_answer_says_who_gave_it() -> None:
    """And how to find it in the log."""
    visitor = _get("/nowhere")

    assert visitor.headers["server"].startswith("keymux/")
    assert visitor.headers["x-keymux-request-id"].startswith("req_")


def test_a_head_request_is_no_request_for_an_answer() -> None:
    """HEAD on an endpoint for POST is refused like any other method."""
    house = House()
    visitor = house.visit(Visitor(asked()), method="HEAD")

    assert visitor.status == 405
    assert visitor.headers["allow"] == "POST"
    assert house.upstreams.asked == []


# -- the life of the application -----------------------------------------------------------------
def _live(house: House, *messages: str) -> list[dict[str, Any]]:
    """What the server is told while it starts and stops the application."""
    told: list[dict[str, Any]] = []
    coming = [{"type": f"lifespan.{message}"} for message in messages]

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: Any) -> None:
        told.append(message)

    asyncio.run(house.front({"type": "lifespan"}, receive, send))
    return told


def test_it_starts_before_the_first_request_and_stops_after_the_last() -> None:
    """The server waits for both."""
    house = House()
    told = _live(house, "startup", "shutdown")

    assert [message["type"] for message in told] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert not house.is_started


def test_a_start_that_fails_is_told_to_the_server() -> None:
    """With the reason; nothing is served."""
    house = House()
    house.refusal = OSError("the disk is on fire")
    (told,) = _live(house, "startup")

    assert told == {"type": "lifespan.startup.failed", "message": "the disk is on fire"}
