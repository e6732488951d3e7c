"""`keymux audit`."""

import getpass

import pytest

from tests.cli.program import Program, id_of

ONE, TWO = "sk-one-0123456789", "sk-two-0123456789"


def fill(keymux: Program) -> None:
    """Two keys are added, and one is disabled."""
    keymux.good("keys", "add", "alpha", "--stdin", given=f"{ONE}\n{TWO}")
    keymux.good("keys", "disable", "alpha", id_of(ONE), "--reason", "rotating")


def test_the_newest_comes_first(keymux: Program) -> None:
    """Who, what, of what, before, after and why."""
    fill(keymux)

    rows = keymux.good("audit").rows

    assert [row["action"] for row in rows] == ["key.disable", "key.add", "key.add"]
    assert rows[0] | {"seq": "", "at": ""} == {
        "seq": "",
        "at": "",
        "actor": f"cli:{getpass.getuser()}",
        "action": "key.disable",
        "provider": "alpha",
        "subject": id_of(ONE),
        "before": "healthy",
        "after": "disabled",
        "reason": "rotating",
    }


def test_the_name_of_the_actor_is_the_systems(keymux: Program) -> None:
    """A variable of the environment does not change who did it."""
    keymux.run("init-db", USER="somebody", LOGNAME="somebody")
    keymux.run("keys", "add", "alpha", "--stdin", given=ONE, USER="somebody", LOGNAME="somebody")

    assert keymux.good("audit").rows[0]["actor"] != "cli:somebody"


def test_a_limit_may_be_set(keymux: Program) -> None:
    """Only the newest entries are shown."""
    fill(keymux)

    assert len(keymux.good("audit", "--limit", "1").rows) == 1


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_a_number_above_zero(keymux: Program, limit: str) -> None:
    """Anything else is a wrong command line."""
    assert keymux.run("audit", "--limit", limit).code == 2


def test_programs_read_the_audit_as_json(keymux: Program) -> None:
    """--json has the same fields, typed."""
    fill(keymux)

    found = keymux.good("audit", "--json").json

    assert [row["seq"] for row in found] == [3, 2, 1]


def test_the_audit_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns nothing is cut off."""
    fill(keymux)
    keymux.good("keys", "enable", "alpha", id_of(ONE), "--reason", "a long reason " * 10)

    lines = keymux.screen("audit")

    assert max(map(len, lines)) <= 80
    assert any("key.disable" in line and id_of(ONE) in line for line in lines)


def test_no_secret_is_in_the_audit(keymux: Program) -> None:
    """Keys are known by their id there."""
    fill(keymux)

    assert ONE not in keymux.good("audit", "--json").out
