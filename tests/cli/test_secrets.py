"""`keymux secrets`: sealing what is in the store, and looking after the key ring."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keymux.stores.sealing.ring import new_ring
from keymux.stores.sealing.vault import key_id_of
from tests.cli.program import CONFIG, KEYMUX, Program, backup, key
from tests.cli.test_running_server import seconds_until

ONE, TWO, SPARE = "sk-one-0123456789", "sk-two-0123456789", "sk-spare-0123456789"
MANY = 3000


def _ring_path(keymux: Program) -> Path:
    return keymux.folder / "keymux.keyring.json"


def _ring(keymux: Program) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_ring_path(keymux).read_text())
    return found


def _stored(keymux: Program, table: str = "alpha_keys") -> list[str]:
    with closing(sqlite3.connect(keymux.folder / "keymux.db", timeout=20)) as connection:
        found = connection.execute(f"SELECT apiKey FROM {table} ORDER BY _id")  # noqa: S608 -- ours
        return [row[0] for row in found]


def _dump(keymux: Program) -> bytes:
    """Every byte of the database, free pages and the log included."""
    return b"".join(path.read_bytes() for path in sorted(keymux.folder.glob("keymux.db*")))


def _many() -> list[str]:
    return [f"sk-many-{number:010d}" for number in range(MANY)]


@pytest.fixture
def legacy(keymux: Program) -> Program:
    """A database of a time when nothing was sealed, with traces of keys that were removed."""
    keymux.add_keys(*(key(secret) for secret in _many()))
    removed = [key(secret).id for secret in _many()[100:]]

    async def remove(store: Any) -> None:
        await store._database.run(lambda connection: connection.execute("PRAGMA secure_delete = 0"))
        for key_id in removed:
            await store.keys.remove("alpha", key_id, "test")

    keymux.store(remove)
    keymux.add_keys(key(ONE), key(TWO))
    keymux.add_backups(backup(SPARE))
    return keymux


# -- the ring ------------------------------------------------------------------------------------
def test_the_first_command_that_adds_a_key_makes_the_ring(keymux: Program) -> None:
    """It says where, once, and that it belongs into a safe place."""
    done = keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    again = keymux.good("keys", "add", "alpha", "--stdin", given=TWO)

    assert f"made the key ring {_ring_path(keymux)}" in done.err
    assert "worthless" in done.err
    assert "key ring" not in again.err
    assert set(keymux.pool()) == {ONE, TWO}
    assert ONE.encode() not in _dump(keymux)


def test_a_command_that_only_looks_makes_no_ring(keymux: Program) -> None:
    """A legacy store stays as it is until something is written."""
    keymux.add_keys(key(ONE))
    keymux.good("keys", "list", "alpha")

    assert not _ring_path(keymux).exists()


def test_init_makes_a_ring_and_may_be_run_again(keymux: Program) -> None:
    """The ring that is there stays."""
    first = keymux.good("secrets", "init")
    again = keymux.good("secrets", "init")
    (kid,) = _ring(keymux)["keys"]

    assert first.out == again.out == f"keymux.keyring.json: the current key is {kid}\n"


def test_a_missing_ring_is_refused_by_every_command(keymux: Program) -> None:
    """Serving included; the message names the file and the key."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    (kid,) = _ring(keymux)["keys"]
    _ring_path(keymux).unlink()
    said = [
        keymux.run(*command)
        for command in (
            ("serve",),
            ("keys", "list", "alpha"),
            ("secrets", "init"),
            ("secrets", "encrypt"),
            ("init-db",),
        )
    ]

    assert [done.code for done in said] == [1] * 5
    assert all(str(_ring_path(keymux)) in done.err for done in said)
    assert all(f"sealed with the key {kid}" in done.err for done in said)
    assert not _ring_path(keymux).exists()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        pytest.param(lambda path: path.chmod(0o640), "chmod 600", id="others may read it"),
        pytest.param(lambda path: path.write_text(new_ring().text()), "lacks", id="another ring"),
        pytest.param(lambda path: path.write_text("{"), "not JSON", id="a spoilt ring"),
    ],
)
def test_a_wrong_ring_keeps_the_gateway_from_starting(
    keymux: Program, spoil: Callable[[Path], object], why: str
) -> None:
    """It says why, and shows nothing of a key."""
    keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    spoil(_ring_path(keymux))
    done = keymux.run("serve")

    assert done.code == 1
    assert why in done.err
    assert "not started" in done.err


