"""`keymux explain`: where a model goes, and what became of a request."""

from typing import Any

import pytest

from keymux.cli.moments import now_ms
from keymux.core.health import Status
from keymux.core.records import (
    AttemptRecord,
    ClientKeyRecord,
    ExchangeRow,
    KeyState,
    Outcome,
)
from keymux.core.vocabulary import Quality, Usage
from tests.cli.program import ACTOR, MODEL, Program, backup, id_of, key
from tests.cli.test_keys import fall_ill
from tests.cli.test_providers import take_down
from tests.cli.test_usage import at, fill

ONE, TWO, THREE = "sk-one-012345wxyz", "sk-two-012345abcd", "sk-three-0123efgh"
REQUEST = "req_019a00000000" + "0" * 16


# -- a model ---------------------------------------------------------------------------------------
def test_an_alias_is_resolved(keymux: Program) -> None:
    """The first line says which model a name stands for."""
    keymux.good("init-db")

    lines = keymux.good("explain", "claude-sonnet-4-5").out.splitlines()

    assert lines[0] == f"claude-sonnet-4-5 is {MODEL} (Claude Sonnet 4.5)"
    assert lines[1] == "also called: claude-sonnet-4-5, sonnet*"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(MODEL, id="its id"),
        pytest.param("sonnet-whatever", id="a name with a known beginning"),
        pytest.param(f"{MODEL}[1m]", id="with the mark of a wide context"),
    ],
)
def test_every_name_a_client_may_use_is_known(keymux: Program, name: str) -> None:
    """Names are resolved as for a request."""
    keymux.good("init-db")

    assert keymux.good("explain", name, "--json").json["model"] == MODEL


def test_targets_are_told_in_order_with_the_key_whose_turn_it_is(keymux: Program) -> None:
    """First the target that is asked first, with its next key; then the one behind it."""
    keymux.add_keys(key(ONE, label="team-a"))
    keymux.add_keys(key(TWO), provider="beta")

    out = keymux.good("explain", MODEL).out

    assert "1. alpha, as sonnet-at-alpha: asked first\n" in out
    assert f"   next: {id_of(ONE)} sk-...wxyz team-a\n" in out
    assert "2. beta, as sonnet-at-beta: asked when alpha cannot serve\n" in out
    assert "speaks openai, anthropic" in out


def test_what_holds_the_others_is_told(keymux: Program) -> None:
    """A held key has its status, what is left of its cooldown, its end and its reason."""
    keymux.add_keys(key(ONE), key(TWO), key(THREE))
    fall_ill(keymux, TWO, KeyState(Status.EXHAUSTED, now_ms() + 3_650_000, "402 b", generation=1))
    fall_ill(keymux, THREE, KeyState(Status.QUARANTINED, None, "401 c", generation=1))

    out = keymux.good("explain", MODEL).out

    assert "keys: 1 of 3 ready; 1 healthy, 1 exhausted, 1 quarantined" in out
    assert f"held: {id_of(TWO)} sk-...abcd: exhausted for 1h, until 2" in out
    assert f"held: {id_of(THREE)} sk-...efgh: quarantined\n         401 c\n" in out


def test_failover_is_told(keymux: Program) -> None:
    """With the first provider away the second is asked first, and the reason stands there."""
    keymux.add_keys(key(ONE))
    keymux.add_keys(key(TWO), provider="beta")
    take_down(keymux, Status.ERROR, "503 down")

    out = keymux.good("explain", MODEL).out

    assert "1. alpha, as sonnet-at-alpha: not asked now\n" in out
    assert "the provider is error for " in out
    assert ": 503 down\n" in out
    assert "2. beta, as sonnet-at-beta: asked first\n" in out


def test_that_nobody_can_be_asked_is_told(keymux: Program) -> None:
    """Without any key the operator reads what clients read."""
    keymux.good("init-db")

    out = keymux.good("explain", MODEL).out

    assert out.count("no key is ready") == 2
    assert "No target can be asked now" in out


def test_spare_keys_are_counted(keymux: Program) -> None:
    """How much there is in reserve."""
    keymux.add_backups(backup(ONE), backup(TWO))

    assert "backup keys: 2 spare" in keymux.good("explain", MODEL).out


