"""A request target says whom to play and what is wanted."""

import pytest

from keymux.core.vocabulary import WireFormat
from keymux.sandbox.asked import Endpoint, Place, place_of, read_asked

OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(
            "/v1/chat/completions",
            Place("openhands", Endpoint.GENERATE, OPENAI),
            id="without a prefix the first dialect is played",
        ),
        pytest.param(
            "/ohmygpt/v1/chat/completions",
            Place("ohmygpt", Endpoint.GENERATE, OPENAI),
            id="the first segment names the dialect",
        ),
        pytest.param(
            "/ohmygpt/api/v1/ai/openai/cc-omg/v1/messages?beta=true",
            Place("ohmygpt", Endpoint.GENERATE, ANTHROPIC),
            id="any path may stand between dialect and endpoint, any query behind",
        ),
        pytest.param(
            "/api/v1/messages/count_tokens",
            Place("openhands", Endpoint.COUNT_TOKENS, ANTHROPIC),
            id="counting tokens is an endpoint of its own",
        ),
        pytest.param(
            "/openhands/v1/models",
            Place("openhands", Endpoint.MODELS, OPENAI),
            id="the list of models names no model",
        ),
        pytest.param(
            "/openhands/v1/models/anthropic%2Fclaude/x",
            Place("openhands", Endpoint.MODELS, OPENAI, "anthropic/claude/x"),
            id="a model's name may hold slashes",
        ),
        pytest.param(
            "/ohmygpt/elsewhere",
            Place("ohmygpt", Endpoint.OTHER),
            id="an unknown path still names its dialect",
        ),
        pytest.param(
            "/ohmygptx/v1/messages",
            Place("openhands", Endpoint.GENERATE, ANTHROPIC),
            id="a segment that only begins like a dialect is none",
        ),
    ],
)
def test_place_of(target: str, expected: Place) -> None:
    """Dialect and endpoint are read from the path alone."""
    assert place_of(target, ()) == expected


def test_models_are_told_in_the_format_of_the_asking_sdk() -> None:
    """The Anthropic SDK is known by its version header."""
    place = place_of("/v1/models", (("Anthropic-Version", "2023-06-01"),))

    assert place.format is ANTHROPIC


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([(b"Authorization", b"Bearer k1")], "k1", id="a bearer token is a key"),
        pytest.param([(b"X-Api-Key", b"k2")], "k2", id="so is x-api-key"),
        pytest.param([(b"Authorization", b"Basic k3")], "", id="another scheme is none"),
        pytest.param([], "", id="no header, no key"),
    ],
)
def test_key(headers: list[tuple[bytes, bytes]], expected: str) -> None:
    """The key is found wherever an SDK puts it."""
    assert read_asked("POST", "/v1/messages", headers, "1.1").key == expected


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        pytest.param([], "1.1", (False, True), id="HTTP/1.1 stays and takes chunks"),
        pytest.param([(b"Connection", b"Close")], "1.1", (True, True), id="unless asked to close"),
        pytest.param([], "1.0", (True, False), id="HTTP/1.0 does neither"),
    ],
)
def test_connection(
    headers: list[tuple[bytes, bytes]], version: str, expected: tuple[bool, bool]
) -> None:
    """Whether the connection ends with the answer is read from the head."""
    asked = read_asked("GET", "/v1/models", headers, version)

    assert (asked.closing, asked.can_chunk) == expected
