"""A request as it arrives: what is read of its head, what goes on, and what is refused."""

import msgspec
import pytest

from keymux.core.records import Outcome
from keymux.ingress.arrival import client_keys, read_head
from keymux.settings import Limits, Timeouts
from keymux.upstream.request import USER_AGENT
from tests.exchange.rig import CLIENT_KEY, House, Visitor, asked, plain_answer

RAW = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(b"anthropic-version", b"2023-06-01", id="the version of the API"),
        pytest.param(b"anthropic-beta", b"new-2026", id="a beta that nobody knows yet"),
        pytest.param(b"x-stainless-lang", b"python", id="what an SDK says of itself"),
        pytest.param(b"x-claude-code-session-id", b"s", id="a session"),
        pytest.param(b"openai-beta", b"x", id="a beta of the other API"),
        pytest.param(b"idempotency-key", b"x", id="a key against repetition"),
    ],
)
def test_what_is_the_upstreams_business_goes_on(name: bytes, value: bytes) -> None:
    """Under the same name, with the same value."""
    assert (name.decode(), value.decode()) in read_head([(name, value)]).forwarded


@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"x-api-key",
        b"cookie",
        b"host",
        b"connection",
        b"content-length",
        b"accept-encoding",
        b"x-forwarded-for",
        b"forwarded",
        b"proxy-authorization",
        b"openai-organization",
        b"x-request-timeout",
        b"te",
        b"x-anything-else",
    ],
)
def test_everything_else_stays_here(name: bytes) -> None:
    """Secrets, the way here, and what the connection alone is about."""
    forwarded = read_head([(name, b"canary")]).forwarded

    assert "canary" not in dict(forwarded).values()


def test_what_a_client_does_not_say_is_said_for_it() -> None:
    """Who asks, and that the body is JSON; its own words come first."""
    silent = dict(read_head([]).forwarded)
    named = dict(read_head([(b"user-agent", b"curl/8"), (b"content-type", b"a/b")]).forwarded)

    assert silent == {"user-agent": USER_AGENT, "content-type": "application/json"}
    assert named == {"user-agent": "curl/8", "content-type": "a/b"}


def test_what_is_no_ascii_is_not_sent_on() -> None:
    """No HTTP library agrees on what it would mean."""
    forwarded = dict(read_head([(b"user-agent", "Bäcker".encode())]).forwarded)

    assert forwarded["user-agent"] == USER_AGENT


@pytest.mark.parametrize(
    ("value", "expected"), [(b"0", False), (b"1", True), (b"2", True)], ids=["0", "1", "2"]
)
def test_an_sdk_says_that_it_repeats_itself(*, value: bytes, expected: bool) -> None:
    """Such a request draws on the budget for retries."""
    assert read_head([(b"x-stainless-retry-count", value)]).is_retry is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([(b"authorization", b"Bearer a")], ("a",), id="bearer"),
        pytest.param([(b"authorization", b"bearer   a ")], ("a",), id="in lower case, with spaces"),
        pytest.param([(b"x-api-key", b" a ")], ("a",), id="x-api-key"),
        pytest.param(
            [(b"authorization", b"Bearer a"), (b"x-api-key", b"b")], ("a", "b"), id="both"
        ),
        pytest.param([(b"authorization", b"Basic a")], (), id="another scheme"),
        pytest.param([(b"authorization", b"Bearer ")], (), id="nothing"),
        pytest.param([(b"x-api-key", b"")], (), id="nothing in the other"),
        pytest.param([], (), id="no header"),
    ],
)
def test_client_keys_are_read_from_two_headers(headers: RAW, expected: tuple[str, ...]) -> None:
    """In this order."""
    assert client_keys(read_head(headers)) == expected


def test_a_good_key_in_either_header_is_enough() -> None:
    """Some programs send a placeholder in the other one."""
    visitor = House(plain_answer()).visit(
        Visitor(asked()), authorization="Bearer placeholder", x_api_key=CLIENT_KEY
    )

    assert visitor.status == 200


