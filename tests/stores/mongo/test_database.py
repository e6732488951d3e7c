"""What goes wrong between us and the server, told in words that help and give nothing away."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from keymux.stores.mongo import MongoStore
from keymux.stores.port import StoreUnavailable, StoreUnusable
from tests.contract.records import ACME, NOON, OPERATOR, OTHER, actions_in, key, spare
from tests.stores.mongo.server import Server, failing

pytestmark = pytest.mark.anyio

Stored = dict[str, Any]
PASSWORD = "pass-w0rd"


# -- addresses and rights --------------------------------------------------------------------------
async def _problem(uri: str, kind: type[Exception]) -> str:
    store = MongoStore(uri, print, patience_s=1)
    with pytest.raises(kind) as raised:
        await store.prepare([ACME])
    await store.close()
    return str(raised.value)


async def test_a_host_that_does_not_answer() -> None:
    """It is told soon, with the host and without credentials."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        async with asyncio.timeout(4):
            told = await _problem(f"mongodb://me:{PASSWORD}@{host}/x", StoreUnavailable)

    assert told.startswith(f"mongodb://{host}/x: no server answers: {host}")
    assert PASSWORD not in told


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param(f"mongodb://me:{PASSWORD}@127.0.0.1:port/x", id="a port that is a word"),
        pytest.param(f"mongodb://me:{PASSWORD}/more@127.0.0.1/x", id="a slash in the password"),
        pytest.param(f"mongodb://me:{PASSWORD}@127.0.0.1/x?tls=maybe", id="an odd option"),
        pytest.param(f"mongodb://me:{PASSWORD}@127.0.0.1/x?authSource=", id="half an option"),
    ],
)
async def test_an_address_that_cannot_be_used(uri: str) -> None:
    """It will not get better by waiting, and the password is not told."""
    told = await _problem(uri, StoreUnusable)

    assert PASSWORD not in told
    assert "me:" not in told


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants to know who asks."""
    server = Server(tmp_path_factory.mktemp("guarded"))
    server.start()
    with MongoClient[Stored](server.uri) as client:
        for name, roles in (("me", ["readWrite"]), ("reader", ["read"])):
            client["x"].command("createUser", name, pwd=PASSWORD, roles=roles)
    server.kill()
    server.start("--auth")
    yield server
    server.kill()


async def test_the_right_password(guarded: Server) -> None:
    """A user who may read and write the database is all that is needed."""
    store = MongoStore(f"mongodb://me:{PASSWORD}@127.0.0.1:{guarded.port}/x", print)

    assert await store.prepare([ACME]) != []
    assert await store.keys.add(ACME, [key("k1")], OPERATOR) == ["k1"]
    await store.close()


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(f"me:wrong-{PASSWORD}@", id="a wrong password"),
        pytest.param(f"nobody:{PASSWORD}@", id="an unknown user"),
        pytest.param("", id="nobody at all"),
        pytest.param(f"reader:{PASSWORD}@", id="a user who may only read"),
    ],
)
async def test_who_may_not_write(guarded: Server, who: str) -> None:
    """The start is refused with the reason."""
    told = await _problem(f"mongodb://{who}127.0.0.1:{guarded.port}/y", StoreUnusable)

    assert "password" in told or "right" in told or "no such user" in told
    assert PASSWORD not in told


# -- what is there already -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["acme_keys", "acme_backup_keys", "audit", "exchanges", "client_keys"]
)
async def test_a_foreign_collection_is_left_alone(
    store: MongoStore, database: Database[Stored], name: str
) -> None:
    """It is named, and nothing at all is changed."""
    database[name].insert_one({"_id": 1, "title": "Moby Dick"})
    with pytest.raises(StoreUnusable, match=f"the collection {name} is something else's"):
        await store.prepare([ACME])

    assert database.list_collection_names() == [name]
    assert list(database[name].find()) == [{"_id": 1, "title": "Moby Dick"}]


@pytest.mark.parametrize(
    "names", [("client",), ("acme", "acme_backup")], ids=["like ours", "like another provider's"]
)
async def test_names_that_clash(store: MongoStore, names: tuple[str, ...]) -> None:
    """Two things cannot have one collection."""
    with pytest.raises(StoreUnusable, match="no provider can be called"):
        await store.prepare(names)


# -- indexes ---------------------------------------------------------------------------------------
def _indexes(database: Database[Stored], name: str) -> set[tuple[Any, ...]]:
    return {
        (*[field for field, _ in index["key"]], index.get("unique", False))
        for index in database[name].index_information().values()
    }


async def test_the_indexes(ready: MongoStore, database: Database[Stored]) -> None:
    """Those that operators and their tools count on."""
    assert _indexes(database, "acme_keys") >= {
        ("status", False),
        ("cooldownUntil", False),
        ("createdAt", False),
        ("keyHash", True),
    }
    assert _indexes(database, "acme_bindings") >= {
        ("proxyId", "isActive", False),
        ("acmeKeyId", False),
        ("proxyId", "acmeKeyId", True),
    }
    assert _indexes(database, "acme_backup_keys") >= {("keyHash", True), ("claim", True)}
    assert _indexes(database, "audit") >= {("seq", True)}


async def test_duplicates_do_not_stop_the_start(
    store: MongoStore, database: Database[Stored], told: list[str]
) -> None:
    """The index that they prevent is told of; an index that is there is taken as it is."""
    binding = {"proxyId": "p", "acmeKeyId": "k", "isActive": True}
    database["acme_bindings"].insert_many([dict(binding), dict(binding)])
    database["acme_keys"].create_index("status", name="by_status")
    await store.prepare([ACME])

    assert len(told) == 1
    assert told[0].startswith("acme_bindings: no index on (proxyId, acmeKeyId)")
    assert "by_status" in database["acme_keys"].index_information()


async def test_a_lock_that_was_left_ends(store: MongoStore, database: Database[Stored]) -> None:
    """A process that died while it prepared does not keep others from starting."""
    database["keymux_meta"].insert_one({"_id": "lock", "until": NOON, "owner": "dead"})
    done = await store.prepare([ACME])

    assert "schema 1" in done
    assert database["keymux_meta"].count_documents({"_id": "lock"}) == 0


# -- races -----------------------------------------------------------------------------------------
async def test_fifty_promotions_at_once(ready: MongoStore, uri: str) -> None:
    """Two processes ask for the same dead key and for another one: two spares, each used once."""
    await ready.keys.add(ACME, [key("k1"), key("k2")], OPERATOR)
    await ready.backups.add(ACME, [spare(f"b{n}", NOON + n) for n in range(4)], OPERATOR)
    other = MongoStore(uri, print)
    promoted = await asyncio.gather(
        *(
            (ready, other)[n % 2].backups.promote(ACME, f"k{n % 2 + 1}", at=NOON, actor=f"h:{n}")
            for n in range(50)
        )
    )
    await other.close()
    used = [record.id for record in await ready.backups.load(ACME) if record.is_used]

    assert set(promoted) == {"b0", "b1"}
    assert used == ["b0", "b1"]
    assert [action for action, _ in await actions_in(ready)].count("backup.promote") == 2


async def test_a_primary_that_steps_down(uri: str) -> None:
    """The driver asks again, and nobody is told."""
    store = MongoStore(uri, print)
    await store.prepare([ACME, OTHER])
    with failing(uri, {"times": 1}, ["find"], closeConnection=True):
        assert await store.keys.load(ACME) == []
    with failing(uri, {"times": 1}, ["insert"], closeConnection=True):
        assert await store.keys.add(ACME, [key("k1")], OPERATOR) == ["k1"]
    await store.close()