def test_a_ring_may_come_from_the_environment(keymux: Program) -> None:
    """As `secrets init --print` makes it; no file is written."""
    text = keymux.good("secrets", "init", "--print").out
    keymux.configure({**CONFIG, "secrets": {"key_ring": "env.RING"}})
    added = keymux.run("keys", "add", "alpha", "--stdin", given=ONE, RING=text)
    listed = keymux.run("keys", "list", "alpha", RING=text)
    turned = keymux.run("secrets", "rotate", RING=text)

    assert (added.code, listed.code) == (0, 0)
    assert ONE[-4:] in listed.out
    assert [key_id_of(stored) for stored in _stored(keymux)] == [json.loads(text)["current"]]
    assert not _ring_path(keymux).exists()
    assert turned.code == 1
    assert "in the environment" in turned.err


def test_plain_by_choice_is_warned_of(keymux: Program) -> None:
    """Nothing is sealed, and what would seal is refused."""
    keymux.configure({**CONFIG, "secrets": {"plain": True}})
    added = keymux.good("keys", "add", "alpha", "--stdin", given=ONE)
    refused = [keymux.run("secrets", name) for name in ("encrypt", "rotate", "init")]

    assert "stored in plain" in added.err
    assert _stored(keymux) == [ONE]
    assert [done.code for done in refused] == [1] * 3
    assert all("$.secrets.plain" in done.err for done in refused)


# -- status --------------------------------------------------------------------------------------
def test_the_status_counts_by_key(legacy: Program) -> None:
    """And says what can be done about the rest."""
    before = legacy.good("secrets", "status").out
    legacy.good("secrets", "encrypt")
    after = legacy.good("secrets", "status").out
    (kid,) = _ring(legacy)["keys"]

    assert "there is none" in before
    assert "alpha_keys: 102 in plain: `keymux secrets encrypt` seals them" in before
    assert f"the current key is {kid}" in after
    assert f"alpha_keys: 102 sealed with {kid}\n" in after
    assert f"alpha_backup_keys: 1 sealed with {kid}\n" in after
    assert "beta_keys: no secrets" in after


def test_the_status_names_what_cannot_be_opened(keymux: Program) -> None:
    """As a program reads it too; the exit status says that something is wrong."""
    keymux.good("keys", "add", "alpha", "--stdin", given=f"{ONE}\n{TWO}")
    one, other = _stored(keymux)
    with closing(sqlite3.connect(keymux.folder / "keymux.db")) as connection, connection:
        connection.execute("UPDATE alpha_keys SET apiKey = ? WHERE apiKey = ?", (other, one))
    done = keymux.run("secrets", "status", "--json")
    (collection,) = [each for each in done.json["collections"] if each["broken"]]

    assert done.code == 1
    assert collection["collection"] == "alpha_keys"
    assert "cannot be opened" in done.err
    assert collection["broken"][0] in done.err


# -- encrypt -------------------------------------------------------------------------------------
def test_nothing_is_left_after_everything_was_sealed(legacy: Program) -> None:
    """Neither in the rows, nor in free pages, nor in the log: removed keys are gone as well."""
    traces = _dump(legacy)
    done = legacy.good("secrets", "encrypt")
    dump = _dump(legacy)
    again = legacy.good("secrets", "encrypt")

    assert _many()[MANY - 1].encode() in traces
    assert done.out == "103 secrets were sealed\n"
    assert "snapshots and earlier backups" in done.err
    assert again.out == "all secrets are sealed\n"
    assert not [secret for secret in (*_many(), ONE, TWO, SPARE) if secret.encode() in dump]
    assert set(legacy.pool()) == {*_many()[:100], ONE, TWO}
    assert set(legacy.backups()) == {SPARE}


def test_client_keys_were_never_in_the_store(legacy: Program) -> None:
    """They are hashed; a dump has no secret of any kind."""
    secret = legacy.good("clients", "add", "--json").json["secret"]
    legacy.good("secrets", "encrypt")

    assert secret.encode() not in _dump(legacy)


