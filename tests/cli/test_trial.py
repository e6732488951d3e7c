"""`keymux keys test`: what the provider says of its keys."""

from collections.abc import Mapping
from threading import Barrier

import pytest

from keymux import __version__
from keymux.cli.moments import now_ms
from keymux.core.health import Status
from keymux.core.records import KeyState
from tests.cli.program import CONFIG, Program, id_of, key
from tests.cli.test_keys import fall_ill
from tests.cli.upstream import Reply, error, upstream

GOOD, OTHER = "sk-good-01234567", "sk-other-01234567"


def point_at(keymux: Program, url: str, kind: str = "openhands") -> None:
    """Let the provider alpha be at an address."""
    providers = {**CONFIG["providers"], "alpha": {"kind": kind, "base_url": url}}
    keymux.configure({**CONFIG, "providers": providers})


def verdict_on(keymux: Program, reply: Reply, kind: str = "openhands") -> Mapping[str, str]:
    """The row for a key that is answered in some way."""
    keymux.add_keys(key(GOOD))
    with upstream({GOOD: reply}) as running:
        point_at(keymux, running.url, kind)
        return keymux.run("keys", "test", "alpha", "--timeout", "2").rows[0]


def test_an_accepted_key_is_told(keymux: Program) -> None:
    """The provider answers with its models: the command ends well."""
    keymux.add_keys(key(GOOD, label="team-a"))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.good("keys", "test", "alpha")

    assert done.rows == [
        {
            "id": id_of(GOOD),
            "label": "team-a",
            "shown": "sk-...4567",
            "status": "healthy",
            "verdict": "accepted",
            "finding": "2 models",
        }
    ]


def test_the_request_is_a_free_one_and_says_who_asks(keymux: Program) -> None:
    """A GET of the model list, signed with the key, under our own name."""
    keymux.add_keys(key(GOOD))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, f"{running.url}/below")
        keymux.good("keys", "test", "alpha")

    path, headers = running.requests[0]
    assert path == "/below/v1/models"
    assert headers["authorization"] == f"Bearer {GOOD}"
    assert headers["user-agent"] == f"keymux/{__version__}"


def test_a_dialect_signs_in_its_own_way(keymux: Program) -> None:
    """A provider that wants another header gets it, with the version it insists on."""
    keymux.add_keys(key(GOOD))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url, "anthropic")
        keymux.good("keys", "test", "alpha")

    headers = running.requests[0][1]
    assert headers["x-api-key"] == GOOD
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("reply", "verdict", "finding"),
    [
        pytest.param(error(401, "invalid_api_key"), "key_rejected", "401", id="not valid"),
        pytest.param(
            error(401, "x", "this key has been revoked"), "key_revoked", "401", id="revoked"
        ),
        pytest.param(error(400, "budget_exceeded"), "key_spent", "400 budget_exceeded", id="spent"),
        pytest.param(
            error(429, "rate_limit_error", retry_after="30"),
            "key_throttled",
            "wait 30 s",
            id="over its rate, with a time to wait",
        ),
        pytest.param(
            error(403, "unsupported_country_region_territory"),
            "upstream_policy",
            "403",
            id="blocked in this region",
        ),
        pytest.param(error(500, "api_error"), "upstream_error", "500", id="a failing provider"),
        pytest.param(error(529, "overloaded_error"), "upstream_overloaded", "529", id="overload"),
        pytest.param(
            Reply(302, b"", {"location": "http://127.0.0.1:1/"}),
            "upstream_redirected",
            "302",
            id="a redirect, which is not followed",
        ),
        pytest.param(Reply(200, b"<html>"), "upstream_unintelligible", "no JSON", id="a web page"),
        pytest.param(Reply(200, b"7"), "accepted", "200", id="an answer without a list"),
        pytest.param(
            error(404, "not_found_error"), "unclear", "nothing at /v1/models", id="no such page"
        ),
        pytest.param(error(403, "odd"), "unclear", "says nothing of the key", id="an odd refusal"),
        pytest.param(Reply(waits=True), "upstream_timeout", "within 2 s", id="no answer in time"),
    ],
)
def test_answers_are_read_as_the_dialect_means_them(
    keymux: Program, reply: Reply, verdict: str, finding: str
) -> None:
    """The verdict is the fault that a request would have met."""
    row = verdict_on(keymux, reply)

    assert row["verdict"] == verdict
    assert finding in row["finding"]


def test_a_dialect_reads_its_own_errors(keymux: Program) -> None:
    """402 of one provider is a spent key whatever its words are."""
    body = b'{"statusCode": 402, "message": "x", "errorType": "insufficient_balance_error"}'

    assert verdict_on(keymux, Reply(402, body), "ohmygpt")["verdict"] == "key_spent"


def test_a_provider_that_cannot_be_reached_is_told(keymux: Program) -> None:
    """The verdict is about the way, not about the key."""
    keymux.add_keys(key(GOOD))
    point_at(keymux, "http://127.0.0.1:1")

    done = keymux.run("keys", "test", "alpha")

    assert done.code == 1
    assert done.rows[0]["verdict"] == "upstream_unreachable"


def test_a_key_in_an_answer_is_not_printed(keymux: Program) -> None:
    """Providers quote keys in their errors; we do not."""
    row = verdict_on(keymux, error(401, f"bad {GOOD}", f"key {GOOD} is wrong"))

    assert GOOD not in str(row)


