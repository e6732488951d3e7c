"""Adding keys: all of them or none, each secret once."""

import json

import pytest

from keymux.core.records import KeyState
from tests.cli.program import Program, backup, id_of, key

ONE, TWO, THREE = "sk-one-0123456789", "sk-two-0123456789", "sk-three-012345678"
BAD = "sk-bad 0123456789"


def test_keys_are_added_from_a_file(keymux: Program) -> None:
    """Each line becomes a key, with the label and group that the options give."""
    (keymux.folder / "keys.txt").write_text(f"# ours\n{ONE}\n{TWO}\n")

    done = keymux.good(
        *("keys", "add", "alpha", "--file", "keys.txt", "--label", "ours", "--group", "g")
    )

    assert "alpha: 2 keys added" in done.out
    assert [
        (record.id, record.secret, record.label, record.group) for record in keymux.pool().values()
    ] == [(id_of(ONE), ONE, "ours", "g"), (id_of(TWO), TWO, "ours", "g")]


def test_keys_are_added_from_standard_input(keymux: Program) -> None:
    """A pipe does as well as a file."""
    keymux.good("keys", "add", "beta", "--stdin", given=ONE)

    assert list(keymux.pool("beta")) == [ONE]


def test_no_secret_is_printed(keymux: Program) -> None:
    """What is said of keys are their first 3 and last 4 characters."""
    done = keymux.run("keys", "add", "alpha", "--stdin", given=f"{ONE}\n{BAD}\n{ONE}")
    again = keymux.run("keys", "add", "alpha", "--stdin", "--skip-bad", given=f"{ONE}\n{BAD}")

    assert "sk-...6789" in done.err + again.out
    assert all(
        secret not in text
        for secret in (ONE, BAD)
        for text in (done.out, done.err, again.out, again.err)
    )


def test_labels_of_the_input_go_before_the_option(keymux: Program) -> None:
    """--label is for keys that bring none."""
    given = json.dumps([{"apiKey": ONE, "label": "own", "group": "own"}, {"apiKey": TWO}])

    keymux.good("keys", "add", "alpha", "--stdin", "--label", "all", "--group", "all", given=given)

    assert [(record.label, record.group) for record in keymux.pool().values()] == [
        ("own", "own"),
        ("all", "all"),
    ]


def test_the_order_of_the_input_is_kept(keymux: Program) -> None:
    """The first line is the oldest key, so backup keys take over in the order they were given."""
    given = "\n".join(f"sk-ordered-{number:06d}" for number in (5, 3, 9, 1, 7))

    keymux.good("backup-keys", "add", "alpha", "--stdin", given=given)

    assert list(keymux.backups()) == given.splitlines()


def test_one_bad_line_and_nothing_is_imported(keymux: Program) -> None:
    """A broken file changes nothing; the bad lines are named."""
    done = keymux.run("keys", "add", "alpha", "--stdin", given=f"{ONE}\n{BAD}\nsk-\x07\n{TWO}")

    assert done.code == 1
    assert "line 2: sk-...6789 holds a space" in done.err
    assert "line 3:" in done.err
    assert "nothing was imported" in done.err
    assert not (keymux.folder / "keymux.db").exists()


def test_skip_bad_imports_the_rest_and_still_fails(keymux: Program) -> None:
    """With --skip-bad good lines are stored, and the exit status tells that there were others."""
    done = keymux.run("keys", "add", "alpha", "--stdin", "--skip-bad", given=f"{ONE}\n{BAD}\n{TWO}")

    assert done.code == 1
    assert "line 2: sk-...6789 holds a space" in done.err
    assert list(keymux.pool()) == [ONE, TWO]


def test_nothing_to_import_is_a_failure(keymux: Program) -> None:
    """An empty file is a mistake somewhere else."""
    done = keymux.run("keys", "add", "alpha", "--stdin", given="# nothing\n\n")

    assert done.code == 1
    assert "no keys were found" in done.err


def test_an_import_may_be_run_again(keymux: Program) -> None:
    """Secrets that are known are left alone and named; the rest is added."""
    keymux.good("keys", "add", "alpha", "--stdin", "--label", "first", given=ONE)

    done = keymux.good(
        "keys", "add", "alpha", "--stdin", "--label", "second", given=f"{ONE}\n{TWO}"
    )

    assert f"line 1: sk-...6789 is known already: key {id_of(ONE)} (healthy)" in done.err
    assert [record.label for record in keymux.pool().values()] == ["first", "second"]


