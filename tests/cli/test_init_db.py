"""`keymux init-db`, and what commands say of a database they cannot use."""

import sqlite3
import stat

import pytest

from tests.cli.program import CONFIG, Program

ONE = "sk-one-0123456789"


def test_everything_is_created_and_named(keymux: Program) -> None:
    """The first time the schema and the tables of each provider are made."""
    done = keymux.good("init-db")

    assert "made: tables for the provider alpha" in done.out
    assert "made: tables for the provider beta" in done.out
    assert stat.S_IMODE((keymux.folder / "keymux.db").stat().st_mode) == 0o600


def test_the_second_time_there_is_nothing_to_do(keymux: Program) -> None:
    """It may be run again and says that all is there."""
    keymux.good("init-db")

    assert keymux.good("init-db").out == "nothing to do: the store has everything\n"


def test_a_provider_that_was_added_gets_its_tables(keymux: Program) -> None:
    """Only what is missing is made; what is there is kept."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    providers = {**CONFIG["providers"], "gamma": {"kind": "openhands"}}
    keymux.configure({**CONFIG, "providers": providers})

    done = keymux.good("init-db")

    assert done.out == "made: tables for the provider gamma\n"
    assert list(keymux.pool()) == [ONE]


def test_a_missing_folder_is_made_for_our_eyes_only(keymux: Program) -> None:
    """Secrets will be in it."""
    keymux.configure({**CONFIG, "store": "sqlite:///state/of/keymux.db"})

    done = keymux.good("init-db")

    folder = keymux.folder / "state" / "of"
    assert f"making the folder {folder}" in done.err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_explained(keymux: Program) -> None:
    """A file stands in the way."""
    (keymux.folder / "state").write_text("")
    keymux.configure({**CONFIG, "store": "sqlite:///state/of/keymux.db"})

    done = keymux.run("init-db")

    assert done.code == 1
    assert "cannot make the folder" in done.err


def test_programs_read_what_was_done(keymux: Program) -> None:
    """--json lists what was made; nothing the second time."""
    first, second = (keymux.good("init-db", "--json").json for _ in range(2))

    assert len(first["done"]) == 4
    assert second == {"store": "sqlite:///keymux.db", "done": []}


def test_a_database_of_another_program_is_left_alone(keymux: Program) -> None:
    """It is refused, and not a byte of it is changed."""
    path = keymux.folder / "keymux.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()

    done = keymux.run("init-db")

    assert done.code == 1
    assert "database of another program" in done.err
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_a_file_that_is_no_database_is_explained(keymux: Program) -> None:
    """Garbage is a message."""
    (keymux.folder / "keymux.db").write_bytes(b"garbage" * 1_000)

    done = keymux.run("keys", "list", "alpha")

    assert done.code == 1
    assert "the store cannot be used" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["keys", "list", "alpha"], id="keys list"),
        pytest.param(["keys", "disable", "alpha", "x"], id="keys disable"),
        pytest.param(["backup-keys", "list", "alpha"], id="backup-keys list"),
        pytest.param(["providers", "list"], id="providers list"),
        pytest.param(["clients", "list"], id="clients list"),
        pytest.param(["usage"], id="usage"),
        pytest.param(["explain", "free-model"], id="explain"),
        pytest.param(["audit"], id="audit"),
    ],
)
def test_looking_makes_no_database(keymux: Program, command: list[str]) -> None:
    """In the wrong folder a command says so instead of showing an empty world."""
    done = keymux.run(*command)

    assert done.code == 1
    assert f"there is no database at {keymux.folder / 'keymux.db'}" in done.err
    assert not (keymux.folder / "keymux.db").exists()


def test_adding_makes_the_database_and_says_so(keymux: Program) -> None:
    """The first keys need no other command before them."""
    done = keymux.good("keys", "add", "alpha", "--stdin", given=ONE)

    assert f"making the database {keymux.folder / 'keymux.db'}" in done.err


def test_a_folder_that_is_missing_is_explained_when_keys_are_added(keymux: Program) -> None:
    """Only init-db makes folders; the others say what is wrong."""
    keymux.configure({**CONFIG, "store": "sqlite:///state/keymux.db"})

    done = keymux.run("keys", "add", "alpha", "--stdin", given=ONE)

    assert done.code == 1
    assert "the store cannot be used now" in done.err