def test_one_bad_key_fails_the_command(keymux: Program) -> None:
    """A script can rely on the exit status."""
    keymux.add_keys(key(GOOD), key(OTHER))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.run("keys", "test", "alpha")

    assert done.code == 1
    assert {row["id"]: row["verdict"] for row in done.rows} == {
        id_of(GOOD): "accepted",
        id_of(OTHER): "key_rejected",
    }


def test_nothing_is_changed(keymux: Program) -> None:
    """A test neither heals nor condemns a key, and leaves nothing in the audit."""
    keymux.add_keys(key(GOOD), key(OTHER))
    fall_ill(keymux, GOOD, KeyState(Status.ERROR, now_ms() - 1, "500", generation=1))
    before = keymux.pool(), keymux.store(lambda store: store.audit.last())
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        keymux.run("keys", "test", "alpha")

    assert (keymux.pool(), keymux.store(lambda store: store.audit.last())) == before


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(KeyState(Status.QUARANTINED, None, "401", generation=1), id="quarantined"),
        pytest.param(
            KeyState(Status.RATE_LIMITED, now_ms() + 600_000, "429", generation=1),
            id="told to wait",
        ),
        pytest.param(
            KeyState(Status.EXHAUSTED, now_ms() + 600_000, "402", generation=1), id="spent"
        ),
    ],
)
def test_a_key_that_is_to_rest_is_left_alone(keymux: Program, state: KeyState) -> None:
    """Without being named it gets no request, not even a free one."""
    keymux.add_keys(key(GOOD), key(OTHER))
    fall_ill(keymux, OTHER, state)
    with upstream({GOOD: Reply(), OTHER: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.good("keys", "test", "alpha")

    assert [row["id"] for row in done.rows] == [id_of(GOOD)]
    assert len(running.requests) == 1
    assert "left alone: 1 that may get no traffic now" in done.err


def test_a_disabled_key_is_left_alone(keymux: Program) -> None:
    """What an operator has switched off stays off."""
    keymux.add_keys(key(GOOD))
    keymux.good("keys", "disable", "alpha", id_of(GOOD))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        keymux.good("keys", "test", "alpha")

    assert running.requests == []


def test_a_named_key_is_tested_whatever_its_state(keymux: Program) -> None:
    """An operator who names a quarantined key is told when it may be restored."""
    keymux.add_keys(key(GOOD), key(OTHER))
    fall_ill(keymux, GOOD, KeyState(Status.QUARANTINED, None, "401", generation=1))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.good("keys", "test", "alpha", id_of(GOOD))

    assert [(row["status"], row["verdict"]) for row in done.rows] == [("quarantined", "accepted")]
    assert "is quarantined but accepted: `keymux keys restore alpha" in done.err


def test_a_cooldown_that_is_over_is_no_reason_to_wait(keymux: Program) -> None:
    """A key that is due for its probe is tested."""
    keymux.add_keys(key(GOOD))
    fall_ill(keymux, GOOD, KeyState(Status.RATE_LIMITED, now_ms() - 1, "429", generation=1))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.good("keys", "test", "alpha")

    assert done.rows[0]["verdict"] == "accepted"


def test_a_few_keys_are_tested_at_a_time(keymux: Program) -> None:
    """Eight at once: enough to be quick, few enough to be polite."""
    secrets = [f"sk-many-{number:09d}" for number in range(16)]
    keymux.add_keys(*map(key, secrets))
    with upstream(dict.fromkeys(secrets, Reply())) as running:
        running.at_once = Barrier(8)
        point_at(keymux, running.url)
        keymux.good("keys", "test", "alpha")

    assert running.gathered == 16


def test_no_more_than_a_few_are_tested_at_a_time(keymux: Program) -> None:
    """Nine requests never meet."""
    secrets = [f"sk-many-{number:09d}" for number in range(18)]
    keymux.add_keys(*map(key, secrets))
    with upstream(dict.fromkeys(secrets, Reply())) as running:
        running.at_once = Barrier(9)
        point_at(keymux, running.url)
        keymux.run("keys", "test", "alpha")

    assert running.gathered == 0


def test_an_interrupt_ends_the_test_at_once(keymux: Program) -> None:
    """Ctrl-C while a provider is silent ends with 130 and without a traceback."""
    keymux.add_keys(key(GOOD))
    with upstream({GOOD: Reply(waits=True)}) as running:
        point_at(keymux, running.url)
        process = keymux.terminal("keys", "test", "alpha")
        process.expect("testing")
        running.asked.wait(10)
        process.sendintr()
        seen = process.read()
        process.close()

    assert process.exitstatus == 130
    assert "Traceback" not in seen


def test_programs_read_verdicts_as_json(keymux: Program) -> None:
    """--json has a row for each key."""
    keymux.add_keys(key(GOOD))
    with upstream({GOOD: Reply()}) as running:
        point_at(keymux, running.url)
        done = keymux.good("keys", "test", "alpha", "--json")

    assert [row["verdict"] for row in done.json] == ["accepted"]


def test_verdicts_fit_a_terminal(keymux: Program) -> None:
    """On 80 columns nothing is cut off."""
    keymux.add_keys(key(OTHER))
    with upstream({}) as running:
        point_at(keymux, running.url)
        lines = keymux.screen("keys", "test", "alpha")

    assert max(map(len, lines)) <= 80
    assert any("key_rejected" in line for line in lines)
