"""`keymux migrate`: everything from one kind of store to the other, and back."""

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from bson import ObjectId
from msgspec.structs import replace
from pymongo import MongoClient

from keymux.core.egress import ExitState, ProxyAddress, ProxyType
from keymux.core.health import Event, Status
from keymux.core.records import ClientKeyRecord, ProviderState
from keymux.ids import first_id_at
from keymux.settings import load
from keymux.stores.moving import figures
from keymux.stores.opening import SealedStore, open_store
from keymux.stores.port import Batch
from tests.cli.program import CONFIG, KEYMUX, Program, backup, id_of, key
from tests.cli.test_running_server import seconds_until
from tests.contract.records import (
    NOON,
    attempt,
    binding,
    cooling,
    exchange,
    provider_transition,
    proxy,
    shaded,
    transition,
)
from tests.stores.mongo.server import any_server, database_on

FILE = "sqlite:///keymux.db"
KEYS = ("sk-one-0123456789", "sk-two-0123456789", "sk-three-0123456789")
SPARES = ("sk-spare-0123456789", "sk-more-0123456789")
PASSWORDS = ("pass-p1-0123456789", "pass-p2")
FULL = proxy(
    "p1",
    name="way out",
    address=ProxyAddress(ProxyType.SOCKS5, "2001:db8::1", 1080, "ann", PASSWORDS[0]),
    is_active=False,
    exits={"alpha": ExitState(Status.ERROR, NOON, "refused", 2, 5), "beta": ExitState()},
    last_latency_ms=12,
    last_checked_at=NOON,
    last_error="refused",
    fail_count=3,
)
ROWS = 2500


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A MongoDB-protocol server, or the one that the tests are pointed at."""
    with any_server() as found:
        yield found


@pytest.fixture
def uri(server: str) -> Iterator[str]:
    """An empty database."""
    with database_on(server) as found:
        yield found


def _store(keymux: Program, address: str) -> SealedStore:
    settings = load(keymux.config).model_copy(update={"store": address})
    if settings.database is not None:
        settings = settings.model_copy(update={"store": f"sqlite:///{keymux.folder}/keymux.db"})
        return open_store(settings, print)
    ring = keymux.folder / f"{address.rpartition('/')[2]}.mongodb.keyring.json"
    secrets = settings.secrets.model_copy(update={"key_ring": str(ring)})
    return open_store(settings.model_copy(update={"secrets": secrets}), print)


async def _fill(store: SealedStore) -> None:
    """Records of every kind, with every field in use somewhere."""
    await store.prepare(["alpha", "beta"])
    await store.proxies.add([FULL, proxy("p2"), proxy("p3", name="way out (p1)")], "me")
    one, two, three = (replace(key(secret), created_at=NOON) for secret in KEYS)
    await store.keys.add("alpha", [replace(one, label="first", group="team"), two, three], "me")
    await store.backups.add("alpha", [backup(secret, created_at=NOON) for secret in SPARES], "me")
    await store.keys.change("alpha", two.id, Event.DISABLE, actor="me", reason="rotating")
    bound = [binding("p1", two.id, priority=7, is_active=False), binding("gone", one.id)]
    await store.bindings.add("alpha", bound, "me")
    await store.bindings.add("beta", [binding("p1", "gone")], "me")
    await store.backups.promote("alpha", two.id, at=NOON, actor="me")
    for name, revoked in (("client_1", None), ("client_2", NOON)):
        record = ClientKeyRecord(name, f"hash of {name}", "km-...", "alice", ("m", "n"), NOON)
        await store.clients.add(record, "me")
        if revoked:
            await store.clients.revoke(name, at=revoked, actor="me")
    told = (
        transition("t1", cooling(60), key=one.id, provider="alpha"),
        transition("t2", shaded("opus", 90, 1), "opus", key=three.id, provider="alpha"),
        replace(
            provider_transition("t3", ProviderState(Status.ERROR, NOON, "down", 2, 3)),
            provider="beta",
        ),
    )
    rows = tuple(_row(number, one.id) for number in range(ROWS))
    await store.ledger.write(Batch(rows, told))
    await store.close()


def _row(number: int, key_id: str) -> Any:
    return exchange(
        number,
        id=f"{first_id_at(NOON + number)}{number:016x}",
        provider="alpha",
        key=key_id,
        attempts=(attempt(key_id, "alpha"),),
        cost_micros=None if number % 7 == 0 else number,
        upstream_id=f"up-{number}",
    )


async def _everything(store: SealedStore) -> dict[str, Any]:
    """All there is, as the port tells it."""
    await store.prepare(["alpha", "beta"])
    found = {
        "keys": sorted(await store.keys.load("alpha"), key=lambda one: one.id),
        "backups": sorted(await store.backups.load("alpha"), key=lambda one: one.id),
        "proxies": await store.proxies.load(),
        "bindings": [await store.bindings.load(name) for name in ("alpha", "beta")],
        "clients": await store.clients.load(),
        "states": [await store.provider_state(name) for name in ("alpha", "beta")],
        "audit": await store.audit.since(0, 10_000),
        "rows": await store.ledger.latest(ROWS + 10),
    }
    await store.close()
    return found


def _in(keymux: Program, address: str) -> dict[str, Any]:
    return asyncio.run(_everything(_store(keymux, address)))


def _figures(keymux: Program, address: str) -> dict[str, str]:
    async def work(store: SealedStore) -> dict[str, str]:
        await store.prepare(["alpha", "beta"])
        found = await figures(store.everything, store.ledger, ["alpha", "beta"])
        await store.close()
        return found

    return asyncio.run(work(_store(keymux, address)))


@pytest.fixture
def filled(keymux: Program) -> Program:
    """An embedded store with records of every kind."""
    asyncio.run(_fill(_store(keymux, FILE)))
    return keymux


def _secrets_in(uri: str) -> set[str]:
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        dump = repr([list(database[name].find()) for name in database.list_collection_names()])
    return {secret for secret in (*KEYS, *SPARES, *PASSWORDS) if secret in dump}


# -- there and back ------------------------------------------------------------------------------
def test_everything_arrives_and_comes_back(filled: Program, uri: str) -> None:
    """Records, states, counters, ids and order are the same in both stores and after both ways."""
    before = _in(filled, FILE)
    there = filled.good("migrate", "--to", uri)
    between = _in(filled, uri)
    (filled.folder / "keymux.db").rename(filled.folder / "first.db")
    back = filled.good("migrate", "--from", uri, "--to", FILE)
    after = _in(filled, FILE)

    assert between == before
    assert after == before
    assert len(before["rows"]) == ROWS
    assert before["proxies"][0] == FULL
    assert [len(each) for each in before["bindings"]] == [3, 1]
    assert "everything is there" in there.err
    assert "everything is there" in back.err
    assert _secrets_in(uri) == set()


def test_both_sides_are_shown(filled: Program, uri: str) -> None:
    """Counts, tokens by class, cost, and whether they are the same."""
    rows = {row["what"]: row for row in filled.good("migrate", "--to", uri).rows}

    assert rows["exchanges"] == {
        "what": "exchanges",
        "source": str(ROWS),
        "target": str(ROWS),
        "same": "yes",
    }
    assert rows["alpha_keys"]["target"] == "4"
    assert rows["exchanges: output tokens"]["target"] == str(20 * ROWS)
    assert int(rows["exchanges: cost in micro-dollars"]["source"]) > 0
    assert (rows["proxies"]["target"], rows["alpha_bindings"]["target"]) == ("3", "3")
    assert {"proxies: hash of addresses", "beta_bindings: hash of pairs"} <= rows.keys()
    assert rows["alpha_keys: tokens used"]["target"] == str(150 * ROWS)
    assert {row["same"] for row in rows.values()} == {"yes"}


def test_the_source_is_not_changed(filled: Program, uri: str) -> None:
    """Not one row, not even a note."""
    with closing(sqlite3.connect(filled.folder / "keymux.db")) as connection:
        before = list(connection.iterdump())
    filled.good("migrate", "--to", uri)
    with closing(sqlite3.connect(filled.folder / "keymux.db")) as connection:
        after = list(connection.iterdump())

    assert after == before


def test_a_legacy_database_is_brought_over(keymux: Program, uri: str) -> None:
    """Documents of other programs: ids of MongoDB's own, plain keys, missing fields."""
    first, second, way = ObjectId(), ObjectId(), ObjectId()
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        database["alpha_keys"].insert_many(
            [
                {"_id": first, "apiKey": KEYS[0], "status": "healthy", "note": "ours"},
                {"_id": second, "apiKey": KEYS[1], "status": "exhausted", "tokensUsed": 7.0},
            ]
        )
        database["alpha_backup_keys"].insert_one({"apiKey": SPARES[0], "isUsed": False})
        database["proxies"].insert_many(
            [
                {
                    "_id": way,
                    "host": "h",
                    "port": 3128.0,
                    "type": "socks5h",
                    "password": "pw-12345",
                },
                {"_id": "twin", "host": "h", "port": 3128, "type": "socks5"},
            ]
        )
        database["alpha_bindings"].insert_many(
            [
                {"_id": "x", "proxyId": way, "alphaKeyId": first},
                {"_id": "y", "proxyId": 7, "alphaKeyId": second},
            ]
        )
        before = repr([list(database[n].find()) for n in sorted(database.list_collection_names())])
    keymux.good("migrate", "--from", uri, "--to", FILE)
    found = keymux.pool()
    egress = _in(keymux, FILE)
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        after = repr([list(database[n].find()) for n in sorted(database.list_collection_names())])

    assert {record.id: secret for secret, record in found.items()} == {
        str(first): KEYS[0],
        str(second): KEYS[1],
    }
    assert found[KEYS[1]].state.status is Status.EXHAUSTED
    assert found[KEYS[1]].tokens_used == 7
    assert list(keymux.backups()) == [SPARES[0]]
    assert [one.id for one in egress["proxies"]] == [str(way), "twin"]
    assert egress["proxies"][0].address == ProxyAddress(
        ProxyType.SOCKS5, "h", 3128, password="pw-12345"
    )
    assert [(one.proxy_id, one.key_id) for one in egress["bindings"][0]] == [
        (str(way), str(first)),
        ("", str(second)),
    ]
    assert after == before
    dump = b"".join(path.read_bytes() for path in keymux.folder.glob("keymux.db*"))
    assert not [one for one in (*KEYS, *SPARES, "pw-12345") if one.encode() in dump]


