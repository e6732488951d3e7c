"""What is left in the file after secrets were sealed: nothing."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keymux.stores.port import StoreUnavailable
from keymux.stores.sealing.resealing import reseal
from keymux.stores.sealing.ring_file import RingFile
from keymux.stores.sealing.vault import Vault
from keymux.stores.sqlite import SqliteStore
from tests.contract.records import ACME, key

pytestmark = pytest.mark.anyio

PATIENCE_S = 0.05


def _dump(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("keymux.db*"))


def _careless(connection: sqlite3.Connection) -> None:
    """As files were written before."""
    connection.execute("PRAGMA secure_delete = 0")


async def _legacy(folder: Path, *work: Callable[[sqlite3.Connection], object]) -> None:
    """A file in which keys were removed without wiping."""
    store = SqliteStore(folder / "keymux.db")
    await store.prepare([ACME])
    for one in work:
        await store._database.run(one)
    names = [f"k{number:04d}" for number in range(1000)]
    await store.keys.add(ACME, [key(name) for name in names], "me")
    for name in names[10:]:
        await store.keys.remove(ACME, name, "me")
    await store.close()


def _sealing(folder: Path) -> SqliteStore:
    ring = RingFile(folder / "ring.json")
    return SqliteStore(folder / "keymux.db", PATIENCE_S, vault=Vault(ring, may_make=True))


async def test_no_page_of_the_file_keeps_what_was_there(tmp_path: Path) -> None:
    """Neither what was sealed nor what was removed before, in the file and in its log."""
    await _legacy(tmp_path, _careless)
    traces = _dump(tmp_path)
    store = _sealing(tmp_path)
    await store.prepare([ACME])
    await reseal(store.vault, store.secrets, lambda *_: None)
    left = await store.secrets.wipe()
    dump = _dump(tmp_path)
    await store.close()

    assert traces.count(b"secret-k") > 10
    assert dump.count(b"secret-k") == 0
    assert "backups" in left


async def test_a_removed_key_leaves_no_trace(tmp_path: Path) -> None:
    """What is deleted is overwritten at once."""
    await _legacy(tmp_path)

    assert b"secret-k0500" not in (tmp_path / "keymux.db").read_bytes()


async def test_wiping_that_was_kept_from_ending_is_done_next_time(tmp_path: Path) -> None:
    """Somebody who reads an old state of the file needs the log; that is said."""
    await _legacy(tmp_path)
    store = _sealing(tmp_path)
    await store.prepare([ACME])
    with closing(sqlite3.connect(tmp_path / "keymux.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM acme_keys").fetchone()
        await reseal(store.vault, store.secrets, lambda *_: None)
        with pytest.raises(StoreUnavailable, match="still hold earlier values"):
            await store.secrets.wipe()
    again = await store.secrets.wipe()
    third = await store.secrets.wipe()
    dump = _dump(tmp_path)
    await store.close()

    assert again != ""
    assert third == ""
    assert dump.count(b"secret-k") == 0
