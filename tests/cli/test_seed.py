"""`keymux seed`."""

import json

from tests.cli.program import Program

ONE, TWO, THREE = "sk-one-0123456789", "sk-two-0123456789", "sk-three-012345678"


def seed_file(keymux: Program, keys: list[str], backups: list[str]) -> None:
    """Write keys.json."""
    text = json.dumps({"keys": keys, "backupKeys": backups})
    (keymux.folder / "keys.json").write_text(text)


def test_keys_and_backup_keys_come_from_one_file(keymux: Program) -> None:
    """Both kinds land where they belong."""
    seed_file(keymux, [ONE], [TWO, THREE])

    done = keymux.good("seed", "alpha", "--file", "keys.json")

    assert "alpha: 1 key added" in done.out
    assert "alpha: 2 backup keys added" in done.out
    assert (list(keymux.pool()), list(keymux.backups())) == ([ONE], [TWO, THREE])


def test_it_may_be_run_again(keymux: Program) -> None:
    """What is there stays as it is; only new secrets are added."""
    seed_file(keymux, [ONE], [TWO])
    keymux.good("seed", "alpha", "--file", "keys.json")
    seed_file(keymux, [ONE, THREE], [TWO])

    done = keymux.good("seed", "alpha", "--file", "keys.json")

    assert "alpha: 1 key added" in done.out
    assert (list(keymux.pool()), list(keymux.backups())) == ([ONE, THREE], [TWO])


def test_a_backup_key_that_serves_is_not_seeded_anew(keymux: Program) -> None:
    """A secret that changed its place since the first time keeps it."""
    seed_file(keymux, [], [TWO])
    keymux.good("seed", "alpha", "--file", "keys.json")
    seed_file(keymux, [TWO], [])

    done = keymux.good("seed", "alpha", "--file", "keys.json")

    assert "is known already: backup key" in done.err
    assert keymux.pool() == {}


def test_a_bad_entry_stops_all(keymux: Program) -> None:
    """Neither kind is imported while one entry of either is bad."""
    seed_file(keymux, [ONE], ["bad key"])

    done = keymux.run("seed", "alpha", "--file", "keys.json")

    assert done.code == 1
    assert "$.backupKeys[0]: ***" in done.err
    assert not (keymux.folder / "keymux.db").exists()


def test_the_file_is_needed(keymux: Program) -> None:
    """Without --file the command line is wrong."""
    assert keymux.run("seed", "alpha").code == 2


def test_programs_read_the_report(keymux: Program) -> None:
    """--json has both kinds apart."""
    seed_file(keymux, [ONE], [TWO])

    found = keymux.good("seed", "alpha", "--file", "keys.json", "--json").json

    assert (len(found["keys"]), len(found["backupKeys"])) == (1, 1)
