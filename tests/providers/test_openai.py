"""What is special about the API of OpenAI."""

from keymux.core.vocabulary import WireFormat
from keymux.providers.openai import provider


def test_the_other_format_is_not_spoken() -> None:
    """A target of this kind serves Chat Completions only."""
    assert provider.speaks(WireFormat.OPENAI)
    assert not provider.speaks(WireFormat.ANTHROPIC)