def test_nothing_new_is_said(keymux: Program) -> None:
    """When all secrets are known, the command says so and ends well."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)

    assert keymux.good("keys", "add", "alpha", "--stdin", given=ONE).out == "alpha: nothing new\n"


def test_what_stands_there_twice_is_told(keymux: Program) -> None:
    """Duplicates within the input are named with the place of the first."""
    done = keymux.good("keys", "add", "alpha", "--stdin", given=f"{ONE}\n{TWO}\n{ONE}")

    assert "line 3: sk-...6789 stands at line 1 already" in done.err
    assert len(keymux.pool()) == 2


def test_a_backup_key_is_not_added_to_the_pool_beside_its_promotion(keymux: Program) -> None:
    """A spare secret comes into the pool by taking over for another, not by an import."""
    keymux.add_backups(backup(ONE))

    done = keymux.good("keys", "add", "alpha", "--stdin", given=ONE)

    assert f"is known already: backup key {id_of(ONE)} (spare)" in done.err
    assert keymux.pool() == {}


def test_a_key_of_the_pool_is_no_backup_key(keymux: Program) -> None:
    """A secret that serves cannot be spare at the same time."""
    keymux.add_keys(key(ONE))

    done = keymux.good("backup-keys", "add", "alpha", "--stdin", given=ONE)

    assert f"is known already: key {id_of(ONE)} (healthy)" in done.err
    assert keymux.backups() == {}


def test_the_same_secret_may_serve_two_providers(keymux: Program) -> None:
    """Providers do not know of each other."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    keymux.good("keys", "add", "beta", "--stdin", given=ONE)

    assert list(keymux.pool("alpha")) == list(keymux.pool("beta")) == [ONE]


def test_a_program_reads_the_report(keymux: Program) -> None:
    """--json tells what was added, known, repeated, bad and ignored."""
    keymux.add_keys(key(ONE, state=KeyState()))
    given = json.dumps(
        [ONE, {"apiKey": TWO, "label": "l", "note": "n"}, TWO, BAD, {"apiKey": THREE}]
    )

    done = keymux.run("keys", "add", "alpha", "--stdin", "--skip-bad", "--json", given=given)

    assert done.code == 1
    assert done.json == {
        "provider": "alpha",
        "keys": [
            {"id": id_of(TWO), "shown": "sk-...6789", "label": "l"},
            {"id": id_of(THREE), "shown": "sk-...5678", "label": ""},
        ],
        "backupKeys": [],
        "known": [
            {
                "where": "$[0]",
                "id": id_of(ONE),
                "shown": "sk-...6789",
                "heldAs": "key",
                "status": "healthy",
            }
        ],
        "repeated": [{"where": "$[2]", "first": "$[1]", "shown": "sk-...6789"}],
        "problems": [
            {
                "where": "$[3]",
                "why": "holds a space at position 7: give one key a line and nothing else",
                "shown": "sk-...6789",
            }
        ],
        "ignored": ["note"],
    }


def test_a_program_reads_what_was_bad(keymux: Program) -> None:
    """--json tells the problems also when nothing was imported."""
    done = keymux.run("keys", "add", "alpha", "--stdin", "--json", given=f"{ONE}\n{BAD}")

    assert done.code == 1
    assert [problem["where"] for problem in done.json["problems"]] == ["line 2"]
    assert done.json["keys"] == []


def test_backup_keys_of_a_file_are_left_for_seed(keymux: Program) -> None:
    """`keys add` takes the keys of a file with both kinds, and says what it left."""
    given = json.dumps({"keys": [ONE], "backupKeys": [TWO]})

    done = keymux.good("keys", "add", "alpha", "--stdin", given=given)

    assert "1 backup keys were left alone" in done.err
    assert (list(keymux.pool()), keymux.backups()) == ([ONE], {})


def test_keys_of_a_file_are_left_by_backup_keys_add(keymux: Program) -> None:
    """`backup-keys add` takes the backup keys of a file with both kinds."""
    given = json.dumps({"keys": [ONE], "backupKeys": [TWO]})

    done = keymux.good("backup-keys", "add", "alpha", "--stdin", given=given)

    assert "1 keys were left alone" in done.err
    assert (keymux.pool(), list(keymux.backups())) == ({}, [TWO])


def test_every_added_key_is_in_the_audit(keymux: Program) -> None:
    """The audit says who added which key."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)

    row = keymux.good("audit").rows[0]

    assert (row["action"], row["subject"]) == ("key.add", id_of(ONE))
    assert row["actor"].startswith("cli:")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("x" * 201, id="too long"),
        pytest.param("a\x1b[31m", id="with a control sequence"),
    ],
)
@pytest.mark.parametrize("option", ["--label", "--group"])
def test_labels_and_groups_are_checked(keymux: Program, option: str, words: str) -> None:
    """A label or group that could not be shown is refused."""
    done = keymux.run("keys", "add", "alpha", "--stdin", option, words, given=ONE)

    assert done.code == 2
    assert done.err.startswith(f"keymux: {option}: it has")


def test_many_bad_lines_do_not_flood_the_terminal(keymux: Program) -> None:
    """The first twenty are named, the rest is counted."""
    done = keymux.run("keys", "add", "alpha", "--stdin", given="\n".join(["bad"] * 50))

    assert done.err.count("too short") == 20
    assert "and 30 more bad entries" in done.err


def test_a_large_import_is_stored_whole(keymux: Program) -> None:
    """Several thousand lines are stored in chunks, and the report stays short."""
    given = "\n".join(f"sk-many-{number:09d}" for number in range(2_500))

    done = keymux.good("keys", "add", "alpha", "--stdin", given=given)

    assert "alpha: 2500 keys added" in done.out
    assert "and 2480 more" in done.out
    assert len(keymux.pool()) == 2_500
