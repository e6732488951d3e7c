"""The nouns and what can be done with them."""

from hypothesis import given
from hypothesis import strategies as st

from keymux.core.vocabulary import Kind, Usage, WireFormat

tokens = st.integers(0, 10**12)
usages = st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens)


def test_a_word_is_the_text_it_stands_for() -> None:
    """As a key of a mapping and in a message."""
    assert {Kind.GENERATION: 1}["generation"] == 1  # type: ignore[index]  # -- that is the point
    assert f"{WireFormat.OPENAI}" == "openai"
    assert hash(WireFormat.OPENAI) == hash("openai")


def test_all_tokens_count_against_an_allowance() -> None:
    """Thinking does not count twice, for it is part of the output."""
    assert Usage(1, 20, 300, 4000, 50_000, 600_000).total == 54_321


@given(usages, usages)
def test_usage_is_added_class_by_class(one: Usage, other: Usage) -> None:
    """In any order."""
    both = one.plus(other)

    assert both == other.plus(one)
    assert both.total == one.total + other.total
    assert both.cache_write_1h == one.cache_write_1h + other.cache_write_1h
    assert both.reasoning == one.reasoning + other.reasoning


def test_each_class_is_added_to_its_own() -> None:
    """No two of them are mixed up."""
    assert Usage(1, 2, 3, 4, 5, 6).plus(Usage(10, 20, 30, 40, 50, 60)) == Usage(
        11, 22, 33, 44, 55, 66
    )