def test_addresses_that_are_there_twice_come_back(keymux: Program, uri: str, server: str) -> None:
    """Other programs may have written one twice; both proxies are brought to the file and back."""
    with MongoClient[dict[str, Any]](uri) as client:
        twins = [{"_id": f"p{n}", "host": "h", "port": 3128, "name": "out"} for n in (1, 2)]
        client.get_default_database()["proxies"].insert_many(twins)
    keymux.good("migrate", "--from", uri, "--to", FILE)
    with database_on(server) as another:
        keymux.good("migrate", "--to", another)
        found = _in(keymux, another)["proxies"]

    assert [(one.id, one.name) for one in found] == [("p1", "out"), ("p2", "out (p2)")]
    assert found == _in(keymux, FILE)["proxies"]


@pytest.mark.parametrize(
    ("change", "different"),
    [
        pytest.param(
            "UPDATE proxies SET password = 'other' WHERE _id = 'p1'",
            "proxies: hash of addresses",
            id="a password",
        ),
        pytest.param(
            "UPDATE proxies SET host = 'other' WHERE _id = 'p1'",
            "proxies: hash of addresses",
            id="an address",
        ),
        pytest.param(
            "UPDATE beta_bindings SET priority = 5", "beta_bindings: hash of pairs", id="a priority"
        ),
        pytest.param(
            "UPDATE beta_bindings SET proxyId = 'p2'", "beta_bindings: hash of pairs", id="a proxy"
        ),
    ],
)
def test_what_differs_is_named_and_mended(
    filled: Program, uri: str, change: str, different: str
) -> None:
    """Whatever was changed in the source after it was brought over is brought over again."""
    filled.good("migrate", "--to", uri)
    before = _figures(filled, FILE)
    with closing(sqlite3.connect(filled.folder / "keymux.db")) as connection, connection:
        connection.execute(change)
    after = _figures(filled, FILE)
    with MongoClient[dict[str, Any]](uri) as client:
        marks = client.get_default_database()["keymux_meta"]
        marks.update_one({"_id": "migration"}, {"$set": {"done": False}})
    filled.good("migrate", "--to", uri)

    assert {what for what in after if after[what] != before[what]} == {different}
    assert _figures(filled, uri) == after


