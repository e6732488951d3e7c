"""Take secrets out of whatever is about to be seen."""

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import quote

_MARK = "***"
_LOOKS_SECRET = re.compile(
    r"\b(?:sk|km|rk|pk|key)-[A-Za-z0-9_*.-]{8,}"  # keys of OpenAI, Anthropic, LiteLLM and ours
    r"|(?i:bearer\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password in a URL
    r"|\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b"  # the account's e-mail
)
_WORD = re.compile(r"[A-Za-z0-9_.+/=~-]{8,}")
_SHORTEST = 8


class Redactor:
    """Knows the secrets of this process and what secrets look like."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on take these out wherever they appear."""
        self._known.update(secret for secret in secrets if len(secret) >= _SHORTEST)

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = _LOOKS_SECRET.sub(_MARK, text)
        return _WORD.sub(self._unless_known, text) if self._known else text

    def _unless_known(self, word: re.Match[str]) -> str:
        return _MARK if word[0] in self._known else word[0]

    def value(self, value: object) -> object:
        """Any value of a log line without secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode(errors="replace"))
        if isinstance(value, dict):
            return {self.value(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def redact_body(body: bytes, secret: str) -> bytes:
    """An upstream's error body without the key it was asked with, in any spelling.

    Everything else stays as it came, byte for byte.
    """
    spellings = (
        secret,
        quote(secret, safe=""),
        sha256(secret.encode()).hexdigest(),
        b64encode(secret.encode()).decode(),
    )
    for spelling in spellings:
        body = body.replace(spelling.encode(), _MARK.encode())
    return _LOOKS_SECRET.sub(_MARK, body.decode("latin-1")).encode("latin-1")
