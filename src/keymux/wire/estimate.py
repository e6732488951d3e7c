"""Tokens guessed from bytes, where nobody counted them for us.

The tokenizers of the served models are not public. Four bytes of text to a token is what English
prose and code come to on average; it is a guess, and every figure made with it is marked so.
"""

import msgspec

from keymux.wire.surrogates import tolerant

BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1_600

_IMAGE_TYPES = frozenset({"image", "image_url", "input_image", "document", "file"})
_TEXT_SOURCES = frozenset({"text", "content"})
_NOT_PROMPT = frozenset({"model", "metadata", "stream", "signature"})

_decode = tolerant(msgspec.json.Decoder().decode)


def tokens_of(size: int) -> int:
    """Tokens in that many bytes of text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def prompt_tokens(body: bytes) -> int:
    """Tokens of a request in either format, at least 1; never raises.

    Counts the text that the model reads; images and files count a fixed number instead of their
    base64 text.
    """
    try:
        return max(1, _count(_decode(body)))
    except (ValueError, RecursionError):
        return max(1, tokens_of(len(body)))


def _count(value: object) -> int:
    if isinstance(value, str):
        return tokens_of(len(value.encode()))
    if isinstance(value, list):
        return sum(_count(item) for item in value)
    if isinstance(value, dict):
        if _is_image(value):
            return TOKENS_PER_IMAGE
        return sum(_count(item) for name, item in value.items() if name not in _NOT_PROMPT)
    return 0


def _is_image(value: dict[str, object]) -> bool:
    """Whether a part of a message is an image or a file, unless its content is text after all."""
    kind, source = value.get("type"), value.get("source")
    if not isinstance(kind, str) or kind not in _IMAGE_TYPES:
        return False
    return not (isinstance(source, dict) and source.get("type") in _TEXT_SOURCES)
