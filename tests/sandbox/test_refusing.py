"""Errors come in the shape and the words of the provider that is played."""

import itertools
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any

import pytest

from keymux.core import faults
from keymux.core.faults import UpstreamFault
from keymux.providers import CATALOGUE
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Redirect, Throttled
from keymux.wire.upstream_error import read_complaint
from tests.sandbox.peer import CHAT, MESSAGES, Heard, ask, body_for

DIALECTS = ("openhands", "ohmygpt")


def _met(sandbox: SandboxThread, key: str, dialect: str = "openhands", path: str = CHAT) -> Heard:
    return ask(sandbox.url(dialect), path, body_for(path), key)


FAULTS: Mapping[str, tuple[int | tuple[int, int], type[UpstreamFault]]] = {
    "throttled": (429, faults.KeyThrottled),
    "slow-down": (429, faults.SlowDown),
    "spent": ((429, 402), faults.KeySpent),
    "spent@budget400": (400, faults.KeySpent),
    "spent@budget429": (429, faults.KeySpent),
    "spent@balance402": (402, faults.KeySpent),
    "spent@quota429": (429, faults.KeySpent),
    "spent@credit400": (400, faults.KeySpent),
    "revoked": (401, faults.KeyRevoked),
    "rejected": (401, faults.KeyRejected),
    "banned": (403, faults.KeyRevoked),
    "forbidden": (403, faults.Forbidden),
    "region": (403, faults.PolicyBlocked),
    "model-denied": (403, faults.ModelNotPermitted),
    "refused": (400, faults.RequestRefused),
    "context-too-long": (400, faults.ContextTooLong),
    "status@422": (422, faults.RequestRefused),
    "status@521": (521, faults.UpstreamTimedOut),
    "overloaded": (529, faults.Overloaded),
    "overloaded@503": (503, faults.Overloaded),
    "status@503": (503, faults.Unavailable),
    "server-error": (500, faults.ServerFailed),
    "bad-gateway": (502, faults.BadGateway),
    "gateway-timeout": (504, faults.UpstreamTimedOut),
}


@pytest.mark.parametrize(
    ("behaviour", "dialect", "path"), [*itertools.product(FAULTS, DIALECTS, (CHAT, MESSAGES))]
)
def test_errors_mean_what_they_shall(
    sandbox: SandboxThread, behaviour: str, dialect: str, path: str
) -> None:
    """Every error has its status, and keymux reads it as the fault it stands for."""
    statuses, fault = FAULTS[behaviour]
    status = statuses if isinstance(statuses, int) else statuses[DIALECTS.index(dialect)]
    heard = _met(sandbox, f"sk-sandbox-{behaviour}-1", dialect, path)
    complaint = read_complaint(heard.status, heard.body)

    assert heard.status == status
    assert CATALOGUE[dialect].fault(complaint, request=b"", told=None) is fault


def _shape(body: Any) -> list[str]:
    inner = body.get("error", {})
    return [*sorted(body), *(f"error.{name}" for name in sorted(inner))]


LITELLM = ["error", "error.code", "error.message", "error.param", "error.type"]
ANTHROPIC = ["error", "request_id", "type", "error.message", "error.type"]
OHMYGPT = ["errorType", "message", "statusCode"]


@pytest.mark.parametrize(
    ("behaviour", "dialect", "path", "expected"),
    [
        pytest.param("spent", "openhands", CHAT, LITELLM, id="LiteLLM on its budget"),
        pytest.param("spent", "openhands", MESSAGES, LITELLM, id="LiteLLM before any route"),
        pytest.param("throttled", "openhands", CHAT, LITELLM, id="LiteLLM for a model"),
        pytest.param("throttled", "openhands", MESSAGES, ANTHROPIC, id="a model behind LiteLLM"),
        pytest.param("spent", "ohmygpt", CHAT, OHMYGPT, id="OhMyGPT on the balance"),
        pytest.param("rejected", "ohmygpt", MESSAGES, OHMYGPT, id="OhMyGPT on a key"),
        pytest.param("throttled", "ohmygpt", CHAT, LITELLM, id="an OpenAI model behind OhMyGPT"),
        pytest.param("overloaded", "ohmygpt", MESSAGES, ANTHROPIC, id="a Claude behind OhMyGPT"),
    ],
)
def test_shapes(
    sandbox: SandboxThread, behaviour: str, dialect: str, path: str, expected: list[str]
) -> None:
    """The provider speaks for accounts, the API's own shape is used for models."""
    assert _shape(_met(sandbox, f"sk-sandbox-{behaviour}", dialect, path).json) == expected


def test_litellm_tells_the_status_as_a_string(sandbox: SandboxThread) -> None:
    """``code`` is the status, and the type names the budget."""
    error = _met(sandbox, "sk-sandbox-spent@budget400-1").json["error"]

    assert (error["code"], error["type"]) == ("400", "budget_exceeded")
    assert error["message"].startswith("ExceededBudget: ")
    assert "Budget has been exceeded! Current cost: " in error["message"]


