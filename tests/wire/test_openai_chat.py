"""OpenAI Chat Completions: what is read from it and written in it."""

import json

import pytest
from hypothesis import given

from keymux.core import faults
from keymux.core.faults import BadRequest, Fault
from keymux.core.vocabulary import Kind, Usage
from keymux.wire.formats import Head, Opening, Significance
from keymux.wire.openai_chat import (
    FORMAT,
    asking_for_usage,
    error_body,
    error_event,
    is_extra_usage,
    opening,
    read_head,
    read_usage,
)
from keymux.wire.sse import Event, parse
from tests.wire.json_text import Body, bodies

PREAMBLE = Opening(Significance.PREAMBLE)
PAYLOAD = Opening(Significance.PAYLOAD)
ERROR = Opening(Significance.ERROR)


# -- requests --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"m"}', Head("m"), id="the least there can be"),
        pytest.param(
            b'{"model":"m","stream":true}', Head("m", stream=True, wants_usage=False), id="a stream"
        ),
        pytest.param(b'{"model":"m","x":"\\ud800"}', Head("m"), id="half a surrogate pair"),
        pytest.param(
            b'{"x\\udc00":0,"model":"m","stream":true,"stream_options":{"\\ud800":0,'
            b'"include_usage":true}}',
            Head("m", stream=True),
            id="half pairs in names",
        ),
        pytest.param(b'{"model":"m","stream":false}', Head("m"), id="no stream"),
        pytest.param(b'{"model":"m","stream":null}', Head("m"), id="null is no stream"),
        pytest.param(
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
            Head("m", stream=True),
            id="a stream with usage",
        ),
        pytest.param(
            b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}',
            Head("m", stream=True, wants_usage=False),
            id="a stream that wants no usage",
        ),
        pytest.param(
            b'{"model":"m","stream":true,"stream_options":null}',
            Head("m", stream=True, wants_usage=False),
            id="no options for the stream",
        ),
        pytest.param(
            b'{"model":"m","stream":true,"stream_options":"usage"}',
            Head("m", stream=True, wants_usage=False),
            id="options that are none",
        ),
        pytest.param(
            b'{"model":"m","max_tokens":5}', Head("m", max_tokens=5), id="a limit of tokens"
        ),
        pytest.param(
            b'{"model":"m","max_tokens":5,"max_completion_tokens":6}',
            Head("m", max_tokens=6),
            id="the newer name of the limit",
        ),
        pytest.param(b'{"model":"m","max_tokens":"many"}', Head("m"), id="a limit that is none"),
        pytest.param(b'{"model":"m","max_tokens":1e999}', Head("m"), id="a limit beyond numbers"),
        pytest.param(b'{"model":"m","max_tokens":-5}', Head("m"), id="a limit below nothing"),
        pytest.param(b'{"model":"m","store":true}', Head("m", kind=Kind.STATEFUL), id="stored"),
        pytest.param(b'{"model":"m","store":false}', Head("m"), id="not stored"),
        pytest.param(b'{"model":"m","store":"yes"}', Head("m"), id="stored, for another API"),
        pytest.param(b'{"model":"m","x":"\xff"}', Head("m"), id="odd text elsewhere"),
        pytest.param(b'{"model":"a","model":"m"}', Head("m"), id="the last of two models"),
        pytest.param(b' \n{"mod\\u0065l" : "m" } ', Head("m"), id="escapes and spaces"),
    ],
)
def test_the_head_of_a_request(body: bytes, expected: Head) -> None:
    """Only what the gateway has to know; the rest is between client and upstream."""
    assert read_head(body) == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param(b"", "ends too early", id="nothing"),
        pytest.param(b"nope", "not valid JSON", id="a bare word"),
        pytest.param(b"{", "not valid JSON", id="half an object"),
        pytest.param(b'{"model":"m"} x', "not valid JSON", id="something behind it"),
        pytest.param(b'{"model":"\xff"}', "not valid JSON", id="no text"),
        pytest.param(b"[]", "Expected 'object', got 'array'", id="a list"),
        pytest.param(b'"model"', "Expected 'object', got 'str'", id="a word"),
        pytest.param(b"{}", "missing required field 'model'", id="no model"),
        pytest.param(b'{"model":5}', "model: Expected 'str', got 'int'", id="a number of a model"),
        pytest.param(
            b'{"model":"m","stream":"true"}',
            "stream: Expected 'bool | null', got 'str'",
            id="a word for a yes",
        ),
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
    ("body", "expected"),
    [
        pytest.param(
            b'{"model":"m"}',
            b'{"stream_options":{"include_usage":true},"model":"m"}',
            id="no options yet",
        ),
        pytest.param(
            b'{"stream_options":{},"model":"m"}',
            b'{"stream_options":{"include_usage":true},"model":"m"}',
            id="empty options",
        ),
        pytest.param(
            b'{"stream_options":{"x": 1}}',
            b'{"stream_options":{"include_usage":true,"x": 1}}',
            id="other options stay",
        ),
        pytest.param(
            b'{"stream_options":{"include_usage":false, "x":1}}',
            b'{"stream_options":{"include_usage":true, "x":1}}',
            id="a no becomes a yes",
        ),
        pytest.param(
            b'{"stream_options":null}',
            b'{"stream_options":{"include_usage":true}}',
            id="null is replaced",
        ),
        pytest.param(
            b'{"stream_options":{"a":1},"stream_options":{"b":2}}',
            b'{"stream_options":{"include_usage":true,"b":2},'
            b'"stream_options":{"include_usage":true,"b":2}}',
            id="of two the last counts",
        ),
    ],
)
def test_asking_for_usage(body: bytes, expected: bytes) -> None:
    """One option is set, whatever was there; no other byte changes."""
    assert asking_for_usage(body) == expected


