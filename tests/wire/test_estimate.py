"""Tokens guessed where nobody counted them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.wire.estimate import TOKENS_PER_IMAGE, prompt_tokens, tokens_of
from tests.wire.json_text import Body, bodies


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(0, 0, id="nothing"),
        pytest.param(1, 1, id="a letter"),
        pytest.param(4, 1, id="four letters"),
        pytest.param(5, 2, id="five letters"),
    ],
)
def test_four_bytes_are_a_token(size: int, expected: int) -> None:
    """Rounded up."""
    assert tokens_of(size) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("{}", 1, id="never nothing"),
        pytest.param('{"messages":[{"role":"user","content":"12345678"}]}', 1 + 2, id="a message"),
        pytest.param('{"system":"12345678","messages":[]}', 2, id="the system's words"),
        pytest.param(
            '{"model":"claude","stream":true,"metadata":{"user_id":"x"}}', 1, id="no text"
        ),
        pytest.param('{"x":[1,2.5,null,true]}', 1, id="numbers are not words"),
        pytest.param('{"x":"grüße"}', 2, id="bytes, not letters"),
        pytest.param(
            '{"content":[{"type":"image","source":{"type":"base64","data":"%s"}}]}' % ("A" * 9999),
            TOKENS_PER_IMAGE,
            id="an image",
        ),
        pytest.param(
            '{"content":[{"type":"image_url","image_url":{"url":"data:%s"}}]}' % ("A" * 9999),
            TOKENS_PER_IMAGE,
            id="an image in the other format",
        ),
        pytest.param(
            '{"content":[{"type":"document","source":{"type":"text","data":"%s"}}]}' % ("a" * 4000),
            2 + 1 + 1000,
            id="a document that is text",
        ),
        pytest.param(
            '{"type":"thinking","thinking":"12345678","signature":"%s"}' % ("A" * 9999),
            2 + 2,
            id="a signature is no text",
        ),
        pytest.param(
            '{"input_schema":{"properties":{"type":{"type":"string"},"source":{"type":"text"}}}}',
            2 + 1,
            id="a tool with a parameter called type",
        ),
        pytest.param('{"type":["image"]}', 2, id="a type that is a list"),
        pytest.param(
            '{"text":"\\ud800","a":{"type":"image","data":"%s"}}' % ("A" * 9999),
            1 + TOKENS_PER_IMAGE,
            id="half a surrogate pair beside an image",
        ),
    ],
)
def test_the_tokens_of_a_request(body: str, expected: int) -> None:
    """What the model reads counts, an image counts a fixed number."""
    assert prompt_tokens(body.encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"x" * 4000, id="no JSON"),
        pytest.param(b'{"a":"\\ud800' + b"x" * 3988, id="half a letter"),
        pytest.param(b"[" * 4000, id="a tower of brackets"),
        pytest.param(b'{"a":"\xff' + b"x" * 3993, id="no text"),
    ],
)
def test_what_cannot_be_read_is_measured(body: bytes) -> None:
    """An estimate is better than none."""
    assert 990 <= prompt_tokens(body) <= 1000


@given(bodies())
def test_there_is_an_estimate_for_every_request(body: Body) -> None:
    """At least one token, whatever the shape."""
    assert prompt_tokens(body.text()) >= 1


@given(st.binary(max_size=300))
def test_there_is_an_estimate_for_any_bytes(body: bytes) -> None:
    """Nothing makes it fail."""
    assert prompt_tokens(body) >= 1
