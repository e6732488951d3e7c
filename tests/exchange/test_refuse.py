"""A fault in the client's own words: status, headers and body."""

import pytest

from keymux.core import faults
from keymux.core.faults import Answer, Fault
from keymux.exchange.refuse import status_of, told
from keymux.wire import anthropic_messages, openai_chat
from keymux.wire.formats import Format
from tests.exchange.rig import House, Visitor, asked, event, stream_of

OPENAI, ANTHROPIC = openai_chat.FORMAT, anthropic_messages.FORMAT
THEIRS = Answer(
    status=422,
    content_type="application/json",
    body=b'{ "error":{"message":"odd"} }',
    headers=((b"content-type", b"application/json"), (b"retry-after", b"3")),
)


def _headers(fault: Fault, wire: Format = OPENAI) -> dict[bytes, bytes]:
    headers, _ = told(fault, wire, "req_ours")
    named = [name for name, _ in headers]

    assert len(named) == len(set(named))
    return dict(headers)


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        pytest.param(OPENAI, b"x-request-id", id="OpenAI"),
        pytest.param(ANTHROPIC, b"request-id", id="Anthropic"),
    ],
)
def test_a_refusal_has_an_id(wire: Format, name: bytes) -> None:
    """Under the name that the SDK reads; the upstream's, if it gave one."""
    own = Answer(400, "", b"{}", ((name, b"req_theirs"),))

    assert _headers(faults.BadRequest(problem="x"), wire)[name] == b"req_ours"
    assert _headers(faults.RequestRefused(answer=own), wire)[name] == b"req_theirs"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (59.5, b"60")],
    ids=["a moment", "a second", "a little more", "a minute"],
)
def test_nobody_is_told_to_come_back_too_early(seconds: float, expected: bytes) -> None:
    """Whole seconds, rounded up."""
    fault = faults.AllThrottled(model="m", retry_after=seconds)

    assert _headers(fault)[b"retry-after"] == expected


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(faults.AllThrottled(model="m", retry_after=3.0), b"true", id="throttled"),
        pytest.param(faults.Overburdened(retry_after=1.0), b"true", id="too much to do"),
        pytest.param(faults.Draining(), b"false", id="nobody knows when"),
        pytest.param(faults.NoReply(retry_after=3.0), b"false", id="it may have been done"),
        pytest.param(faults.BadRequest(problem="x"), b"false", id="it is wrong"),
    ],
)
def test_a_client_is_told_whether_to_try_again(fault: Fault, expected: bytes) -> None:
    """Only where nothing can have been done and the time is known."""
    assert _headers(fault)[b"x-should-retry"] == expected


def test_an_upstreams_own_words_are_passed_on() -> None:
    """Status, bytes and the time it told: clients act on them."""
    fault = faults.RequestRefused(answer=THEIRS, retry_after=99.0)
    headers, body = told(fault, ANTHROPIC, "req_ours")

    assert status_of(fault, ANTHROPIC) == 422
    assert body == THEIRS.body
    assert dict(headers)[b"retry-after"] == b"3"


@pytest.mark.parametrize("status", [401, 402, 407])
def test_words_about_our_key_are_not(status: int) -> None:
    """A client would take them for its own."""
    fault = faults.Forbidden(answer=Answer(status, "application/json", b"your key is bad"))
    _, body = told(fault, OPENAI, "req_ours")

    assert status_of(fault, OPENAI) == 403
    assert b"your key" not in body


@pytest.mark.parametrize("fault", [faults.ClientGone(), faults.ClientStalled(seconds=1)])
def test_who_left_is_told_nothing(fault: Fault) -> None:
    """There is no status for nobody."""
    assert status_of(fault, OPENAI) == 0


def test_an_overload_has_the_status_of_the_format() -> None:
    """529 confuses programs that speak the other one."""
    fault = faults.Overloaded()

    assert status_of(fault, OPENAI) == 503
    assert status_of(fault, ANTHROPIC) == 529


def test_a_stream_that_has_begun_gets_no_second_head() -> None:
    """An event is all there is room for."""
    house = House(stream_of(event("He"), faults.Truncated()))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.status == 200
    assert visitor.body.count(b'"error":') == 1
    assert visitor.is_finished
