"""A file that an earlier keymux has made is brought up to date."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keymux.core.egress import Observation, Repaired
from keymux.stores.port import StoreUnavailable, StoreUnusable
from keymux.stores.sqlite import SqliteStore
from keymux.stores.sqlite.database import _OUR_APPLICATION, SCHEMA_VERSION, _statements
from tests.contract.places import SqlitePlace, opened
from tests.contract.records import ACME, NOON, OPERATOR, OTHER, binding, key, pairs_in, proxy, spare

pytestmark = pytest.mark.anyio

EGRESS = {"proxies", f"{ACME}_bindings", f"{OTHER}_bindings"}


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    """A file of schema 1 with two providers, a key and a spare."""
    place = SqlitePlace(tmp_path)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as connection:
        for statement in _statements("1.sql"):
            connection.execute(statement)
        for provider in (ACME, OTHER):
            for statement in _statements("1.provider.sql", provider):
                connection.execute(statement)
            connection.execute("INSERT INTO provider_states (provider) VALUES (?)", (provider,))
        connection.execute(
            "INSERT INTO acme_keys (_id, apiKey, keyHash, createdAt) VALUES ('k1', 's', 'h', 1)"
        )
        connection.execute(
            "INSERT INTO acme_backup_keys (_id, apiKey, keyHash, createdAt) "
            "VALUES ('b1', 't', 'i', 1)"
        )
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"PRAGMA application_id = {_OUR_APPLICATION}")
    return place


def _tables(place: SqlitePlace) -> set[str]:
    with closing(sqlite3.connect(place.path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}


def _version(place: SqlitePlace) -> int:
    with closing(sqlite3.connect(place.path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def test_schema_1_gets_proxies_and_bindings(place: SqlitePlace) -> None:
    """For every provider that is there, named or not; what was there stays, and all of it works."""
    assert not EGRESS & _tables(place)
    async with opened(place) as store:
        done = await store.prepare([ACME])
        await store.proxies.add([proxy("p1")], OPERATOR)
        await store.bindings.add(ACME, [binding("p1", "k1")], OPERATOR)
        await store.backups.promote(ACME, "k1", at=1, actor="host:1")
        pairs = await pairs_in(store)

        assert await store.prepare([ACME, OTHER]) == []
        assert await store.bindings.load(OTHER) == []

    assert done == ["schema 2"]
    assert _tables(place) >= EGRESS
    assert _version(place) == SCHEMA_VERSION
    assert pairs == [("b1", "p1"), ("k1", "p1")]


async def test_a_new_provider_gets_all_tables(place: SqlitePlace) -> None:
    """Those of every step."""
    async with opened(place) as store:
        done = await store.prepare(["third"])
        await store.keys.add("third", [key("k1")], OPERATOR)
        await store.backups.add("third", [spare("b1")], OPERATOR)

        assert await store.bindings.repair("third", OPERATOR) == Repaired()
    assert done == ["schema 2", "tables for the provider third"]


@pytest.mark.parametrize(
    ("table", "provider"), [("acme_bindings", "third"), ("third_bindings", "third")]
)
async def test_a_table_of_something_else(place: SqlitePlace, table: str, provider: str) -> None:
    """It is in the way: nothing is changed."""
    with closing(sqlite3.connect(place.path)) as connection, connection:
        connection.execute(f"CREATE TABLE {table} (cover TEXT)")
    before = _tables(place)
    async with opened(place) as store:
        with pytest.raises((StoreUnusable, StoreUnavailable), match=f"table {table}"):
            await store.prepare([provider])

    assert _tables(place) == before
    assert _version(place) == 1


async def test_a_pair_is_kept_once_by_the_file(place: SqlitePlace) -> None:
    """Unless nobody knows its proxy."""
    async with opened(place) as store:
        await store.prepare([ACME])
        fresh = [binding("", "k1", "x"), binding("", "k1", "y"), binding("p1", "k1")]
        await store.bindings.add(ACME, fresh, OPERATOR)
    insert = "INSERT INTO acme_bindings (_id, proxyId, acmeKeyId, createdAt) VALUES (?, 'p1', ?, 1)"
    with closing(sqlite3.connect(place.path)) as connection, connection:
        connection.execute(insert, ("z", "k2"))
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(insert, ("w", "k1"))
        count = connection.execute("SELECT count(*) FROM acme_bindings").fetchone()[0]

    assert count == 4


# -- what somebody changed by hand -----------------------------------------------------------------
async def test_a_proxy_that_cannot_be_understood(place: SqlitePlace) -> None:
    """It is told of once and left out; it can be removed all the same."""
    told: list[str] = []
    async with opened(place) as first:
        await first.prepare([ACME])
        await first.proxies.add([proxy("p1"), proxy("p2")], OPERATOR)
    with closing(sqlite3.connect(place.path)) as connection, connection:
        connection.execute("UPDATE proxies SET type = 'socks4' WHERE _id = 'p1'")
        connection.execute("UPDATE proxies SET exits = 'none' WHERE _id = 'p2'")
    store = SqliteStore(place.path, tell=told.append)
    loaded = [await store.proxies.load() for _ in range(2)]
    await store.proxies.observe("p1", Observation(NOON, {}), "host:1")
    await store.proxies.remove("p1", OPERATOR)
    await store.close()

    assert loaded == [[proxy("p2")]] * 2
    assert told == ["proxies: 'p1' is left out: keymux knows no proxies of its type"]