@given(bodies())
def test_asking_for_usage_keeps_everything_else(body: Body) -> None:
    """Whatever the request looks like."""
    asked = asking_for_usage(body.text())
    pairs = json.loads(asked, object_pairs_hook=list)
    before = json.loads(body.text(), object_pairs_hook=list)
    options = dict(json.loads(asked))["stream_options"]

    assert options["include_usage"] is True
    assert [pair for pair in pairs if pair[0] != "stream_options"] == [
        pair for pair in before if pair[0] != "stream_options"
    ]


# -- answers ---------------------------------------------------------------------------------------
def _answer(usage: str) -> bytes:
    return b'{"id":"x","choices":[{"message":{"content":"hi"}}],"usage":%s}' % usage.encode()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(
            '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}',
            Usage(10, 5),
            id="prompt and completion",
        ),
        pytest.param(
            '{"prompt_tokens":1000,"completion_tokens":5,'
            '"prompt_tokens_details":{"cached_tokens":600,"cache_write_tokens":100}}',
            Usage(300, 5, 600, 100),
            id="the cache is part of the prompt",
        ),
        pytest.param(
            '{"prompt_tokens":1000,"completion_tokens":5,"cache_read_input_tokens":600,'
            '"cache_creation_input_tokens":100}',
            Usage(300, 5, 600, 100),
            id="the cache in the other format's words",
        ),
        pytest.param(
            '{"prompt_tokens":100,"completion_tokens":5,'
            '"prompt_tokens_details":{"cached_tokens":60,"cache_creation_tokens":10},'
            '"cache_read_input_tokens":60,"cache_creation_input_tokens":10}',
            Usage(30, 5, 60, 10),
            id="the cache told twice counts once",
        ),
        pytest.param(
            '{"prompt_tokens":100,"completion_tokens":5,"prompt_cache_hit_tokens":64,'
            '"prompt_cache_miss_tokens":36}',
            Usage(36, 5, 64),
            id="hits and misses",
        ),
        pytest.param(
            '{"prompt_tokens":10,"completion_tokens":5,'
            '"prompt_tokens_details":{"cached_tokens":600}}',
            Usage(10, 5, 600),
            id="more cache than prompt: the prompt is beside it",
        ),
        pytest.param(
            '{"prompt_tokens":10,"completion_tokens":50,'
            '"completion_tokens_details":{"reasoning_tokens":30}}',
            Usage(10, 50, reasoning=30),
            id="thinking is part of the completion",
        ),
        pytest.param(
            '{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":null,'
            '"completion_tokens_details":null,"cost":0.1}',
            Usage(10, 5),
            id="no details, and extras",
        ),
        pytest.param(
            '{"prompt_tokens":-10,"completion_tokens":5}', Usage(0, 5), id="a negative figure"
        ),
        pytest.param(
            '{"prompt_tokens":"10","completion_tokens":5}', Usage(0, 5), id="a figure in words"
        ),
        pytest.param(
            '{"prompt_tokens":10.9,"completion_tokens":true}', Usage(10), id="a part and a yes"
        ),
        pytest.param(
            '{"prompt_tokens":1e12,"completion_tokens":1e13}',
            Usage(10**12),
            id="more tokens than exist",
        ),
        pytest.param('{"completion_tokens":5}', Usage(0, 5), id="no prompt"),
        pytest.param("null", None, id="null"),
        pytest.param("{}", None, id="nothing in it"),
        pytest.param('{"prompt_tokens":0,"completion_tokens":0}', None, id="zero for everything"),
        pytest.param("[]", None, id="a list"),
        pytest.param('{"prompt_tokens":1e999}', None, id="a number nobody can hold"),
        pytest.param('{"prompt_tokens_details":7}', None, id="a detail that is none"),
    ],
)
def test_the_usage_of_an_answer(usage: str, expected: Usage | None) -> None:
    """By class, never negative, never absurd; None where it has to be estimated."""
    assert read_usage(_answer(usage)) == expected


