"""What the formats share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from keymux.core.faults import BadRequest, NoneReady
from keymux.core.vocabulary import Usage
from keymux.wire import anthropic_messages, openai_chat
from keymux.wire.formats import Format, Head, lenient, whole_number, with_prompt
from keymux.wire.sse import Event

FORMATS = [
    pytest.param(openai_chat.FORMAT, id="OpenAI"),
    pytest.param(anthropic_messages.FORMAT, id="Anthropic"),
]
STEERING = [
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    "custom_llm_provider",
    "deployment_id",
    "extra_body",
    "extra_headers",
    "extra_query",
    "model_list",
    "user_config",
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(5, 5, id="a count"),
        pytest.param(5.9, 5, id="a part of one"),
        pytest.param(0, 0, id="zero"),
        pytest.param(10**12, 10**12, id="as many as there can be"),
        pytest.param(10**12 + 1, 0, id="more than there can be"),
        pytest.param(-1, 0, id="less than nothing"),
        pytest.param(-0.5, 0, id="a part less than nothing"),
        pytest.param(float("nan"), 0, id="what is no number"),
        pytest.param(float("inf"), 0, id="without end"),
        pytest.param(True, 0, id="a yes"),
        pytest.param("5", 0, id="a word"),
        pytest.param(None, 0, id="nothing"),
        pytest.param([5], 0, id="a list"),
    ],
)
def test_a_count_from_outside(value: object, expected: int) -> None:
    """Never negative, never absurd, always whole."""
    assert whole_number(value) == expected


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.lists(st.integers())))
def test_no_value_can_make_a_bill_negative(value: object) -> None:
    """Or larger than anybody could pay."""
    assert 0 <= whole_number(value) <= 10**12


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"5", 5, id="a number"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b'"x"', "x", id="a word"),
        pytest.param(b"1e999", None, id="a number nobody can hold"),
        pytest.param(b"[" * 100_000, None, id="a tower of brackets"),
        pytest.param(b'"\xff"', None, id="no text"),
    ],
)
def test_a_field_of_which_the_type_is_not_our_business(raw: bytes, expected: object) -> None:
    """It is read if it can be, and is nothing otherwise."""
    assert lenient(Raw(raw)) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(Usage(output=5), Usage(7, 5), id="no prompt"),
        pytest.param(Usage(input=3, output=5), Usage(3, 5), id="a prompt"),
        pytest.param(Usage(cache_read=3), Usage(cache_read=3), id="a prompt from the cache"),
        pytest.param(Usage(cache_write_1h=3), Usage(cache_write_1h=3), id="one into the cache"),
    ],
)
def test_no_prompt_is_empty(usage: Usage, expected: Usage) -> None:
    """An upstream that names none has forgotten it."""
    assert with_prompt(usage, 7) == expected


def test_a_format_may_use_another_status() -> None:
    """Overload has a status of its own in one of them."""
    fault = NoneReady(model="m")

    assert openai_chat.FORMAT.status_of(fault) == 503
    assert anthropic_messages.FORMAT.status_of(fault) == 529


# -- who decides where a request goes --------------------------------------------------------------
@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("name", STEERING)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"NAME":"x","model":"m"}', id="text, in front"),
        pytest.param('{"model":"m","NAME":{"a":[1]}}', id="an object, at the end"),
        pytest.param('{"model":"m","NAME":false}', id="a no"),
        pytest.param('{"model":"m","NAME":null,"NAME":""}', id="hidden behind a null"),
        pytest.param('{"model":"m","NAME":"","NAME":null}', id="hidden before a null"),
        pytest.param('{"x":"\\ud800","NAME":1,"model":"m"}', id="beside half a surrogate pair"),
    ],
)
def test_no_client_chooses_where_its_request_goes(wire: Format, name: str, body: str) -> None:
    """Fields that steer other gateways are refused by name, since the next server may know them."""
    with pytest.raises(BadRequest) as caught:
        wire.read_head(body.replace("NAME", name).encode())

    assert caught.value.message == (
        f"{name}: the operator decides this; send the request without this field."
    )


@pytest.mark.parametrize("wire", FORMATS)
def test_no_spelling_hides_such_a_field(wire: Format) -> None:
    """Escapes in a name are read."""
    with pytest.raises(BadRequest, match="base_url: the operator decides"):
        wire.read_head(rb'{"model":"m","b\u0061se_\u0075rl":"http://elsewhere"}')


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("name", STEERING)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"model":"m","NAME":null}', id="null decides nothing"),
        pytest.param('{"model":"m","tools":[{"NAME":"x"}]}', id="deeper down it is the model's"),
        pytest.param('{"model":"m","xNAME":1,"NAME_":2}', id="names that are only like it"),
        pytest.param('{"model":"m","user":"NAME"}', id="the name as a value"),
    ],
)
def test_other_fields_are_not_our_business(wire: Format, name: str, body: str) -> None:
    """Only the names themselves count, at the top."""
    assert wire.read_head(body.replace("NAME", name).encode()) == Head("m")


# -- half surrogate pairs --------------------------------------------------------------------------
def test_an_openai_answer_with_half_a_pair_is_booked() -> None:
    """The usage counts, whole answer or stream, and the text is text."""
    wire = openai_chat.FORMAT
    told = b'"usage":{"prompt_tokens":3,"completion_tokens":2}'
    words = b'"choices":[{"delta":{"content":"\\ud83d"}}]'
    meter = wire.meter()
    meter.note(b"data: {" + words + b"," + told + b"}\n\n")

    assert wire.read_usage(b'{"a":"\\ud800",' + told + b"}") == Usage(input=3, output=2)
    assert meter.usage == Usage(input=3, output=2)
    assert wire.opening(Event(b"", b"{" + words + b"}")).text_bytes == len("\ufffd".encode())
    assert wire.is_extra_usage(Event(b"", b'{"id":"\\ud800","choices":[],' + told + b"}"))


def test_an_anthropic_answer_with_half_a_pair_is_booked() -> None:
    """The usage counts, whole answer or stream, and the text is text."""
    wire = anthropic_messages.FORMAT
    told = b'"usage":{"input_tokens":3,"output_tokens":2}'
    delta = b'{"type":"content_block_delta","delta":{"text":"\\ud83d"}}'
    meter = wire.meter()
    meter.note(b'event: message_delta\ndata: {"a":"\\udc00",' + told + b"}\n\n")

    assert wire.read_usage(b'{"a":"\\ud800",' + told + b"}") == Usage(input=3, output=2)
    assert meter.usage == Usage(input=3, output=2)
    assert wire.opening(Event(b"content_block_delta", delta)).text_bytes == len("\ufffd".encode())
