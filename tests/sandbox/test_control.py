"""The control API tells and sets everything that the Python API does."""

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from keymux.sandbox.apart import SandboxThread
from tests.sandbox.peer import CHAT, KEY, ask, body_for


def _control(sandbox: SandboxThread, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = HTTPConnection(urlsplit(sandbox.url()).netloc, timeout=5)
    connection.request(method, f"/_sandbox/{path}", json.dumps(body))
    response = connection.getresponse()
    found = json.load(response)
    connection.close()
    return response.status, found


def _status(sandbox: SandboxThread, key: str = KEY) -> int:
    return ask(sandbox.url(), CHAT, body_for(CHAT), key).status


def test_records_are_told_from_a_number_on(sandbox: SandboxThread) -> None:
    """Who has read some asks for the rest."""
    for _ in range(3):
        _status(sandbox)
    status, found = _control(sandbox, "GET", "seen?since=1")

    assert (status, [seen["number"] for seen in found]) == (200, [2, 3])
    assert found[0]["key"] == KEY


def test_behaviours_are_set(sandbox: SandboxThread) -> None:
    """As text, as objects, for one endpoint; scripts of others stay."""
    sandbox.behave("sk-other", "status@418")
    rules = [
        {"who": KEY, "script": ["throttled@7+ok", {"behaviour": "spent", "variant": "credit400"}]},
        {"who": KEY, "script": ["server-error"], "on": "models"},
    ]

    assert _control(sandbox, "PUT", "behaviours", rules) == (200, {"set": 2})
    assert [_status(sandbox) for _ in range(4)] == [429, 200, 400, 400]
    assert _status(sandbox, "sk-other") == 418


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        pytest.param({"who": KEY, "script": ["nothing"]}, "names no behaviour", id="no behaviour"),
        pytest.param({"who": KEY, "script": []}, "at least one", id="an empty script"),
        pytest.param({"script": ["ok"]}, "who", id="for nobody"),
        pytest.param(
            {"who": KEY, "script": [{"behaviour": "slow", "gap_s": "x"}]}, "gap_s", id="a figure"
        ),
    ],
)
def test_a_wrong_rule_is_refused(sandbox: SandboxThread, rule: Any, word: str) -> None:
    """The answer says what is wrong, and nothing is set."""
    good = {"who": "openhands", "script": ["server-error"]}
    status, found = _control(sandbox, "PUT", "behaviours", [rule])

    assert (status, word in found["error"]) == (400, True)
    assert _control(sandbox, "PUT", "behaviours", [good])[0] == 200


def test_all_rules_or_none(sandbox: SandboxThread) -> None:
    """A wrong rule behind a right one leaves the right one unset too."""
    rules = [
        {"who": "openhands", "script": ["server-error"]},
        {"who": KEY, "script": ["nothing"]},
    ]
    _control(sandbox, "PUT", "behaviours", rules)

    assert _status(sandbox) == 200


def test_resetting(sandbox: SandboxThread) -> None:
    """Scripts and records are gone."""
    sandbox.behave(KEY, "server-error")
    _status(sandbox)

    assert _control(sandbox, "POST", "reset") == (200, {})
    assert sandbox.seen == []
    assert _status(sandbox) == 200


def test_the_control_api_leaves_no_traces(sandbox: SandboxThread) -> None:
    """Its requests are not recorded and its connections not counted."""
    status, found = _control(sandbox, "GET", "status")

    assert (status, found["connections"], found["accepted"]) == (200, 0, 0)
    assert sandbox.seen == []


def test_unknown_paths_are_refused(sandbox: SandboxThread) -> None:
    """They are no requests to a provider either."""
    assert _control(sandbox, "GET", "nothing")[0] == 404
    assert sandbox.seen == []
