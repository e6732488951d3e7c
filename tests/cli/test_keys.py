"""`keymux keys`: list, and what an operator may do to keys."""

import pexpect
import pytest

from keymux.cli.moments import now_ms
from keymux.core.health import Event, Status
from keymux.core.records import ExchangeRow, KeyState, Outcome, Shade, Transition
from keymux.core.vocabulary import Usage
from keymux.stores.port import Batch
from tests.cli.program import ACTOR, Program, backup, id_of, key

ONE, TWO, THREE = "sk-one-012345wxyz", "sk-two-012345abcd", "sk-three-0123wxyz"


def fall_ill(keymux: Program, secret: str, state: KeyState, model: str = "") -> None:
    """Bring a key to a state, as a server would; for one model only, if that is named."""
    transition = Transition(
        id=f"trn_{secret}",
        at=now_ms(),
        actor="server",
        provider="alpha",
        key=id_of(secret),
        model=model,
        before=Status.HEALTHY,
        after=state.shades[model].status if model else state.status,
        reason=state.reason,
        key_state=state,
    )
    keymux.store(lambda store: store.ledger.write(Batch(transitions=(transition,))))


def fill(keymux: Program) -> None:
    """Three keys: one well, one in a cooldown, one in quarantine."""
    keymux.add_keys(key(ONE, label="team-a", group="contract"), key(TWO), key(THREE))
    until = now_ms() + 250_000
    fall_ill(keymux, TWO, KeyState(Status.RATE_LIMITED, until, "429 slow", generation=1))
    fall_ill(keymux, THREE, KeyState(Status.QUARANTINED, None, "401 revoked", generation=1))


def status(keymux: Program, secret: str) -> Status:
    """The stored status of a key."""
    return keymux.pool()[secret].state.status


# -- list ------------------------------------------------------------------------------------------
def test_a_list_has_a_line_for_each_key(keymux: Program) -> None:
    """In a pipe: id, label, ends of the secret, status, reason, end of the cooldown, counters."""
    fill(keymux)

    rows = {row["id"]: row for row in keymux.good("keys", "list", "alpha").rows}

    assert rows[id_of(ONE)] | {"cooldownUntil": "", "lastUsedAt": ""} == {
        "id": id_of(ONE),
        "label": "team-a",
        "shown": "sk-...wxyz",
        "quotaGroup": "contract",
        "status": "healthy",
        "reason": "",
        "cooldownUntil": "",
        "requestsCount": "0",
        "tokensUsed": "0",
        "lastUsedAt": "",
    }
    assert rows[id_of(TWO)]["status"] == "rate_limited"
    assert rows[id_of(TWO)]["cooldownUntil"].endswith("Z")
    assert rows[id_of(THREE)]["reason"] == "401 revoked"


def test_a_list_has_what_keys_served(keymux: Program) -> None:
    """Requests, tokens and last use come from the ledger's counters."""
    keymux.add_keys(key(ONE))
    row = ExchangeRow(
        id="req_018f00000000",
        at=1_790_000_000_000,
        caller="client_1",
        format="openai",
        operation="generate",
        asked="m",
        model="m",
        stream=False,
        outcome=Outcome.OK,
        provider="alpha",
        key=id_of(ONE),
        usage=Usage(input=1_000, output=234),
    )
    keymux.store(lambda store: store.ledger.write(Batch(rows=(row,))))

    assert keymux.good("keys", "list", "alpha").rows[0]["tokensUsed"] == "1234"


def test_a_table_fits_eighty_columns(keymux: Program) -> None:
    """On a terminal nothing is cut off, and the cooldown is told as what is left of it."""
    keymux.add_keys(key(ONE, label="the-team-with-a-really-long-name", group="contract"))
    reason = "429 rate_limit_error with a long explanation by the provider"
    until = now_ms() + 250_000
    fall_ill(keymux, ONE, KeyState(Status.RATE_LIMITED, until, reason, generation=1))

    lines = keymux.screen("keys", "list", "alpha")

    assert max(map(len, lines)) <= 80
    assert any("rate_limited" in line and "4m" in line for line in lines)
    assert {"explanation", "provider", "contract"} <= set(" ".join(lines).split())


def test_an_empty_pool_is_said_on_a_terminal(keymux: Program) -> None:
    """A person is told that there is nothing, instead of an empty table."""
    keymux.good("init-db")

    assert keymux.screen("keys", "list", "alpha") == ["alpha has no such keys"]


