"""No secret passes, and nothing else is touched."""

import base64
from hashlib import sha256
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.telemetry.redaction import Redactor, redact_body

SECRET = "provider+key/with=odd.signs-0123456789"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Incorrect API key sk-ant-REDACTED", id="an Anthropic key"),
        pytest.param("Received API Key = sk-...abcd1234", id="a key that is masked already"),
        pytest.param("authorization: Bearer eyJhbGciOi.J9.x_y-z", id="a bearer token"),
        pytest.param("km-" + "a" * 40, id="a client key"),
        pytest.param("socks5h://user:hunter22@10.0.0.1:1080", id="credentials in a URL"),
        pytest.param("account jane.doe@example.com is out of credit", id="an e-mail address"),
    ],
)
def test_what_looks_secret_is_taken_out(text: str) -> None:
    """Secrets are known by their shape even if nobody named them."""
    redacted = Redactor().text(text)

    assert "***" in redacted
    for part in ("api03", "abcd1234", "eyJhbG", "aaaaaaa", "hunter22", "jane.doe"):
        assert part not in redacted


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("model claude-sonnet-4-5-20250929 is overloaded", id="a model's name"),
        pytest.param("429 rate_limit_error on /v1/messages?beta=true", id="a path"),
        pytest.param("req_01a20939e7ae3acf9cb0f193fc94 took 12.5 ms", id="a request id"),
        pytest.param("https://llm.example.com/v1", id="a URL without credentials"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Logs remain readable."""
    assert Redactor().text(text) == text


def test_known_secrets_are_taken_out_whatever_they_look_like() -> None:
    """A provider may make keys of any shape."""
    redactor = Redactor()
    redactor.learn([SECRET, "short"])

    assert redactor.text(f"used {SECRET} and a short one") == "used *** and a short one"


def test_values_are_searched_to_their_depth() -> None:
    """A log line may hold lists and objects."""
    redactor = Redactor()
    redactor.learn([SECRET])
    line = {"a": [SECRET, {"b": (SECRET.encode(), 7)}], SECRET: None}

    assert redactor.value(line) == {"a": ["***", {"b": ["***", 7]}], "***": None}


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(SECRET, id="as it is"),
        pytest.param(quote(SECRET, safe=""), id="percent-encoded"),
        pytest.param(quote(SECRET, safe="").lower(), id="percent-encoded in lower case"),
        pytest.param(SECRET.replace("/", "\\/"), id="with escaped slashes, as some JSON has it"),
        pytest.param(
            "".join(f"\\u{ord(letter):04X}" for letter in SECRET), id="in JSON's code points"
        ),
        pytest.param(
            SECRET.replace("/", "\\u002f").replace("+", "\\u002b"), id="partly in code points"
        ),
        pytest.param(sha256(SECRET.encode()).hexdigest(), id="as its hash"),
        pytest.param(base64.b64encode(SECRET.encode()).decode(), id="in base64"),
    ],
)
def test_error_bodies_lose_the_key_in_any_spelling(spelling: str) -> None:
    """Providers echo keys and their hashes in their errors."""
    body = f'{{"error": {{"message":  "Key Hash (Token) ={spelling}."}} }}'.encode()

    redacted = redact_body(body, SECRET)

    assert spelling.encode() not in redacted
    assert redacted == body.replace(spelling.encode(), b"***")


@given(st.binary(max_size=200))
def test_error_bodies_without_secrets_keep_every_byte(body: bytes) -> None:
    """Clients act on the wording, so what is no secret is not touched."""
    quiet = body.replace(b"-", b"").replace(b"@", b"").replace(b":", b"").replace(b" ", b"")

    assert redact_body(quiet, SECRET) == quiet
