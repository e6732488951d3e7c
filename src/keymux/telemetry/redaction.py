"""Take secrets out of whatever is about to be seen."""

import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

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
    body = _spelled(secret).sub(_MARK.encode(), body)
    return _LOOKS_SECRET.sub(_MARK, body.decode("latin-1")).encode("latin-1")


@lru_cache(maxsize=1024)
def _spelled(secret: str) -> re.Pattern[bytes]:
    """Finds a secret: letter by letter as URLs and JSON may write it, hashed, or in base64."""
    letters = "".join(_as_urls_and_json_write_it(letter) for letter in secret)
    hashed = sha256(secret.encode()).hexdigest()
    coded = re.escape(b64encode(secret.encode()).decode())
    return re.compile(f"{letters}|{hashed}|{coded}".encode())


def _as_urls_and_json_write_it(letter: str) -> str:
    code = ord(letter)
    return (
        rf"(?:\\?{re.escape(letter)}|%{_in_any_case(f'{code:02x}')}"
        rf"|\\u{_in_any_case(f'{code:04x}')})"
    )


def _in_any_case(digits: str) -> str:
    """Hexadecimal digits in upper or lower case."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)