def test_a_list_may_be_limited_to_states(keymux: Program) -> None:
    """--status may be given more than once."""
    fill(keymux)

    done = keymux.good(
        *("keys", "list", "alpha", "--status", "quarantined", "--status", "rate_limited")
    )

    assert {row["id"] for row in done.rows} == {id_of(TWO), id_of(THREE)}


def test_a_key_that_cools_for_one_model_shows_it(keymux: Program) -> None:
    """Its status is that of the narrower cooldown, with the model it is limited to."""
    keymux.add_keys(key(ONE))
    shade = Shade(Status.RATE_LIMITED, now_ms() + 60_000, "429 slow")
    fall_ill(keymux, ONE, KeyState(shades={"opus": shade}, generation=1), model="opus")

    row = keymux.good("keys", "list", "alpha").rows[0]

    assert (row["status"], row["reason"]) == ("rate_limited", "429 slow (only opus)")


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """--json has the same fields, typed, and no secret."""
    fill(keymux)

    done = keymux.good("keys", "list", "alpha", "--json")

    by_id = {row["id"]: row for row in done.json}
    assert by_id[id_of(ONE)]["requestsCount"] == 0
    assert by_id[id_of(ONE)]["cooldownUntil"] is None
    assert by_id[id_of(THREE)]["status"] == "quarantined"
    assert all(secret not in done.out for secret in (ONE, TWO, THREE))


def test_a_label_cannot_write_on_the_terminal(keymux: Program) -> None:
    """What an operator or an upstream wrote is shown, not obeyed."""
    keymux.add_keys(key(ONE, label="a\x1b[2Jb"))

    assert "\x1b" not in keymux.good("keys", "list", "alpha").out


# -- changes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "secret", "before", "after"),
    [
        pytest.param("disable", ONE, "healthy", "disabled", id="take a sound key out"),
        pytest.param("disable", TWO, "rate_limited", "disabled", id="take a cooling key out"),
        pytest.param("reset", TWO, "rate_limited", "healthy", id="end a cooldown"),
        pytest.param("restore", THREE, "quarantined", "healthy", id="lift a quarantine"),
        pytest.param("restore", TWO, "rate_limited", "healthy", id="restore ends a cooldown too"),
    ],
)
def test_a_key_changes_its_state(
    keymux: Program, command: str, secret: str, before: str, after: str
) -> None:
    """Each command does what it says, says it, and stores it."""
    fill(keymux)

    done = keymux.good("keys", command, "alpha", id_of(secret))

    assert done.out == f"{id_of(secret)}: {before} -> {after}\n"
    assert status(keymux, secret) == after


def test_a_disabled_key_is_enabled_again(keymux: Program) -> None:
    """Enable undoes disable."""
    keymux.add_keys(key(ONE))
    keymux.good("keys", "disable", "alpha", id_of(ONE))

    keymux.good("keys", "enable", "alpha", id_of(ONE))

    assert status(keymux, ONE) is Status.HEALTHY


def test_reset_ends_the_cooldowns_of_single_models(keymux: Program) -> None:
    """A key that cools for one model is free for all after a reset."""
    keymux.add_keys(key(ONE))
    shade = Shade(Status.RATE_LIMITED, now_ms() + 60_000, "429 slow")
    fall_ill(keymux, ONE, KeyState(shades={"opus": shade}, generation=1), model="opus")

    done = keymux.good("keys", "reset", "alpha", id_of(ONE))

    assert done.out == f"{id_of(ONE)}: rate_limited -> healthy\n"
    assert keymux.pool()[ONE].state.shades == {}


@pytest.mark.parametrize(
    ("command", "secret", "said"),
    [
        pytest.param("enable", ONE, "healthy already", id="enable a sound key"),
        pytest.param("enable", TWO, "rate_limited already", id="enable does not end a cooldown"),
        pytest.param("restore", ONE, "healthy already", id="restore a sound key"),
    ],
)
def test_what_is_so_already_is_left_alone(
    keymux: Program, command: str, secret: str, said: str
) -> None:
    """A command may be run twice; the second time it changes nothing."""
    fill(keymux)
    last = keymux.store(lambda store: store.audit.last())

    done = keymux.good("keys", command, "alpha", id_of(secret))

    assert done.out == f"{id_of(secret)}: {said}\n"
    assert keymux.store(lambda store: store.audit.last()) == last