def test_an_answer_without_usage_has_none() -> None:
    """Not zero: unknown."""
    assert read_usage(b'{"choices":[]}') is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"choices":[],"usage":{"prompt_tokens":1', id="cut"),
        pytest.param(b"<html>", id="a page"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"usage":{"prompt_tokens":NaN}}', id="what is no number"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(body: bytes) -> None:
    """So that nobody takes it for a success."""
    with pytest.raises(ValueError, match=r".+"):
        read_usage(body)


# -- streams ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param('{"choices":[],"usage":{"prompt_tokens":1}}', True, id="usage and no choices"),
        pytest.param('{"usage" : {"prompt_tokens":1}}', True, id="no choices at all"),
        pytest.param('{"choices":[{"delta":{}}],"usage":{"x":1}}', False, id="usage and a choice"),
        pytest.param('{"choices":[],"usage":null}', False, id="usage that is null"),
        pytest.param('{"choices":[],"prompt_filter_results":[]}', False, id="no usage"),
        pytest.param('{"choices":[{"delta":{"content":"\\"usage\\": {"}}]}', False, id="words"),
        pytest.param('{"choices":[],"usage":{"x":1}', False, id="cut JSON"),
        pytest.param("[DONE]", False, id="the end"),
    ],
)
def test_the_chunk_that_only_the_question_brought(data: str, *, expected: bool) -> None:
    """It is kept from a client that did not ask; no other chunk is."""
    assert is_extra_usage(Event(b"", data.encode())) is expected


def _delta(delta: str, more: str = "") -> bytes:
    return b'{"choices":[{"index":0,"delta":%s%s}]}' % (delta.encode(), more.encode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", PREAMBLE, id="a comment"),
        pytest.param(_delta('{"role":"assistant","content":""}'), PREAMBLE, id="a role"),
        pytest.param(_delta('{"content":null}'), PREAMBLE, id="null"),
        pytest.param(b'{"choices":[]}', PREAMBLE, id="no choice"),
        pytest.param(b'{"choices":[{"index":0}]}', PREAMBLE, id="no delta"),
        pytest.param(b"no json", PREAMBLE, id="what nobody can read"),
        pytest.param(b'{"choices":[],"error":null}', PREAMBLE, id="an error that is null"),
        pytest.param(
            _delta('{"content":"gr\xfc\xdf"}'),
            Opening(Significance.PAYLOAD, 6),
            id="text, measured in bytes",
        ),
        pytest.param(
            _delta('{"reasoning_content":"hm","content":""}'),
            Opening(Significance.PAYLOAD, 2),
            id="thinking",
        ),
        pytest.param(
            _delta('{"reasoning":"hmm"}'), Opening(Significance.PAYLOAD, 3), id="other thinking"
        ),
        pytest.param(_delta('{"refusal":"no"}'), Opening(Significance.PAYLOAD, 2), id="a refusal"),
        pytest.param(_delta('{"tool_calls":[{"index":0}]}'), PAYLOAD, id="a tool"),
        pytest.param(_delta('{"function_call":{"name":"f"}}'), PAYLOAD, id="an old tool"),
        pytest.param(_delta("{}", ',"finish_reason":"stop"'), PAYLOAD, id="an end"),
        pytest.param(_delta("{}", ',"finish_reason":null'), PREAMBLE, id="no end yet"),
        pytest.param(b'{"choices":[],"usage":{"prompt_tokens":1}}', PAYLOAD, id="usage"),
        pytest.param(b"[DONE]", PAYLOAD, id="the end marker"),
        pytest.param(b'{"error":{"message":"x"}}', ERROR, id="an error"),
        pytest.param(b'{"error":"x"}', ERROR, id="an error in a word"),
        pytest.param(b'{"type":"error","error":{"type":"x"}}', ERROR, id="the other format's"),
    ],
)
def test_what_an_early_chunk_is_worth(data: bytes, expected: Opening) -> None:
    """Up to the first word of the model everything can still be taken back."""
    assert opening(Event(b"", data)) == expected


# -- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        pytest.param(faults.BadRequest(problem="x"), 400, "invalid_request_error", id="400"),
        pytest.param(faults.NotRecognised(problem="x"), 401, "authentication_error", id="401"),
        pytest.param(faults.NotAllowed(model="m"), 403, "permission_error", id="403"),
        pytest.param(faults.UnknownModel(model="m"), 404, "invalid_request_error", id="404"),
        pytest.param(faults.BodyLate(seconds="5"), 408, "timeout", id="408"),
        pytest.param(faults.RequestTooLarge(limit=1), 413, "invalid_request_error", id="413"),
        pytest.param(faults.AllThrottled(model="m"), 429, "rate_limit_error", id="429"),
        pytest.param(faults.Internal(request_id="r"), 500, "server_error", id="500"),
        pytest.param(faults.NoneReady(model="m"), 503, "server_error", id="503"),
    ],
)
def test_a_refusal_in_this_format(fault: Fault, status: int, kind: str) -> None:
    """The shape that the official SDK makes an exception of, with a code that stays."""
    told = json.loads(error_body(fault, "req"))

    assert FORMAT.status_of(fault) == status
    assert told == {
        "error": {"message": fault.message, "type": kind, "param": None, "code": fault.code}
    }


def test_a_stream_that_failed_ends_with_an_error() -> None:
    """And without the end marker, so that nobody takes it for a whole answer."""
    event = error_event(faults.StreamBroken(how="it was cut"), "req")

    assert event.endswith(b"\n\n")
    assert b"[DONE]" not in event
    assert json.loads(parse(event).data)["error"]["code"] == "stream_broken"