# -- the body ------------------------------------------------------------------------------------
def test_a_body_may_come_in_parts() -> None:
    """It is sent on whole; only the name of the model is another."""
    body = asked(user="in parts")
    house = House(plain_answer())
    house.visit(Visitor(*(body[at : at + 7] for at in range(0, len(body), 7))))
    sent = msgspec.json.decode(house.upstreams.asked[0].body)

    assert sent == {**msgspec.json.decode(body), "model": "upstream-sonnet"}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"x" * 1001], id="in one piece"),
        pytest.param([b"x" * 600, b"x" * 600], id="in two"),
    ],
)
def test_a_body_over_the_limit_is_not_kept(parts: list[bytes]) -> None:
    """However it comes, and whatever length was claimed."""
    house = House(limits=Limits(body_bytes=1000))
    visitor = house.visit(Visitor(*parts))

    assert visitor.status == 413
    assert house.book.rows[0].outcome is Outcome.REFUSED


def test_a_claimed_length_is_believed_at_once() -> None:
    """Nothing of such a body is waited for."""
    visitor = House(limits=Limits(body_bytes=1000)).visit(Visitor(b"", b""), content_length="1001")

    assert visitor.status == 413


def test_a_client_that_leaves_with_half_a_body_is_gone() -> None:
    """Nobody is there to be told."""

    class Leaving(Visitor):
        async def receive(self) -> dict[str, object]:
            message = await super().receive()
            return {**message, "more_body": True}

    house = House()
    visitor = house.visit(Leaving(b'{"model"', leaves_s=0.1))

    assert visitor.status == 0
    assert house.book.rows[0].outcome is Outcome.CLIENT_GONE


def test_silence_within_a_body_is_given_up() -> None:
    """After the time a gap may take, not the time of the exchange."""

    class Stopping(Visitor):
        async def receive(self) -> dict[str, object]:
            message = await super().receive()
            return {**message, "more_body": True}

    house = House(timeouts=Timeouts(client_body_s=7))
    visitor = house.visit(Stopping(b'{"model"'))

    assert visitor.status == 408
    assert 1007.0 <= house.clock.now < 1008.0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"transfer_encoding": "chunked"}, 411, id="chunked"),
        pytest.param({"content_encoding": "gzip"}, 415, id="compressed"),
        pytest.param({"content_encoding": "identity"}, 200, id="not compressed, in so many words"),
        pytest.param({"x_filler": "x" * 40_000}, 431, id="large headers"),
        pytest.param({"host": ""}, 400, id="no host"),
    ],
)
def test_the_head_is_checked_first(headers: dict[str, str], status: int) -> None:
    """Before a byte of the body is read."""
    assert House(plain_answer()).visit(Visitor(asked()), **headers).status == status


@pytest.mark.parametrize(
    ("encoding", "status"),
    [
        pytest.param("chunked", 200, id="chunked"),
        pytest.param("Chunked ", 200, id="in another spelling"),
        pytest.param("gzip, chunked", 400, id="with another on top"),
        pytest.param("identity", 400, id="one that says nothing"),
    ],
)
def test_chunked_bodies_are_taken_where_the_operator_wants_them(encoding: str, status: int) -> None:
    """That one coding and no other."""
    house = House(plain_answer(), limits=Limits(chunked_requests=True))

    assert house.visit(Visitor(asked()), transfer_encoding=encoding).status == status


@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param("beta=true", 200, id="a short one"),
        pytest.param("x" * 8193, 400, id="too long"),
        pytest.param("ä", 400, id="not ASCII"),
    ],
)
def test_the_query_goes_along(query: str, status: int) -> None:
    """As it is, if it is one."""
    house = House(plain_answer())
    visitor = house.visit(Visitor(asked()), query=query)

    assert visitor.status == status
    assert [request.query for request in house.upstreams.asked] == (
        [query] if status == 200 else []
    )