def test_disabling_twice_keeps_the_first_reason(keymux: Program) -> None:
    """Who disabled a key first, and why, is not overwritten."""
    keymux.add_keys(key(ONE))
    keymux.good("keys", "disable", "alpha", id_of(ONE), "--reason", "leaked")

    keymux.good("keys", "disable", "alpha", id_of(ONE), "--reason", "again")

    assert keymux.pool()[ONE].state.reason == "leaked"


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        pytest.param("enable", "keymux keys restore", id="a quarantine is not a disabled key"),
        pytest.param("reset", "keymux keys restore", id="a quarantine is not a cooldown"),
    ],
)
def test_a_command_that_would_not_help_names_the_one_that_does(
    keymux: Program, command: str, instead: str
) -> None:
    """An operator is not left believing that a quarantined key is back."""
    fill(keymux)

    done = keymux.run("keys", command, "alpha", id_of(ONE), id_of(THREE))

    assert done.code == 1
    assert instead in done.err
    assert "nothing was changed" in done.err
    assert keymux.pool()[THREE].state.reason == "401 revoked"


@pytest.mark.parametrize("command", ["reset", "restore"])
def test_a_disabled_key_is_enabled_and_nothing_else(keymux: Program, command: str) -> None:
    """Reset and restore do not undo what an operator decided."""
    keymux.add_keys(key(ONE))
    keymux.good("keys", "disable", "alpha", id_of(ONE))

    done = keymux.run("keys", command, "alpha", id_of(ONE))

    assert done.code == 1
    assert "keymux keys enable" in done.err
    assert status(keymux, ONE) is Status.DISABLED


def replaced(keymux: Program) -> None:
    """A spent key that a backup key took over for."""
    keymux.add_keys(key(ONE))
    keymux.add_backups(backup(TWO))
    fall_ill(keymux, ONE, KeyState(Status.EXHAUSTED, now_ms() + 9_000, "402 spent", generation=1))
    keymux.store(lambda store: store.backups.promote("alpha", id_of(ONE), at=now_ms(), actor=ACTOR))


@pytest.mark.parametrize("command", ["restore", "reset"])
def test_a_replaced_key_comes_back_beside_its_successor(keymux: Program, command: str) -> None:
    """Both keys are in the pool then, and the operator is told so."""
    replaced(keymux)

    done = keymux.good("keys", command, "alpha", id_of(ONE))

    found = keymux.pool()
    assert (found[ONE].state.status, found[ONE].replaced_by) == (Status.HEALTHY, "")
    assert TWO in found
    assert f"{id_of(ONE)} is in rotation again, beside {id_of(TWO)}" in done.err


def test_a_list_tells_what_replaced_a_key(keymux: Program) -> None:
    """The reason of a replaced key names its successor, and no end is told."""
    replaced(keymux)

    row = keymux.good("keys", "list", "alpha", "--status", "exhausted").rows[0]

    assert row["reason"] == f"402 spent; replaced by {id_of(TWO)}"
    assert row["cooldownUntil"] == ""


def test_programs_read_what_was_changed(keymux: Program) -> None:
    """--json tells before, after, and whether anything was done."""
    fill(keymux)

    done = keymux.good("keys", "enable", "alpha", id_of(ONE), "--json")

    assert done.json == [
        {"id": id_of(ONE), "before": "healthy", "after": "healthy", "changed": False}
    ]


def test_the_audit_tells_who_and_why(keymux: Program) -> None:
    """--reason is kept with the change."""
    keymux.add_keys(key(ONE))

    keymux.good("keys", "disable", "alpha", id_of(ONE), "--reason", "rotating")

    row = keymux.good("audit").rows[0]
    assert (row["action"], row["subject"], row["reason"]) == (
        f"key.{Event.DISABLE}",
        id_of(ONE),
        "rotating",
    )
    assert row["actor"].startswith("cli:")


def test_a_disabled_key_shows_who_did_it(keymux: Program) -> None:
    """Without --reason the actor is the reason."""
    keymux.add_keys(key(ONE))

    keymux.good("keys", "disable", "alpha", id_of(ONE))

    assert keymux.pool()[ONE].state.reason.startswith("disabled by cli:")


# -- which keys ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(id_of(TWO), id="its id"),
        pytest.param(id_of(TWO)[:9], id="the beginning of its id"),
        pytest.param("abcd", id="the last four characters of its secret"),
        pytest.param("sk-...abcd", id="its secret as lists show it"),
    ],
)
def test_a_key_is_known_by_several_names(keymux: Program, words: str) -> None:
    """An operator types what is at hand."""
    keymux.add_keys(key(ONE), key(TWO), key(THREE))

    keymux.good("keys", "disable", "alpha", words)

    assert [record.secret for record in keymux.pool().values() if record.state.reason] == [TWO]


