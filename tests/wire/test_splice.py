"""One value changes, and no other byte."""

import json
import time
import tracemalloc

import pytest
from hypothesis import assume, given

from keymux.wire.splice import Field, fields, may_repeat, with_field, with_string
from tests.wire.json_text import Body, bodies, strings

NEW = b'"claude-sonnet"'


@given(bodies())
def test_every_field_of_the_name_gets_the_value_and_nothing_else_changes(body: Body) -> None:
    """Duplicates, escapes, odd spacing, huge numbers, nested fields of the same name."""
    assume(body.has("model"))

    assert with_field(body.text(), "model", NEW) == body.text("model", NEW.decode())


@given(bodies(strings()))
def test_a_string_is_replaced_by_the_short_way_as_by_the_long(body: Body) -> None:
    """The look-out for duplicates and escapes never misses one."""
    assume(body.has("model"))

    assert with_string(body.text(), "model", NEW) == body.text("model", NEW.decode())


@given(bodies())
def test_a_field_that_is_missing_is_put_in_front(body: Body) -> None:
    """The rest stays as it came, behind it."""
    assume(not body.has("model"))
    text = body.text()
    opening = text.index(b"{") + 1
    changed = with_field(text, "model", NEW)
    added = changed[opening : len(changed) - (len(text) - opening)]

    assert (changed[:opening], changed[opening + len(added) :]) == (text[:opening], text[opening:])
    assert added == b'"model":' + NEW + b"," * bool(body.fields)
    assert json.loads(changed)["model"] == json.loads(NEW)


@given(bodies())
def test_fields_are_found_where_they_stand(body: Body) -> None:
    """In order, each with its name and the exact text of its value."""
    text = body.text()
    found = [(field.name, text[field.start : field.end].decode()) for field in fields(text)]

    assert found == [(json.loads(key), value) for _, key, _, value in body.fields]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b'{"a":1}', False, id="another field"),
        pytest.param(b'{"model":"x"}', False, id="once"),
        pytest.param(b'{"model":"x","model":"y"}', True, id="twice"),
        pytest.param(b'{"model":"x","tool":{"model":1}}', True, id="once more inside"),
        pytest.param(b'{"a":"model","model":"x"}', True, id="as a value"),
        pytest.param(b'{"m\\u006fdel":"x"}', True, id="spelled with an escape"),
        pytest.param(b'{"model":"caf\\u00e9 \\u2713"}', False, id="escapes of no plain letter"),
    ],
)
def test_the_look_out_for_repetition(text: bytes, *, expected: bool) -> None:
    """It may be too careful, but never too careless."""
    assert may_repeat(text, "model") is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b'{"model":"a\\"b"}', b'{"model":"m"}', id="an escaped quote in the value"),
        pytest.param(b'{"model" : "a" }', b'{"model" : "m" }', id="spaces around the colon"),
        pytest.param(
            b'{"tools":[{"model":"a"}],"model":"b"}',
            b'{"tools":[{"model":"a"}],"model":"m"}',
            id="a tool with a model",
        ),
        pytest.param(
            b'{"model":"a","messages":[{"content":"\\"model\\":\\"z\\""}]}',
            b'{"model":"m","messages":[{"content":"\\"model\\":\\"z\\""}]}',
            id="words about a model",
        ),
        pytest.param(
            b'{"model":"a","model":"ab","model":"a"}',
            b'{"model":"m","model":"m","model":"m"}',
            id="three of them",
        ),
        pytest.param(
            b'{"model":"a","\\ud800":1,"model":"b"}',
            b'{"model":"m","\\ud800":1,"model":"m"}',
            id="a name that is half a letter",
        ),
        pytest.param(
            b'{"model":"a","\xff":1,"model":"b"}',
            b'{"model":"m","\xff":1,"model":"m"}',
            id="a name that is no text",
        ),
        pytest.param(
            b'{"model":"a","mod\\u0065l":"b","\\ud800":[1,{"model":"c"},"]"]}',
            b'{"model":"m","mod\\u0065l":"m","\\ud800":[1,{"model":"c"},"]"]}',
            id="an escape, half a letter and brackets in text",
        ),
    ],
)
def test_a_string_is_replaced(text: bytes, expected: bytes) -> None:
    """The bodies that clients and attackers send."""
    assert with_string(text, "model", b'"m"') == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"{}", b'{"a":1}', id="an empty object"),
        pytest.param(b" { } ", b' {"a":1 } ', id="an empty object with spaces"),
        pytest.param(b'{"b":2}', b'{"a":1,"b":2}', id="an object with another field"),
        pytest.param(b'{"a":[[],{}]}', b'{"a":1}', id="brackets"),
        pytest.param(b'{"a":null,"b":2}', b'{"a":1,"b":2}', id="null"),
        pytest.param(b'{"b":{"a":2}}', b'{"a":1,"b":{"a":2}}', id="the name inside only"),
    ],
)
def test_a_field_is_set(text: bytes, expected: bytes) -> None:
    """Replaced if it is there, in front of the others if not."""
    assert with_field(text, "a", b"1") == expected


def test_a_body_that_is_broken_is_read_to_its_end() -> None:
    """Whoever calls has checked it, but nothing here runs for ever."""
    assert fields(b'{"a":[1') == (Field("a", 5, 7),)
    assert fields(b'{"a":}') == (Field("a", 5, 5),)


HOSTILE = [
    pytest.param(b'{"model":"a","x":"' + b"y" * 10**7 + b'","model":"b"}', id="a long string"),
    pytest.param(
        b'{"model":"a","x":"' + b"\\n" * 10**6 + b'","model":"b"}', id="a million escapes"
    ),
    pytest.param(b"{" + b'"model":"a",' * 10**5 + b'"x":1}', id="a hundred thousand models"),
    pytest.param(
        b'{"\\ud800":' + b"[" * 10**5 + b"]" * 10**5 + b',"model":"a","model":"b"}',
        id="a tower of brackets",
    ),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_body_takes_no_more_than_a_moment(text: bytes) -> None:
    """The time grows with its size, whatever its shape."""
    before = time.process_time()
    with_string(text, "model", NEW)

    assert time.process_time() - before < 3


@pytest.mark.parametrize("text", HOSTILE[:2])
def test_a_hostile_body_takes_little_memory(text: bytes) -> None:
    """A few times its size, where a pattern that can step back would take a hundred times."""
    tracemalloc.start()
    try:
        with_string(text, "model", NEW)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 4 * len(text) + 100_000
