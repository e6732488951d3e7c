"""What is special about the API of Anthropic."""

from keymux.core.vocabulary import WireFormat
from keymux.providers.anthropic import provider


def test_the_key_travels_in_a_header_of_its_own() -> None:
    """It is no bearer."""
    assert provider.sign("sk-1", WireFormat.ANTHROPIC) == (("x-api-key", "sk-1"),)


def test_the_other_format_is_not_spoken() -> None:
    """A target of this kind serves Messages only."""
    assert provider.speaks(WireFormat.ANTHROPIC)
    assert not provider.speaks(WireFormat.OPENAI)