def test_a_name_that_fits_several_lists_them(keymux: Program) -> None:
    """Nothing is changed while it is unclear which key is meant."""
    keymux.add_keys(key(ONE, label="first"), key(TWO), key(THREE))

    done = keymux.run("keys", "disable", "alpha", "abcd", "wxyz")

    assert done.code == 1
    assert "'wxyz' fits 2 keys of alpha; use one of these ids:" in done.err
    assert f"{id_of(ONE)}  sk-...wxyz  first" in done.err
    assert f"{id_of(THREE)}  sk-...wxyz" in done.err
    assert all(record.state.status is Status.HEALTHY for record in keymux.pool().values())


def test_many_that_fit_are_counted(keymux: Program) -> None:
    """At most ten candidates are listed."""
    keymux.add_keys(*(key(f"sk-many-{number:09d}") for number in range(12)))

    done = keymux.run("keys", "disable", "alpha", "key_")

    assert "fits 12 keys of alpha" in done.err
    assert done.err.count("sk-...") == 10


def test_a_name_that_fits_nothing_says_where_to_look(keymux: Program) -> None:
    """The message names the command that lists what there is."""
    keymux.add_keys(key(ONE))

    done = keymux.run("keys", "disable", "alpha", "key_nothing")

    assert done.code == 1
    assert "no key of alpha fits 'key_nothing'; `keymux keys list alpha` shows them" in done.err


def test_a_name_that_could_be_a_secret_is_not_repeated(keymux: Program) -> None:
    """Somebody who pastes a whole secret of an odd shape does not see it again."""
    keymux.add_keys(key(ONE))

    done = keymux.run("keys", "disable", "alpha", "0123456789abcdef0123456789abcdef")

    assert done.code == 1
    assert "'012...cdef'" in done.err


def test_a_key_named_twice_is_changed_once(keymux: Program) -> None:
    """The same key by two names is one key."""
    keymux.add_keys(key(ONE))

    done = keymux.good("keys", "disable", "alpha", id_of(ONE), "wxyz")

    assert done.out.count("disabled") == 1


def test_an_unknown_provider_is_a_wrong_command_line(keymux: Program) -> None:
    """The message names the providers that there are."""
    done = keymux.run("keys", "list", "gamma")

    assert done.code == 2
    assert "no provider is called 'gamma'; the config has alpha, beta" in done.err


# -- remove ----------------------------------------------------------------------------------------
def test_keys_are_removed_after_a_yes(keymux: Program) -> None:
    """On a terminal the operator sees what will be deleted, and is asked."""
    keymux.add_keys(key(ONE, label="first"), key(TWO))
    process = keymux.terminal("keys", "remove", "alpha", id_of(ONE))
    process.expect_exact(f"{id_of(ONE)}  sk-...wxyz  first")
    process.expect("Delete 1 for good")
    process.sendline("y")
    process.expect(pexpect.EOF)
    process.close()

    assert process.exitstatus == 0
    assert list(keymux.pool()) == [TWO]


def test_a_no_keeps_the_keys(keymux: Program) -> None:
    """The default answer is no."""
    keymux.add_keys(key(ONE))
    process = keymux.terminal("keys", "remove", "alpha", id_of(ONE))
    process.expect("Delete 1 for good")
    process.sendline("")
    process.expect("nothing was changed")
    process.expect(pexpect.EOF)
    process.close()

    assert process.exitstatus == 1
    assert list(keymux.pool()) == [ONE]


def test_scripts_have_to_say_yes(keymux: Program) -> None:
    """Where nobody can be asked, --yes is needed."""
    keymux.add_keys(key(ONE))

    refused = keymux.run("keys", "remove", "alpha", id_of(ONE))
    done = keymux.good("keys", "remove", "alpha", id_of(ONE), "--yes")

    assert refused.code == 2
    assert "add --yes" in refused.err
    assert done.out == f"{id_of(ONE)}: removed\n"
    assert keymux.pool() == {}


def test_programs_read_what_was_removed(keymux: Program) -> None:
    """--json lists the ids."""
    keymux.add_keys(key(ONE))

    done = keymux.good("keys", "remove", "alpha", "wxyz", "--yes", "--json")

    assert done.json == [{"id": id_of(ONE), "removed": True}]


def test_a_removed_key_may_come_back(keymux: Program) -> None:
    """The same secret can be added again, under the same id."""
    keymux.add_keys(key(ONE))
    keymux.good("keys", "remove", "alpha", "wxyz", "--yes")

    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)

    assert [record.id for record in keymux.pool().values()] == [id_of(ONE)]
