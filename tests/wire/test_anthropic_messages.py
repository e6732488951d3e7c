"""Anthropic Messages: what is read from it and written in it."""

import json
import string
from typing import Any

import pytest

from keymux.core import faults
from keymux.core.faults import BadRequest, Fault, leaves
from keymux.core.vocabulary import Usage
from keymux.wire.anthropic_messages import (
    FORMAT,
    error_body,
    error_event,
    opening,
    read_head,
    read_usage,
)
from keymux.wire.formats import Head, Opening, Significance
from keymux.wire.sse import Event, parse

PREAMBLE = Opening(Significance.PREAMBLE)
PAYLOAD = Opening(Significance.PAYLOAD)
ERROR = Opening(Significance.ERROR)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"m"}', Head("m"), id="the least there can be"),
        pytest.param(b'{"model":"m","stream":true}', Head("m", stream=True), id="a stream"),
        pytest.param(b'{"model":"m","stream":null}', Head("m"), id="null is no stream"),
        pytest.param(
            b'{"model":"m","x":"\\ud800","max_tokens":5}',
            Head("m", max_tokens=5),
            id="half a surrogate pair",
        ),
        pytest.param(b'{"model":"m","max_tokens":5}', Head("m", max_tokens=5), id="a limit"),
        pytest.param(b'{"model":"m","max_tokens":null}', Head("m"), id="a limit that is null"),
        pytest.param(b'{"model":"m","max_tokens":"x"}', Head("m"), id="a limit that is none"),
        pytest.param(b'{"model":"m","max_tokens":1e999}', Head("m"), id="a limit beyond numbers"),
        pytest.param(b'{"model":"m","store":true}', Head("m"), id="a field of the other format"),
    ],
)
def test_the_head_of_a_request(body: bytes, expected: Head) -> None:
    """Only what the gateway has to know; usage always comes unasked."""
    assert read_head(body) == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param(b"{", "ends too early", id="half an object"),
        pytest.param(b"{}", "missing required field 'model'", id="no model"),
        pytest.param(b'{"model":null}', "model: Expected 'str', got 'null'", id="null for a model"),
        pytest.param(
            b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "nested too deeply",
            id="a tower of brackets",
        ),
    ],
)
def test_a_request_that_cannot_be_understood(body: bytes, problem: str) -> None:
    """The client hears which field is wrong, in the terms of its own request."""
    with pytest.raises(BadRequest) as caught:
        read_head(body)

    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param('{"input_tokens":10,"output_tokens":5}', Usage(10, 5), id="the oldest shape"),
        pytest.param(
            '{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":600,'
            '"cache_creation_input_tokens":100}',
            Usage(10, 5, 600, 100),
            id="the cache is beside the input",
        ),
        pytest.param(
            '{"input_tokens":10,"output_tokens":5,"cache_creation_input_tokens":100,'
            '"cache_creation":{"ephemeral_5m_input_tokens":30,"ephemeral_1h_input_tokens":70}}',
            Usage(10, 5, 0, 30, 70),
            id="what is kept for an hour costs more",
        ),
        pytest.param(
            '{"input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":70}}',
            Usage(10, 0, 0, 0, 70),
            id="by age without a total",
        ),
        pytest.param(
            '{"input_tokens":10,"cache_creation_input_tokens":100,'
            '"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}}',
            Usage(10, 0, 0, 100),
            id="a total without ages",
        ),
        pytest.param(
            '{"input_tokens":10,"cache_creation_input_tokens":100,"cache_creation":{}}',
            Usage(10, 0, 0, 100),
            id="a total and nothing by age",
        ),
        pytest.param(
            '{"input_tokens":10,"output_tokens":5,"output_tokens_details":{"thinking_tokens":3}}',
            Usage(10, 5, reasoning=3),
            id="thinking is part of the output",
        ),
        pytest.param(
            '{"input_tokens":10,"output_tokens":5,"cache_read_input_tokens":null,'
            '"cache_creation":null,"server_tool_use":{"web_search_requests":2}}',
            Usage(10, 5),
            id="nulls and extras",
        ),
        pytest.param(
            '{"input_tokens":1,"output_tokens":2,"iterations":['
            '{"type":"message","input_tokens":10,"output_tokens":20},'
            '{"type":"advisor","model":"other","input_tokens":100,"output_tokens":200}]}',
            Usage(110, 220),
            id="the turns are the bill",
        ),
        pytest.param(
            '{"input_tokens":1,"output_tokens":2,"iterations":[]}', Usage(1, 2), id="no turns"
        ),
        pytest.param(
            '{"input_tokens":1,"output_tokens":2,"iterations":[{"type":"message"}]}',
            Usage(1, 2),
            id="turns without figures",
        ),
        pytest.param(
            '{"input_tokens":1,"iterations":[{"input_tokens":5,"iterations":[{"input_tokens":9}]}]}',
            Usage(5),
            id="turns have no turns of their own",
        ),
        pytest.param('{"input_tokens":-10,"output_tokens":5}', Usage(0, 5), id="a negative figure"),
        pytest.param('{"input_tokens":"10","output_tokens":5}', Usage(0, 5), id="one in words"),
        pytest.param("null", None, id="null"),
        pytest.param("{}", None, id="nothing in it"),
        pytest.param('{"input_tokens":0,"output_tokens":0}', None, id="zero for everything"),
        pytest.param('{"input_tokens":1e999}', None, id="a number nobody can hold"),
        pytest.param('{"iterations":{}}', None, id="turns that are none"),
    ],
)
def test_the_usage_of_an_answer(usage: str, expected: Usage | None) -> None:
    """By class, never negative, never absurd; None where it has to be estimated."""
    body = b'{"type":"message","content":[],"usage":%s}' % usage.encode()

    assert read_usage(body) == expected


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param(
            ['{"input_tokens":10,"output_tokens":1}', '{"output_tokens":50}'],
            Usage(10, 50),
            id="what is left out stays",
        ),
        pytest.param(
            ['{"input_tokens":10,"output_tokens":1}', '{"input_tokens":40,"output_tokens":50}'],
            Usage(40, 50),
            id="what is named counts",
        ),
        pytest.param(
            ['{"input_tokens":10}', '{"output_tokens":5}', '{"output_tokens":9}'],
            Usage(10, 9),
            id="the last of several",
        ),
        pytest.param(
            [
                '{"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":7}}',
                '{"cache_creation_input_tokens":10}',
            ],
            Usage(0, 0, 0, 3, 7),
            id="a total that agrees with the ages before",
        ),
        pytest.param(
            [
                '{"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":7}}',
                '{"cache_creation_input_tokens":25}',
            ],
            Usage(0, 0, 0, 18, 7),
            id="a larger total",
        ),
        pytest.param(
            [
                '{"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":7}}',
                '{"cache_creation_input_tokens":5}',
            ],
            Usage(0, 0, 0, 0, 5),
            id="a smaller total",
        ),
        pytest.param(
            [
                '{"cache_creation_input_tokens":10}',
                '{"cache_creation":{"ephemeral_1h_input_tokens":4}}',
            ],
            Usage(0, 0, 0, 10, 4),
            id="ages after a total",
        ),
        pytest.param(
            ['{"input_tokens":10}', '{"iterations":[{"input_tokens":7,"output_tokens":8}]}'],
            Usage(7, 8),
            id="turns replace what was reported before",
        ),
    ],
)
def test_later_figures_override_earlier_ones_field_by_field(
    reports: list[str], expected: Usage
) -> None:
    """`message_start` first, then every `message_delta`."""
    meter = FORMAT.meter()
    for report in reports:
        meter.note(b'data: {"type":"message_delta","usage":%s}\n\n' % report.encode())

    assert meter.usage == expected


