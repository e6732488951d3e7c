"""`keymux backup-keys`."""

import pytest

from keymux.cli.moments import now_ms
from keymux.core.health import Status
from keymux.core.records import KeyState
from tests.cli.program import ACTOR, Program, backup, id_of, key
from tests.cli.test_keys import fall_ill

DEAD, SPARE, OTHER = "sk-dead-0123456789", "sk-spare-01234abcd", "sk-other-01234wxyz"


def promoted(keymux: Program) -> None:
    """A spent key, the backup key that took over for it, and one that is spare."""
    keymux.add_keys(key(DEAD))
    keymux.add_backups(backup(SPARE, label="contract", created_at=1), backup(OTHER, created_at=2))
    fall_ill(keymux, DEAD, KeyState(Status.EXHAUSTED, now_ms() + 9_000, "402", generation=1))
    keymux.store(
        lambda store: store.backups.promote("alpha", id_of(DEAD), at=now_ms(), actor=ACTOR)
    )


def test_backup_keys_are_added(keymux: Program) -> None:
    """They are spare, and not in the pool."""
    done = keymux.good(
        "backup-keys", "add", "alpha", "--stdin", "--label", "ours", given=f"{SPARE}\n{OTHER}"
    )

    assert "alpha: 2 backup keys added" in done.out
    assert [(one.id, one.label, one.is_used) for one in keymux.backups().values()] == [
        (id_of(SPARE), "ours", False),
        (id_of(OTHER), "ours", False),
    ]
    assert keymux.pool() == {}


def test_backup_keys_are_no_arguments(keymux: Program) -> None:
    """Whatever stands behind the provider may be a secret, and is not repeated."""
    done = keymux.run("backup-keys", "add", "alpha", "oddsecret")

    assert done.code == 2
    assert "never taken from an argument" in done.err
    assert "oddsecret" not in done.err


def test_a_list_tells_spare_from_used(keymux: Program) -> None:
    """For a used one: the key it took over for, and when."""
    promoted(keymux)

    rows = keymux.good("backup-keys", "list", "alpha").rows

    assert [(row["id"], row["state"], row["usedFor"], bool(row["usedAt"])) for row in rows] == [
        (id_of(SPARE), "used", id_of(DEAD), True),
        (id_of(OTHER), "spare", "", False),
    ]


def test_a_list_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns nothing is cut off."""
    promoted(keymux)

    lines = keymux.screen("backup-keys", "list", "alpha")

    assert max(map(len, lines)) <= 80
    assert any(id_of(SPARE) in line and id_of(DEAD) in line for line in lines)


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """--json has the same fields."""
    promoted(keymux)

    found = keymux.good("backup-keys", "list", "alpha", "--json").json

    assert [row["state"] for row in found] == ["used", "spare"]


def test_a_used_one_becomes_spare_again(keymux: Program) -> None:
    """It leaves the pool and waits for its next turn."""
    promoted(keymux)

    done = keymux.good("backup-keys", "restore", "alpha", "abcd")

    assert done.out == f"{id_of(SPARE)}: spare again\n"
    assert not keymux.backups()[SPARE].is_used
    assert SPARE not in keymux.pool()


def test_a_spare_one_stays_as_it_is(keymux: Program) -> None:
    """Restoring what is spare changes nothing and leaves nothing in the audit."""
    keymux.add_backups(backup(SPARE))
    last = keymux.store(lambda store: store.audit.last())

    done = keymux.good("backup-keys", "restore", "alpha", id_of(SPARE))

    assert done.out == f"{id_of(SPARE)}: spare already\n"
    assert keymux.store(lambda store: store.audit.last()) == last


def test_backup_keys_are_removed(keymux: Program) -> None:
    """After a yes, for good."""
    keymux.add_backups(backup(SPARE), backup(OTHER))

    done = keymux.good("backup-keys", "remove", "alpha", id_of(SPARE), "--yes")

    assert done.out == f"{id_of(SPARE)}: removed\n"
    assert list(keymux.backups()) == [OTHER]


def test_scripts_have_to_say_yes(keymux: Program) -> None:
    """Where nobody can be asked, --yes is needed."""
    keymux.add_backups(backup(SPARE))

    done = keymux.run("backup-keys", "remove", "alpha", id_of(SPARE))

    assert done.code == 2
    assert list(keymux.backups()) == [SPARE]


@pytest.mark.parametrize("command", [["restore"], ["remove", "--yes"]])
def test_a_name_that_fits_nothing_says_where_to_look(keymux: Program, command: list[str]) -> None:
    """The message names the command that lists what there is."""
    keymux.good("init-db")

    done = keymux.run("backup-keys", *command, "alpha", "nope")

    assert done.code == 1
    assert "no backup key of alpha fits 'nope'; `keymux backup-keys list alpha`" in done.err


@pytest.mark.parametrize(
    ("command", "done"), [(["restore"], "spare again"), (["remove", "--yes"], "removed")]
)
def test_programs_read_what_was_done(keymux: Program, command: list[str], done: str) -> None:
    """--json tells it for each."""
    promoted(keymux)

    found = keymux.good("backup-keys", *command, "alpha", "abcd", "--json").json

    assert found == [{"id": id_of(SPARE), "done": done}]


def test_changes_are_in_the_audit(keymux: Program) -> None:
    """Adding, restoring and removing name the operator."""
    keymux.good("backup-keys", "add", "alpha", "--stdin", given=SPARE)
    keymux.good("backup-keys", "remove", "alpha", "abcd", "--yes")

    rows = keymux.good("audit").rows

    assert [row["action"] for row in rows] == ["backup.remove", "backup.add"]
    assert all(row["actor"].startswith("cli:") for row in rows)
