"""Half surrogate pairs are read over, and nothing else that is wrong is."""

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.wire.surrogates import tolerant, without_halves

PIECES = [
    r"\ud800",
    r"\uDBFF",
    r"\udc00",
    r"\uDfFf",
    r"\ud83d\ude00",
    r"\\",
    r"\"",
    r"\n",
    r"\u0041",
    r"\uFFFD",
    "ud800",
    "é",
    "🌊",
    "\x7f",
]

read = tolerant(msgspec.json.Decoder().decode)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(r'"\ud800"', "�", id="a high half at the end"),
        pytest.param(r'"\udc00"', "�", id="a low half"),
        pytest.param(r'"\uD83D!"', "�!", id="a high half in capitals before text"),
        pytest.param(r'"\ud83d\u0041"', "�A", id="a high half before another escape"),
        pytest.param(r'"\udc00\ud800"', "��", id="both halves the wrong way round"),
        pytest.param(r'"\ud83d\ud83d\ude00"', "�😀", id="a half before a pair"),
        pytest.param(r'"\ud83d\ude00\ude00"', "😀�", id="a half after a pair"),
        pytest.param(r'"\\ud800\udc00"', "\\ud800�", id="an escaped backslash before the letters"),
        pytest.param(r'"\\\ud800"', "\\�", id="an escaped backslash before the escape"),
        pytest.param(r'{"\ud800":["\udfff"]}', {"�": ["�"]}, id="in a name and deeper down"),
    ],
)
def test_a_half_is_read_as_a_letter_that_is_missing(text: str, expected: object) -> None:
    """Where a pair is whole it stays; what only looks like an escape stays too."""
    assert read(text.encode()) == expected


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_stands_around_the_halves_is_read_as_ever(pieces: list[str]) -> None:
    """The standard library, which minds no halves, reads the same text."""
    text = '"' + "".join(pieces) + '"'
    expected = json.loads(text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    assert read(text.encode()) == expected


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_positions_stay_where_they_are(pieces: list[str]) -> None:
    """The copy is as long as the text."""
    text = ('"' + "".join(pieces) + '"').encode()

    assert len(without_halves(text)) == len(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(rb'"\ud800', id="a text that ends too early"),
        pytest.param(rb'"\ud8"', id="an escape that ends too early"),
        pytest.param(rb'"\ud800\x"', id="another escape that is none"),
        pytest.param(b'"\\ud800 \xff\xff"', id="bytes that are no text"),
        pytest.param(b'"\xff\xff"', id="such bytes alone"),
        pytest.param(rb"\ud800", id="an escape outside of a string"),
        pytest.param(b"nonsense", id="no half at all"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_else_is_wrong_stays_wrong(text: bytes) -> None:
    """The second reading is as strict as the first."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        read(text)


def test_a_wrong_type_is_told_as_such() -> None:
    """A decoder that wants something else says so, half pairs or not."""
    wants_number = tolerant(msgspec.json.Decoder(int).decode)

    with pytest.raises(msgspec.ValidationError):
        wants_number(rb'"\ud800"')


def test_what_is_sound_is_not_copied() -> None:
    """Without halves there is nothing to do."""
    text = rb'{"a":"\ud83d\ude00 \\ud800 \n"}'

    assert without_halves(text) == text
    assert without_halves(b"[]") == b"[]"


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(rb"\ud800", id="halves"),
        pytest.param(rb"\\", id="backslashes"),
        pytest.param(rb"\n", id="other escapes"),
        pytest.param(rb"\ud83d\ude00", id="pairs"),
    ],
)
def test_a_hostile_body_costs_little(piece: bytes) -> None:
    """Four megabytes of the worst there is are read within a second."""
    text = b'"\\ud800' + piece * (4 * 2**20 // len(piece)) + b'"'
    begun = time.process_time()
    read(text)
    took = time.process_time() - begun

    assert took < 1.0
