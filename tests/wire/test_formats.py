"""What the formats share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from keymux.core.faults import NoneReady
from keymux.core.vocabulary import Usage
from keymux.wire import anthropic_messages, openai_chat
from keymux.wire.formats import lenient, whole_number, with_prompt


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