def test_litellm_echoes_the_hash_of_an_unknown_key(sandbox: SandboxThread) -> None:
    """Ends and hash of the key are in the body, as a real one leaks them."""
    message = _met(sandbox, "sk-unknown-abcd").json["error"]["message"]

    assert "Received API Key = sk-...abcd" in message
    assert sha256(b"sk-unknown-abcd").hexdigest() in message


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_key_is_401(sandbox: SandboxThread, dialect: str) -> None:
    """So is an empty one."""
    assert _met(sandbox, "", dialect).status == 401


@pytest.mark.parametrize(
    ("behaviour", "path", "expected"),
    [
        pytest.param(Throttled(7), CHAT, {"retry-after": "7"}, id="seconds"),
        pytest.param(Throttled(0.5), CHAT, {"retry-after": "0.5"}, id="parts of a second"),
        pytest.param(
            Throttled(7, "milliseconds"), CHAT, {"retry-after-ms": "7000"}, id="milliseconds"
        ),
        pytest.param(
            Throttled(7, "reset"), CHAT, {"x-ratelimit-reset-requests": "7s"}, id="OpenAI's reset"
        ),
        pytest.param(Throttled(verbatim="-1e9"), CHAT, {"retry-after": "-1e9"}, id="anything"),
        pytest.param(Throttled(None), CHAT, {}, id="nothing"),
    ],
)
def test_how_long_to_wait(
    sandbox: SandboxThread, behaviour: Throttled, path: str, expected: dict[str, str]
) -> None:
    """The wait is told in the way that was asked for, and in no other."""
    sandbox.behave("sk-sandbox-a", behaviour)
    headers = _met(sandbox, "sk-sandbox-a", path=path).headers
    told = {name: headers[name] for name in headers if "retry" in name or "reset" in name}

    assert told == expected


def test_a_wait_as_a_date(sandbox: SandboxThread) -> None:
    """It is a date of HTTP, that many seconds ahead."""
    sandbox.behave("sk-sandbox-a", Throttled(600, "date"))
    date = _met(sandbox, "sk-sandbox-a").headers["retry-after"]

    assert 590 < parsedate_to_datetime(date).timestamp() - time.time() <= 600


def test_a_wait_as_anthropics_reset(sandbox: SandboxThread) -> None:
    """It is a moment, beside a remainder of zero."""
    sandbox.behave("sk-sandbox-a", Throttled(600, "reset"))
    headers = _met(sandbox, "sk-sandbox-a", path=MESSAGES).headers

    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-requests-reset"].endswith("+00:00")


def test_overload_may_tell_a_wait(sandbox: SandboxThread) -> None:
    """503 with and without ``Retry-After`` are different faults."""
    heard = _met(sandbox, "sk-sandbox-overloaded@503@retry_after=2-1")

    assert (heard.status, heard.headers["retry-after"]) == (503, "2")


def test_a_refusal_has_odd_bytes(sandbox: SandboxThread) -> None:
    """A gateway that parses and writes anew does not give the same body."""
    heard = _met(sandbox, "sk-sandbox-refused-1")

    assert heard.body.startswith(b"\r\n {")
    assert b"\\u201c" in heard.body
    assert b" :\t" in heard.body


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_content_is_refused_by_its_code(sandbox: SandboxThread, path: str) -> None:
    """The client's fault, in either format."""
    assert _met(sandbox, "sk-sandbox-content-refused", "ohmygpt", path).status == 400


@pytest.mark.parametrize(
    ("dialect", "path", "expected"),
    [
        pytest.param("openhands", CHAT, "litellm.NotFoundError: ", id="LiteLLM"),
        pytest.param("openhands", MESSAGES, "model: ", id="the Anthropic API"),
        pytest.param("ohmygpt", CHAT, "The model `", id="the OpenAI API"),
    ],
)
def test_an_unknown_model_is_named(
    sandbox: SandboxThread, dialect: str, path: str, expected: str
) -> None:
    """The error repeats the model of the request, in the words of whoever says it."""
    heard = _met(sandbox, "sk-sandbox-no-such-model", dialect, path)
    message = heard.json["error"]["message"]

    assert (heard.status, message.startswith(expected)) == (404, True)
    assert "claude-x" in message


def test_a_redirect_leads_where_it_is_told(sandbox: SandboxThread) -> None:
    """Who follows it is seen there."""
    sandbox.behave("sk-sandbox-a", Redirect(f"{sandbox.url()}/trap", 307))
    heard = _met(sandbox, "sk-sandbox-a")
    trapped = ask(sandbox.url(), "/trap", b"", "sk-sandbox-a")

    assert (heard.status, heard.headers["location"]) == (307, f"{sandbox.url()}/trap")
    assert (trapped.status, sandbox.seen[-1].target) == (404, "/trap")


@pytest.mark.parametrize("behaviour", ["html", "bad-gateway", "gateway-timeout"])
def test_pages_are_html(sandbox: SandboxThread, behaviour: str) -> None:
    """Edges and captive portals do not speak JSON."""
    heard = _met(sandbox, f"sk-sandbox-{behaviour}")

    assert heard.headers["content-type"] == "text/html; charset=utf-8"
    assert b"</html>" in heard.body


def test_a_misnamed_key_says_so(sandbox: SandboxThread) -> None:
    """A wrong figure in a key's name does not pass for a good answer."""
    heard = _met(sandbox, "sk-sandbox-slow@never-1")

    assert (heard.status, "'slow' cannot have" in heard.body.decode()) == (400, True)