def test_a_pair_that_is_there_twice_is_a_difference(keymux: Program, uri: str) -> None:
    """It is named: an operator has to say which one is meant."""
    with MongoClient[dict[str, Any]](uri) as client:
        pair = {"proxyId": "p1", "alphaKeyId": "k1"}
        twins = [{"_id": "x", **pair}, {"_id": "y", **pair}]
        client.get_default_database()["alpha_bindings"].insert_many(twins)
    done = keymux.run("migrate", "--from", uri, "--to", FILE)

    assert done.code == 1
    assert "the document 'y' is left out: 'x' binds the same key to the same proxy" in done.err
    assert "differ in alpha_bindings" in done.err


# -- interrupted and repeated --------------------------------------------------------------------
@pytest.mark.parametrize("share", [0, 1, 1000, 2000])
def test_it_may_be_killed_and_run_again(filled: Program, uri: str, share: int) -> None:
    """Nothing is there twice, and nothing is missing."""
    process = subprocess.Popen(
        [KEYMUX, "migrate", "--to", uri],
        cwd=filled.folder,
        env=filled.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        try:
            seconds_until(
                lambda: (
                    (
                        database["keymux_meta"].find_one({"_id": "migration"}) is not None
                        and database["exchanges"].count_documents({}) >= share
                    )
                    or process.poll() is not None
                )
            )
        finally:
            process.kill()
            ended = process.wait()
    if ended:
        done = filled.good("migrate", "--to", uri)

        assert "going on with what was begun before" in done.err
    assert _in(filled, uri) == _in(filled, FILE)


def test_what_the_gateway_wrote_meanwhile_is_noticed_and_fetched(filled: Program, uri: str) -> None:
    """A difference ends with 1 and names it; the next run brings it over."""
    filled.good("migrate", "--to", uri)
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        database["keymux_meta"].update_one({"_id": "migration"}, {"$set": {"done": False}})
        database["exchanges"].update_one({"_id": _row(9, "k").id}, {"$inc": {"costMicros": 1}})
    different = filled.run("migrate", "--to", uri)
    with MongoClient[dict[str, Any]](uri) as client:
        client.get_default_database()["exchanges"].delete_one({"_id": _row(9, "k").id})
    again = filled.good("migrate", "--to", uri)

    assert different.code == 1
    assert "differ in exchanges: cost in micro-dollars" in different.err
    assert {row["what"] for row in different.rows if row["same"] == "NO"} == {
        "exchanges: cost in micro-dollars"
    }
    assert "everything is there" in again.err


def test_a_record_that_cannot_be_opened_is_a_difference(filled: Program, uri: str) -> None:
    """It is named, and not brought over as it is."""
    with closing(sqlite3.connect(filled.folder / "keymux.db")) as connection, connection:
        broken = id_of(KEYS[2])
        connection.execute("UPDATE alpha_keys SET apiKey = 'v1:x' WHERE _id = ?", (broken,))
    done = filled.run("migrate", "--to", uri)

    assert done.code == 1
    assert f"alpha_keys: '{broken}' is left out" in done.err
    assert "differ in alpha_keys" in done.err


# -- refused -------------------------------------------------------------------------------------
def test_a_target_with_records_of_its_own_is_refused(filled: Program, uri: str) -> None:
    """They stay as they are."""
    with MongoClient[dict[str, Any]](uri) as client:
        database = client.get_default_database()
        database["alpha_keys"].insert_one({"_id": "k1", "apiKey": KEYS[0], "status": "healthy"})
    done = filled.run("migrate", "--to", uri)

    assert done.code == 1
    assert "records of its own in alpha_keys" in done.err
    assert [record.id for record in _in(filled, uri)["keys"]] == ["k1"]


def test_a_target_that_is_full_is_refused(filled: Program, uri: str) -> None:
    """It may be in use by now: what happened there would be lost."""
    filled.good("migrate", "--to", uri)
    done = filled.run("migrate", "--to", uri)

    assert done.code == 1
    assert "filled from" in done.err


def test_a_target_of_another_source_is_refused(filled: Program, uri: str) -> None:
    """Two stores are never mixed."""
    with MongoClient[dict[str, Any]](uri) as client:
        client.get_default_database()["keymux_meta"].insert_one(
            {"_id": "migration", "source": "/elsewhere.db", "done": False}
        )
    done = filled.run("migrate", "--to", uri)

    assert done.code == 1
    assert "being filled from /elsewhere.db" in done.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(("--to", "sqlite:///other.db"), "of one kind", id="two files"),
        pytest.param(("--to", "mongodb://u:p4ss@host/x"), "never taken", id="a password"),
        pytest.param(("--to", "env.NOWHERE"), "NOWHERE is not set", id="a missing variable"),
        pytest.param(("--to", "postgres://host/x"), "--to: use sqlite", id="no such store"),
        pytest.param(
            ("--from", "sqlite:///:memory:", "--to", "mongodb://host/x"), "--from", id="no file"
        ),
    ],
)
def test_wrong_addresses_are_refused(keymux: Program, arguments: tuple[str, ...], why: str) -> None:
    """Before anything is opened, and without repeating a password."""
    done = keymux.run("migrate", *arguments)

    assert done.code == 2
    assert why in done.err
    assert "p4ss" not in done.err