def test_many_held_keys_are_counted(keymux: Program) -> None:
    """Ten are named, the rest is counted, and the list is pointed at."""
    secrets = [f"sk-many-{number:09d}" for number in range(12)]
    keymux.add_keys(*map(key, secrets))
    keymux.good("keys", "disable", "alpha", *map(id_of, secrets))

    out = keymux.good("explain", MODEL).out

    assert out.count("held: key_") == 10
    assert "held: and 2 more; `keymux keys list alpha`" in out


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(
            MODEL,
            "price for a million tokens: input $3, output $15, cache_read $0.3, "
            "cache_write_5m $3.75, cache_write_1h $6\n",
            id="a price",
        ),
        pytest.param("free-model", "no price: tokens are booked", id="none"),
    ],
)
def test_the_price_is_told(keymux: Program, model: str, expected: str) -> None:
    """What a million tokens of each class cost."""
    keymux.good("init-db")

    assert expected in keymux.good("explain", model).out


def test_programs_read_the_outlook(keymux: Program) -> None:
    """--json has the route with every key, ready or held, and no secret."""
    keymux.add_keys(key(ONE), key(TWO))
    fall_ill(keymux, TWO, KeyState(Status.QUARANTINED, None, "401", generation=1))

    done = keymux.good("explain", "sonnet-x", "--json")

    found = done.json
    assert (found["asked"], found["model"], found["first"]) == ("sonnet-x", MODEL, "alpha")
    alpha = found["targets"][0]
    assert (alpha["ready"], alpha["nextKey"], alpha["isOpen"]) == (1, id_of(ONE), True)
    assert [(one["id"], one["ready"]) for one in alpha["keys"]] == [
        (id_of(ONE), True),
        (id_of(TWO), False),
    ]
    assert ONE not in done.out


def test_an_unknown_model_is_told_as_clients_are(keymux: Program) -> None:
    """The message has the code a client gets, and the models there are."""
    done = keymux.run("explain", "gpt-9")

    assert done.code == 1
    assert "no model is called 'gpt-9': a client is told 404 model_not_found" in done.err
    assert f"the config has {MODEL}, free-model" in done.err


# -- a request -------------------------------------------------------------------------------------
FIRST = AttemptRecord(
    provider="alpha",
    model="sonnet-at-alpha",
    key=id_of(ONE),
    outcome="key_throttled",
    work="none",
    status=429,
    reason="429 rate_limit_error",
    started_ms=2,
    took_ms=110,
)
SECOND = AttemptRecord(
    provider="beta",
    model="sonnet-at-beta",
    key=id_of(TWO),
    outcome="ok",
    work="done",
    status=200,
    started_ms=140,
    first_ms=300,
    took_ms=900,
)


def exchange(**fields: Any) -> ExchangeRow:
    """An exchange that was served by the second provider."""
    plain: dict[str, Any] = {
        "id": REQUEST,
        "at": at("2026-11-05T08:12:33"),
        "caller": "client_1",
        "format": "openai",
        "operation": "generate",
        "asked": "claude-sonnet-4-5",
        "model": MODEL,
        "stream": True,
        "outcome": Outcome.OK,
        "status": 200,
        "provider": "beta",
        "key": id_of(TWO),
        "attempts": (FIRST, SECOND),
        "usage": Usage(input=12, output=30, cache_read=7, cache_write_1h=5, reasoning=4),
        "cost_micros": 486,
        "first_ms": 440,
        "took_ms": 1_040,
        "upstream_id": "chatcmpl-7",
    }
    return ExchangeRow(**{**plain, **fields})