def test_sealing_is_written_down(legacy: Program) -> None:
    """Who did it, and how many secrets it was."""
    legacy.good("secrets", "encrypt")
    legacy.good("secrets", "rotate")
    rows = legacy.good("audit", "--json").json
    found = [(row["action"], row["subject"]) for row in rows if row["action"][:8] == "secrets."]

    assert [action for action, _ in found] == [
        "secrets.retire",
        "secrets.rotate",
        "secrets.encrypt",
    ]
    assert found[-1] == ("secrets.encrypt", "103")
    assert all(row["actor"].startswith("cli:") for row in rows if row["action"][:8] == "secrets.")


@pytest.fixture
def large(keymux: Program) -> Program:
    """A legacy database whose sealing takes a while."""
    keymux.add_keys(*(key(secret) for secret in _many()))
    return keymux


def _killed(keymux: Program, command: str, when: Callable[[], bool]) -> int:
    """Start a command and end it without a chance as soon as something holds."""
    process = subprocess.Popen(
        [KEYMUX, "secrets", command],
        cwd=keymux.folder,
        env=keymux.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seconds_until(lambda: when() or process.poll() is not None)
    finally:
        process.kill()
    return process.wait()


def _sealed_with(keymux: Program, kid: str = "") -> int:
    kids = [key_id_of(stored) for stored in _stored(keymux)]
    return sum(found == kid if kid else found != "" for found in kids)


@pytest.mark.parametrize("share", [0, 1, 600, 2000, MANY - 1])
def test_sealing_may_be_killed_and_run_again(large: Program, share: int) -> None:
    """Every key opens in between, and nothing is plain in the end."""
    _killed(large, "encrypt", lambda: _sealed_with(large) >= share)
    between = set(large.pool())
    large.good("secrets", "encrypt")
    dump = _dump(large)

    assert between == set(_many())
    assert set(large.pool()) == set(_many())
    assert _sealed_with(large) == MANY
    assert not [secret for secret in _many() if secret.encode() in dump]


# -- rotate --------------------------------------------------------------------------------------
def test_a_rotation_replaces_the_key(legacy: Program) -> None:
    """Everything is sealed with the new one, and the old one leaves the ring."""
    legacy.good("secrets", "encrypt")
    (old,) = _ring(legacy)["keys"]
    done = legacy.good("secrets", "rotate")
    ring = _ring(legacy)

    assert list(ring) == ["current", "keys"]
    assert list(ring["keys"]) == [ring["current"]] != [old]
    assert _sealed_with(legacy, ring["current"]) == 102
    assert done.out.splitlines()[0] == "103 secrets were sealed"
    assert f"{old} is no longer in the key ring" in done.out
    assert set(legacy.pool()) == {*_many()[:100], ONE, TWO}


def test_old_keys_are_kept_on_demand_and_let_go_later(legacy: Program) -> None:
    """Other hosts need them until they have the new ring."""
    legacy.good("secrets", "encrypt")
    prepared = legacy.good("secrets", "rotate", "--prepare")
    upcoming = _ring(legacy)["next"]
    legacy.good("secrets", "rotate", "--keep-old")
    kept = _ring(legacy)
    legacy.good("secrets", "rotate", "--finish")

    assert upcoming in prepared.err
    assert (kept["current"], len(kept["keys"])) == (upcoming, 2)
    assert list(_ring(legacy)["keys"]) == [upcoming]


def test_preparing_goes_with_nothing_else(keymux: Program) -> None:
    """It is refused before anything is changed."""
    keymux.good("secrets", "init")

    assert keymux.run("secrets", "rotate", "--prepare", "--keep-old").code == 2


@pytest.mark.parametrize("share", [0, 1, 600, 2000, MANY])
def test_a_rotation_may_be_killed_and_run_again(large: Program, share: int) -> None:
    """It is finished then, with the key that it began with; every key opens all the time."""
    large.good("secrets", "encrypt")
    (old,) = _ring(large)["keys"]

    def is_time() -> bool:
        current = str(_ring(large)["current"])
        return current != old and _sealed_with(large, current) >= share

    _killed(large, "rotate", is_time)
    begun = _ring(large)["current"]
    between = set(large.pool())
    was_cut = _ring(large).get("rotating", False)
    done = large.good("secrets", "rotate") if was_cut else None
    ring = _ring(large)

    assert begun != old
    assert between == set(large.pool()) == set(_many())
    assert done is None or "finishing the rotation" in done.err
    assert list(ring["keys"]) == [ring["current"]] == [begun]
    assert _sealed_with(large, begun) == MANY