def test_a_missing_source_is_named(keymux: Program) -> None:
    """No empty database is made in its place."""
    done = keymux.run("migrate", "--to", "mongodb://127.0.0.1:1/x")

    assert done.code == 1
    assert f"there is no database at {keymux.folder / 'keymux.db'}" in done.err
    assert not (keymux.folder / "keymux.db").exists()


def test_a_server_that_is_away_is_told_without_its_password(filled: Program) -> None:
    """The address comes from a variable then."""
    far = "mongodb://u:p4ssword@127.0.0.1:1/x?serverSelectionTimeoutMS=200"
    done = filled.run("migrate", "--to", "env.FAR", FAR=far)

    assert done.code == 1
    assert "cannot be used now" in done.err
    assert "p4ssword" not in done.err


def test_the_ring_of_the_config_serves_both(keymux: Program, uri: str) -> None:
    """A ring that the config names belongs to whichever store the config names."""
    keymux.configure({**CONFIG, "secrets": {"key_ring": "ring.json"}})
    keymux.good("keys", "add", "alpha", "--stdin", given=KEYS[0])
    keymux.good("migrate", "--to", uri)
    keymux.configure({**CONFIG, "store": uri, "secrets": {"key_ring": "ring.json"}})

    assert KEYS[0][-4:] in keymux.good("keys", "list", "alpha").out
    assert [path.name for path in keymux.folder.glob("*ring.json")] == ["ring.json"]
    assert len(json.loads((keymux.folder / "ring.json").read_text())["keys"]) == 1