@pytest.mark.parametrize(
    "body", [pytest.param(b'{"usage":{"input_tokens":1', id="cut"), pytest.param(b"", id="nothing")]
)
def test_an_answer_that_is_not_whole_is_no_answer(body: bytes) -> None:
    """So that nobody takes it for a success."""
    with pytest.raises(ValueError, match="truncated"):
        read_usage(body)


def test_nothing_has_to_be_asked_for_and_nothing_is_extra() -> None:
    """This format tells its usage to everybody."""
    body = b'{"model":"m","stream":true}'
    usage = Event(b"message_delta", b'{"type":"message_delta","usage":{"output_tokens":1}}')

    assert FORMAT.asking_for_usage(body) is body
    assert FORMAT.is_extra_usage(usage) is False


def _delta(delta: str) -> Event:
    data = b'{"type":"content_block_delta","index":0,"delta":%s}' % delta.encode()
    return Event(b"content_block_delta", data)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(Event(b"", b""), PREAMBLE, id="a comment"),
        pytest.param(Event(b"message_start", b'{"type":"message_start"}'), PREAMBLE, id="a start"),
        pytest.param(Event(b"ping", b'{"type":"ping"}'), PREAMBLE, id="a ping"),
        pytest.param(
            Event(b"content_block_start", b'{"type":"content_block_start"}'),
            PREAMBLE,
            id="a block begins",
        ),
        pytest.param(Event(b"x", b"no json"), PREAMBLE, id="what nobody can read"),
        pytest.param(
            _delta('{"type":"text_delta","text":"gr\xfc\xdf"}'),
            Opening(Significance.PAYLOAD, 6),
            id="text, measured in bytes",
        ),
        pytest.param(_delta('{"thinking":"hm"}'), Opening(Significance.PAYLOAD, 2), id="thinking"),
        pytest.param(
            _delta('{"partial_json":"{}"}'), Opening(Significance.PAYLOAD, 2), id="a tool's input"
        ),
        pytest.param(_delta('{"signature":"x"}'), PAYLOAD, id="a signature"),
        pytest.param(_delta("null"), PAYLOAD, id="a delta of nothing"),
        pytest.param(Event(b"", b'{"type":"message_delta"}'), PAYLOAD, id="an end without words"),
        pytest.param(Event(b"", b'{"type":"message_stop"}'), PAYLOAD, id="the end"),
        pytest.param(Event(b"error", b"anything"), ERROR, id="an error by name"),
        pytest.param(Event(b"", b'{"type":"error","error":{}}'), ERROR, id="an error by type"),
    ],
)
def test_what_an_early_event_is_worth(event: Event, expected: Opening) -> None:
    """Up to the first delta everything can still be taken back."""
    assert opening(event) == expected


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        pytest.param(faults.BadRequest(problem="x"), 400, "invalid_request_error", id="400"),
        pytest.param(faults.NotRecognised(problem="x"), 401, "authentication_error", id="401"),
        pytest.param(faults.NotAllowed(model="m"), 403, "permission_error", id="403"),
        pytest.param(faults.UnknownModel(model="m"), 404, "not_found_error", id="404"),
        pytest.param(faults.BodyLate(seconds="5"), 408, "timeout_error", id="408"),
        pytest.param(faults.RequestTooLarge(limit=1), 413, "request_too_large", id="413"),
        pytest.param(
            faults.HeadersTooLarge(size=2, limit=1), 431, "invalid_request_error", id="431"
        ),
        pytest.param(faults.AllThrottled(model="m"), 429, "rate_limit_error", id="429"),
        pytest.param(faults.Internal(request_id="r"), 500, "api_error", id="500"),
        pytest.param(faults.NoReply(), 502, "api_error", id="502"),
        pytest.param(faults.NoneReady(model="m"), 529, "overloaded_error", id="503 is 529 here"),
        pytest.param(faults.DeadlineReached(seconds="5"), 504, "timeout_error", id="504"),
    ],
)
def test_a_refusal_in_this_format(fault: Fault, status: int, kind: str) -> None:
    """The shape that the official SDK makes an exception of, with a code that stays."""
    told = json.loads(error_body(fault, "req"))

    assert FORMAT.status_of(fault) == status
    assert told == {
        "type": "error",
        "error": {
            "type": kind,
            "message": fault.message,
            "details": {"error_code": fault.code},
        },
        "request_id": "req",
    }


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: str(kind.__name__))
def test_no_fault_of_ours_looks_like_one_of_the_client(kind: type[Fault]) -> None:
    """Clients repeat what a server got wrong, and mend what they got wrong themselves."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.says) if name}
    facts: dict[str, Any] = dict.fromkeys(names - {"retry_after_s"}, "X")
    told = json.loads(error_body(kind(**facts), "req"))["error"]["type"]

    is_theirs = told in {"api_error", "overloaded_error", "timeout_error", "rate_limit_error"}
    assert is_theirs == (kind.status >= 500 or kind.status in {408, 429})


def test_a_stream_that_failed_ends_with_an_error() -> None:
    """And without the end marker, so that nobody takes it for a whole answer."""
    event = error_event(faults.StreamBroken(how="it was cut"), "req")
    parsed = parse(event)

    assert event.endswith(b"\n\n")
    assert parsed.name == b"error"
    assert b"message_stop" not in event
    assert json.loads(parsed.data)["error"]["details"]["error_code"] == "stream_broken"