def test_a_request_is_told_from_beginning_to_end(keymux: Program) -> None:
    """What was asked, who served, every attempt as a timeline, what was used and told."""
    record = ClientKeyRecord(id="client_1", key_hash="0", shown="km-...abcd", label="laptop")
    keymux.store(lambda store: store.clients.add(record, ACTOR))
    fill(keymux, exchange())

    out = keymux.good("explain", REQUEST).out

    assert out == (
        f"{REQUEST}  2026-11-05T08:12:33Z\n"
        f"request: claude-sonnet-4-5 -> {MODEL}; openai generate, stream\n"
        "caller:  client_1 laptop\n"
        "outcome: ok: served\n"
        "told:    200\n"
        "time:    1040 ms, first event to the client after 440 ms\n"
        "attempts: 2\n"
        f"  1. +2 ms  alpha sonnet-at-alpha  {id_of(ONE)} direct\n"
        "     key_throttled 429: 429: the quota group is over its rate for this model.\n"
        "     it said: 429 rate_limit_error\n"
        "     took 110 ms; nothing was processed\n"
        f"  2. +140 ms  beta sonnet-at-beta  {id_of(TWO)} direct\n"
        "     ok 200: answered\n"
        "     took 900 ms, first event after 300 ms; was processed\n"
        "tokens:  12 input, 30 output (4 reasoning), 7 from cache, 5 to cache; "
        "as the upstream said at the end\n"
        "cost:    $0.000486\n"
        "upstream request id: chatcmpl-7\n"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {"outcome": Outcome.FAILED, "fault": "rate_limited", "status": 429},
            "told:    429 rate_limited: Every upstream key of the route is held back",
            id="a refusal has its code and meaning",
        ),
        pytest.param(
            {"outcome": Outcome.FAILED, "fault": "of_tomorrow", "status": 418},
            "told:    418 of_tomorrow\n",
            id="a code that a newer keymux wrote",
        ),
        pytest.param(
            {"outcome": Outcome.CLIENT_GONE, "fault": "client_gone", "status": 0},
            "outcome: client_gone: the client left before the end",
            id="a client that left",
        ),
        pytest.param(
            {"outcome": Outcome.CUT, "quality": Quality.PARTIAL},
            "counted up to where the answer was cut",
            id="a stream that broke off",
        ),
        pytest.param(
            {"outcome": Outcome.REFUSED, "attempts": (), "model": "", "asked": ""},
            "request: no model was read",
            id="refused before the request was read",
        ),
        pytest.param({"attempts": ()}, "attempts: 0\n", id="no attempt was made"),
        pytest.param(
            {"outcome": Outcome.INTERRUPTED, "status": 0, "fault": ""},
            "told:    nothing\n",
            id="the process died",
        ),
        pytest.param({"cost_micros": None}, "cost:    unknown\n", id="no price"),
        pytest.param(
            {"cost_micros": None, "bound_micros": 1_500_000, "quality": Quality.UNKNOWN},
            "cost:    unknown, at most $1.500000 for an attempt",
            id="no usage, but a bound",
        ),
        pytest.param({"stream": False}, "generate, no stream", id="no stream"),
        pytest.param(
            {"attempts": (AttemptRecord("a", "m", "k", billing="unknown", tokens=50),)},
            "nothing was processed, may be billed: about 50 tokens of prompt",
            id="an attempt that may be billed",
        ),
        pytest.param(
            {"attempts": (AttemptRecord("a", "m", "k", outcome="started"),)},
            "started: sent; nothing more is known",
            id="an attempt whose end is unknown",
        ),
    ],
)
def test_every_end_is_told(keymux: Program, fields: dict[str, Any], expected: str) -> None:
    """Whatever became of a request can be read."""
    fill(keymux, exchange(**fields))

    assert expected in keymux.good("explain", REQUEST).out


def test_programs_read_the_exchange(keymux: Program) -> None:
    """--json has the row of the ledger, under its names there."""
    fill(keymux, exchange(outcome=Outcome.FAILED, fault="rate_limited", status=429))

    found = keymux.good("explain", REQUEST, "--json").json

    assert (found["id"], found["at"]) == (REQUEST, "2026-11-05T08:12:33Z")
    assert (found["costMicros"], found["tookMs"], found["stream"]) == (486, 1_040, True)
    assert found["usage"]["cacheWrite1h"] == 5
    assert [one["outcome"] for one in found["attempts"]] == ["key_throttled", "ok"]
    assert found["attempts"][0]["startedMs"] == 2
    assert found["meaning"].startswith("Every upstream key of the route")


def test_a_request_that_left_no_row_is_explained(keymux: Program) -> None:
    """The message says what may be the reason."""
    keymux.good("init-db")

    done = keymux.run("explain", REQUEST)

    assert done.code == 1
    assert f"the ledger has no exchange '{REQUEST}'" in done.err
    assert "still running" in done.err
