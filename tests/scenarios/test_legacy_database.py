"""A MongoDB database that other programs have filled: served as it is, and sealed on demand."""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from msgspec import Struct
from pymongo import MongoClient
from pymongo.database import Database

from keymux.core.secrets import hash_of
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import Ok, Revoked, Spent
from keymux.stores.sealing.ring import new_ring
from tests.scenarios.hosts import WAYS, Host
from tests.scenarios.rig import MODEL, UPSTREAM_MODEL, config_of, free_port, pause
from tests.scenarios.wire import chat, post
from tests.stores.mongo.server import any_server, database_on

Stored = dict[str, Any]
Legacy = dict[str, list[Stored]]
"""Documents by their collection."""

PROVIDERS = ("openhands", "ohmygpt")
LONG_AGO = datetime(2024, 3, 1, 12, 30, 15, 250_000, UTC)
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
REQUESTS, TOKENS = 41, 9000
ALL_MODELS = (MODEL, *(f"{provider}-only" for provider in PROVIDERS))
CHANGING = {
    *("apiKey", "status", "tokensUsed", "requestsCount", "lastError", "cooldownUntil"),
    *("lastUsedAt", "isUsed", "activated", "usedFor", "usedAt"),
}
"""The fields of old that are there to be changed."""


def _secret(name: str) -> str:
    return f"Old-{name}-{sha256(name.encode()).hexdigest()[:20]}"


def _object_id(name: str) -> ObjectId:
    return ObjectId(sha256(name.encode()).hexdigest()[:24])


def _key(name: str, **fields: object) -> Stored:
    """An upstream key as it was written before there was keymux, with fields of other programs."""
    return {
        "_id": _object_id(name),
        "apiKey": _secret(name),
        "status": "healthy",
        "tokensUsed": Int64(TOKENS),
        "requestsCount": float(REQUESTS),
        "lastError": None,
        "cooldownUntil": None,
        "createdAt": LONG_AGO,
        "lastUsedAt": None,
        "owner": {"team": "red", "since": LONG_AGO, "tags": ["a", None, 1.5]},
        "__v": 0,
        **fields,
    }


def _keys(provider: str) -> list[Stored]:
    return [
        _key(f"{provider}-plain"),
        {"_id": f"{provider}-bare", "apiKey": _secret(f"{provider}-bare"), "region": "eu"},
        _key(f"{provider}-over", status="rate_limited", cooldownUntil="2024-03-01T12:40:00Z"),
        _key(f"{provider}-failed", status="error", cooldownUntil=LONG_AGO),
        _key(f"{provider}-cooling", status="rate_limited", cooldownUntil=LATER),
        _key(f"{provider}-odd", status="aktiv"),
        _key(f"{provider}-dead", status="exhausted", cooldownUntil=LATER, lastError="no money"),
    ]


def _spare(name: str, **fields: object) -> Stored:
    return {"_id": _object_id(name), "apiKey": _secret(name), "note": f"for {name}", **fields}


def _used(provider: str) -> Stored:
    """A spare that took over for a key that is long gone."""
    used_for = _object_id("long gone")
    return _spare(
        f"{provider}-used", isUsed=True, activated=True, usedFor=used_for, usedAt=LONG_AGO
    )


def _binding(provider: str, proxy: object) -> Stored:
    key_id = _object_id(f"{provider}-cooling")
    bound = {f"{provider}KeyId": key_id, "priority": 1, "isActive": True}
    return {"_id": _object_id(f"{provider}-binding"), "proxyId": proxy, **bound, "by": "hand"}


def _proxy(name: object, **fields: object) -> Stored:
    return {
        "_id": name,
        "name": "way out",
        "type": "http",
        "host": "192.0.2.1",
        "port": 3128,
        "status": "healthy",
        "isActive": True,
        "city": "Bern",
        **fields,
    }


def _legacy() -> Legacy:
    """All collections of old: one provider has spares and keys that will die, the other none."""
    return {
        "openhands_keys": [
            *_keys("openhands"),
            _key("openhands-revoked"),
            _key("openhands-drained"),
        ],
        "openhands_backup_keys": [
            _used("openhands"),
            _spare("openhands-fourth", createdAt=LONG_AGO + timedelta(days=2), isUsed=False),
            _spare("openhands-third", createdAt=LONG_AGO + timedelta(days=1), isUsed=False),
            _spare("openhands-second", createdAt=LONG_AGO, activated=False),
            _spare("openhands-first"),
        ],
        "openhands_bindings": [_binding("openhands", _object_id("proxy"))],
        "ohmygpt_keys": _keys("ohmygpt"),
        "ohmygpt_backup_keys": [_used("ohmygpt")],
        "ohmygpt_bindings": [_binding("ohmygpt", "proxy-2")],
        "proxies": [
            _proxy(_object_id("proxy"), username="ann", password=_secret("password-1")),
            _proxy("proxy-2", username="bob", password=_secret("password-2"), failCount=3),
            _proxy("proxy-3", username="", password=None),
        ],
    }


def _secrets_in(documents: Legacy) -> set[str]:
    """All upstream keys, backup keys and passwords of egress proxies."""
    found = (
        each.get("apiKey") or each.get("password") for those in documents.values() for each in those
    )
    return {secret for secret in found if secret}


SECRETS = _secrets_in(_legacy())


# -- the database ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that speaks MongoDB's protocol, for all databases."""
    with any_server() as found:
        yield found


@pytest.fixture
def address(server: str) -> Iterator[str]:
    """A database as it was before there was keymux."""
    with database_on(server) as found:
        _insert(found, _legacy())
        yield found


@contextmanager
def _opened(address: str) -> Iterator[Database[Stored]]:
    with MongoClient[Stored](address, tz_aware=True) as client:
        yield client.get_default_database()


def _insert(address: str, documents: Legacy) -> None:
    with _opened(address) as database:
        for name, those in documents.items():
            database[name].insert_many(those)


def _documents(address: str) -> dict[str, dict[Any, Stored]]:
    """Everything in the database, by collection and id."""
    with _opened(address) as database:
        return {
            name: {document["_id"]: document for document in database[name].find()}
            for name in database.list_collection_names()
        }


def _dump(address: str) -> bytes:
    """Everything in the database, as it is stored."""
    found = _documents(address).values()
    return b"".join(bson.encode(document) for those in found for document in those.values())


def _state(address: str) -> object:
    """Everything in the database, and how its collections are made."""
    with _opened(address) as database:
        made = [
            (each, database[each["name"]].index_information() if each["type"] != "view" else {})
            for each in database.list_collections()
        ]
    return sorted(made, key=str), _documents(address)


def _clear(text: bytes | str, secrets: set[str] = SECRETS) -> set[str]:
    """Which secrets can be read in a text."""
    data = text.encode() if isinstance(text, str) else text
    return {secret for secret in secrets if secret.encode() in data}


# -- the gateway -----------------------------------------------------------------------------------
def _config(sandbox: SandboxThread | None, providers: Sequence[str] = PROVIDERS) -> Stored:
    """A model that all providers serve, and one more for each of them."""
    base = "http://127.0.0.1:9"
    urls = {name: sandbox.url(name) if sandbox else base for name in providers}
    config = config_of(urls)
    only = [
        {"id": f"{name}-only", "route": [{"provider": name, "model": UPSTREAM_MODEL}]}
        for name in providers
    ]
    return {**config, "models": [*config["models"], *only]}


def _host(folder: Path, address: str, config: Stored, ring: str = "ring.json") -> Host:
    shared = {"store": address, "secrets": {"key_ring": str(folder / ring)}}
    return Host(folder / f"host-of-{ring}", config, shared)


@pytest.fixture
def sandbox() -> Iterator[SandboxThread]:
    """Both providers; every key of the database is good there, but for two."""
    with _providers() as found:
        yield found


@contextmanager
def _providers() -> Iterator[SandboxThread]:
    with SandboxThread() as found:
        for secret in SECRETS:
            found.behave(secret, Ok())
        found.behave(_secret("openhands-revoked"), Revoked())
        found.behave(_secret("openhands-drained"), Spent())
        yield found


def _client_key(host: Host) -> str:
    """The client key that the first start has printed."""
    found = re.search(r"km-[A-Za-z0-9]{40}", host.said())
    assert found is not None
    return found[0]


def _ask(host: Host, client_key: str, *models: str) -> list[int]:
    """The statuses of requests to models, for each in both formats, streamed and whole."""
    signed = {"Authorization": f"Bearer {client_key}"}
    return [
        post(host.port, path, chat(stream=stream, model=model), signed).status
        for model in models
        for path, stream in WAYS
    ]


# -- what is served --------------------------------------------------------------------------------
class Story(Struct, frozen=True):
    """What was seen of a first start on the database, and of the commands after it.

    Attributes:
        statuses: of the responses.
        sent: the key of each request that a provider saw.
        after: the documents at the end.
        told: by commands, by their words.
        log: and what was printed beside it.
        client_key: that the first start has made.
    """

    statuses: list[int]
    sent: list[str]
    after: dict[str, dict[Any, Stored]]
    told: dict[str, str]
    log: str
    client_key: str

    def key(self, name: str) -> Stored:
        """The document of an upstream key."""
        return self._in("keys", name)

    def spare(self, name: str) -> Stored:
        """The document of a backup key."""
        return self._in("backup_keys", name)

    def _in(self, kind: str, name: str) -> Stored:
        found = self.after[f"{name.partition('-')[0]}_{kind}"]
        return found[_object_id(name)] if _object_id(name) in found else found[name]


COMMANDS = [
    "keys list openhands --json",
    "keys list ohmygpt",
    "backup-keys list openhands --json",
    "backup-keys list ohmygpt",
    f"explain {MODEL}",
    "explain openhands-only --json",
    "usage --by provider,key --json",
    "audit",
]


def _told(host: Host, command: str) -> str:
    done = host.run(*command.split())
    assert done.returncode == 0, done.stderr
    return done.stdout


def _until_replaced(address: str, name: str) -> None:
    """Wait for a dead key's successor."""
    with _opened(address) as database:
        for _ in range(200):
            if (database["openhands_keys"].find_one(_object_id(name)) or {}).get("replacedBy"):
                return
            pause(0.05)
    raise AssertionError(f"{name} was not replaced")


@pytest.fixture(scope="module")
def story(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The program is started for the first time, and asked for everything."""
    folder = tmp_path_factory.mktemp("legacy")
    with database_on(server) as address, _providers() as sandbox:
        _insert(address, _legacy())
        with _host(folder, address, _config(sandbox)) as host:
            client_key = _client_key(host)
            statuses = _ask(host, client_key, *["openhands-only"] * 3)
            for name in ("openhands-revoked", "openhands-drained"):
                _until_replaced(address, name)
            later = ["openhands-only"] * 3 + ["ohmygpt-only"] * 3 + [MODEL]
            statuses += _ask(host, client_key, *later)
        with ThreadPoolExecutor(2) as pool:
            said = pool.map(lambda command: _told(host, command), COMMANDS)
            told = dict(zip(COMMANDS, said, strict=True))
        yield Story(
            statuses,
            [one.key for one in sandbox.seen],
            _documents(address),
            told,
            host.log_path.read_text(),
            client_key,
        )


def test_both_providers_serve_both_formats(story: Story) -> None:
    """Every request succeeds, with the keys that are in the database."""
    used = {_secret(f"{provider}-{name}") for provider in PROVIDERS for name in ("plain", "bare")}

    assert story.statuses == [200] * 40
    assert used <= set(story.sent)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_cooldown_of_old_that_is_over_is_over(story: Story, provider: str) -> None:
    """The key is used again and is healthy."""
    for name in (f"{provider}-over", f"{provider}-failed"):
        assert _secret(name) in story.sent
        assert story.key(name)["status"] == "healthy"


@pytest.mark.parametrize("name", ["cooling", "odd", "dead"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_not_ready_is_not_used(story: Story, provider: str, name: str) -> None:
    """A key that cools, one whose status nobody knows, and one without an allowance."""
    assert _secret(f"{provider}-{name}") not in story.sent


def test_a_document_that_is_not_used_stays_as_it_is(story: Story) -> None:
    """Only the hash by which its secret is found again is added."""
    keys = [("openhands", "cooling"), ("openhands", "odd")]
    keys += [("ohmygpt", name) for name in ("cooling", "odd", "dead")]
    before = {each["_id"]: each for provider in PROVIDERS for each in _keys(provider)}

    for provider, name in keys:
        found = story.key(f"{provider}-{name}")
        hashed = {"keyHash": hash_of(_secret(f"{provider}-{name}"))}
        assert found == {**before[found["_id"]], **hashed}


def test_fields_that_keymux_does_not_know_are_kept(story: Story) -> None:
    """In every document of every collection; bindings and egress proxies are as they were."""
    for collection, documents in _legacy().items():
        for before in documents:
            after = story.after[collection][before["_id"]]
            assert {name: after[name] for name in before if name not in CHANGING} == {
                name: value for name, value in before.items() if name not in CHANGING
            }
    for collection in ("openhands_bindings", "ohmygpt_bindings", "proxies"):
        assert list(story.after[collection].values()) == _legacy()[collection]


@pytest.mark.parametrize("name", ["plain", "bare", "over"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_counters_go_on_from_what_they_were(story: Story, provider: str, name: str) -> None:
    """A request for each that the provider saw, and the tokens that the ledger has."""
    found = story.key(f"{provider}-{name}")
    lines = json.loads(story.told["usage --by provider,key --json"])["lines"]
    (used,) = [line for line in lines if line["key"] == str(found["_id"])]
    requests, tokens = (0, 0) if name == "bare" else (REQUESTS, TOKENS)
    sent = story.sent.count(_secret(f"{provider}-{name}"))

    assert sent > 0
    assert used["provider"] == provider
    assert found["requestsCount"] == requests + sent
    assert found["tokensUsed"] == tokens + used["inputTokens"] + used["outputTokens"]
    assert found["lastUsedAt"] > LONG_AGO


def test_every_exchange_is_in_the_ledger(story: Story) -> None:
    """Once, and `keymux usage` adds them up."""
    total = json.loads(story.told["usage --by provider,key --json"])["total"]

    assert (total["exchanges"], total["failed"]) == (len(story.statuses), 0)
    assert len(story.after["exchanges"]) == len(story.statuses)


DEAD = [
    pytest.param("openhands-dead", "exhausted", {"openhands-first"}, id="dead long ago"),
    pytest.param(
        "openhands-revoked", "quarantined", {"openhands-second", "openhands-third"}, id="revoked"
    ),
    pytest.param(
        "openhands-drained", "exhausted", {"openhands-second", "openhands-third"}, id="spent"
    ),
]


@pytest.mark.parametrize(("dead", "status", "spares"), DEAD)
def test_a_spare_of_old_takes_over_once(
    story: Story, dead: str, status: str, spares: set[str]
) -> None:
    """The oldest one does; the documents of all three say so, and the new key's is sealed."""
    key = story.key(dead)
    (name,) = [name for name in spares if key["replacedBy"] == str(_object_id(name))]
    spare, fresh = story.spare(name), story.key(name)
    took_over = [one for one in story.after["openhands_backup_keys"].values() if "claim" in one]

    assert key["status"] == status
    assert (spare["isUsed"], spare["activated"], spare["usedFor"]) == (True, True, key["_id"])
    assert spare["usedAt"] > LONG_AGO
    assert (fresh["status"], fresh["keyHash"]) == ("healthy", hash_of(_secret(name)))
    assert fresh["apiKey"].startswith("v1:")
    assert _secret(name) in story.sent
    assert [one["usedFor"] for one in took_over].count(key["_id"]) == 1


def test_a_spare_that_nobody_needs_stays_one(story: Story) -> None:
    """Nor is one used again that took over before there was keymux."""
    before = {each["_id"]: each for each in _legacy()["openhands_backup_keys"]}

    for name in ("openhands-fourth", "openhands-used"):
        hashed = {"keyHash": hash_of(_secret(name))}
        assert story.spare(name) == {**before[_object_id(name)], **hashed}
        assert _secret(name) not in story.sent


# -- what is shown ---------------------------------------------------------------------------------
def test_commands_show_what_is_there(story: Story) -> None:
    """Keys and spares by their ids, with their status."""
    keys = {row["id"]: row for row in json.loads(story.told["keys list openhands --json"])}
    spares = json.loads(story.told["backup-keys list openhands --json"])
    states = {row["id"]: row["state"] for row in spares}

    assert len(keys) == len(_legacy()["openhands_keys"]) + 3
    assert keys["openhands-bare"]["status"] == "healthy"
    assert keys[str(_object_id("openhands-cooling"))]["status"] == "rate_limited"
    assert keys[str(_object_id("openhands-odd"))]["status"] == "disabled"
    assert states[str(_object_id("openhands-fourth"))] == "spare"
    assert sorted(states.values()) == ["spare", *["used"] * 4]
    assert "openhands" in story.told[f"explain {MODEL}"]


def test_no_secret_is_shown(story: Story) -> None:
    """Neither by a command nor in the log; the client key was printed once, at the start."""
    secrets = SECRETS | {story.client_key}

    assert _clear("\n".join(story.told.values()), secrets) == set()
    assert _clear(story.log, secrets) == set()


def test_init_db_may_be_run_again(address: str, tmp_path: Path) -> None:
    """It makes what is missing and adds hashes; no document of old is otherwise changed."""
    host = _host(tmp_path, address, _config(None))
    first, before = _told(host, "init-db"), _state(address)
    second = _told(host, "init-db")
    after = _documents(address)

    assert "made: collection exchanges" in first
    assert "made: hashes of 9 upstream keys in openhands_keys\n" in first
    assert second == "nothing to do: the store has everything\n"
    assert _state(address) == before
    assert _clear(first + second) == set()
    for name, documents in _legacy().items():
        for each in documents:
            hashed = {"keyHash": hash_of(each["apiKey"])} if "apiKey" in each else {}
            assert after[name][each["_id"]] == {**each, **hashed}


# -- sealing ---------------------------------------------------------------------------------------
def _statuses_while(host: Host, client_key: str, stop: Event) -> list[int]:
    found = []
    while not stop.is_set():
        found += _ask(host, client_key, MODEL)
    return found


def test_after_sealing_a_dump_has_no_secret(
    address: str, sandbox: SandboxThread, tmp_path: Path
) -> None:
    """No client notices; the gateway goes on with what is sealed, also when it starts again."""
    stop = Event()
    with _host(tmp_path, address, _config(sandbox)) as host:
        client_key = _client_key(host)
        before = _clear(_dump(address))
        with ThreadPoolExecutor(1) as threads:
            statuses = threads.submit(_statuses_while, host, client_key, stop)
            told = _told(host, "secrets encrypt")
            stop.set()
        served = [*statuses.result(), *_ask(host, client_key, *ALL_MODELS)]
        dump, status = _dump(address), _told(host, "secrets status")
        host.stop()
        host.start()
        served += _ask(host, client_key, *ALL_MODELS)

    assert before >= {_secret("openhands-plain"), _secret("openhands-fourth")}
    assert before >= {_secret("password-1"), _secret("password-2")}
    assert "secrets were sealed" in told
    assert _clear(dump, SECRETS | {client_key}) == set()
    assert _clear(_dump(address), SECRETS | {client_key}) == set()
    assert set(served) == {200}
    assert "in plain" not in status
    assert status.count(" sealed with ") == 5


def test_what_was_sealed_is_what_was_there(address: str, tmp_path: Path) -> None:
    """Sealing changes the secrets alone, and what is read is what was stored."""
    host = _host(tmp_path, address, _config(None))
    _told(host, "init-db")
    before = _documents(address)
    _told(host, "secrets encrypt")
    after = _documents(address)
    keys = host.stored_keys("ohmygpt")

    for name, documents in _legacy().items():
        for each in documents:
            sealed = {"apiKey", "password"} & after[name][each["_id"]].keys()
            assert {**before[name][each["_id"]], **dict.fromkeys(sealed)} == {
                **after[name][each["_id"]],
                **dict.fromkeys(sealed),
            }
    assert {key.secret for key in keys.values()} == {
        each["apiKey"] for each in _legacy()["ohmygpt_keys"]
    }


# -- what is refused -------------------------------------------------------------------------------
def _refusal(host: Host) -> str:
    """What a start says that is refused: one problem, and that it was not started."""
    done = host.run("serve")
    problem, *others = done.stderr.splitlines()

    assert done.returncode == 1
    assert others == ["keymux: not started; mend the above and try again"]
    assert done.stdout == ""
    assert _clear(problem) == set()
    return problem


@pytest.mark.parametrize("ring", ["another.json", "missing.json"])
def test_a_wrong_key_ring_is_refused(address: str, tmp_path: Path, ring: str) -> None:
    """Another one, and none where secrets are sealed; the message names the file."""
    _told(_host(tmp_path, address, _config(None)), "secrets encrypt")
    if ring == "another.json":
        (tmp_path / ring).touch(0o600)
        (tmp_path / ring).write_text(new_ring().text())
    before = _state(address)
    problem = _refusal(_host(tmp_path, address, _config(None), ring))

    assert problem.startswith(f"keymux: $.store: the key ring {tmp_path / ring} ")
    assert "bring the ring that was used here before" in problem
    assert _state(address) == before
    assert (tmp_path / ring).exists() == (ring == "another.json")


def test_a_newer_schema_is_refused(address: str, tmp_path: Path) -> None:
    """A keymux that knows it has to be used."""
    _insert(address, {"keymux_meta": [{"_id": "schema", "version": 999}]})
    before = _state(address)
    problem = _refusal(_host(tmp_path, address, _config(None)))

    assert problem.startswith(f"keymux: $.store: {address} has schema 999")
    assert "nothing was changed" in problem
    assert _state(address) == before


def test_an_address_that_nobody_has_is_refused(tmp_path: Path) -> None:
    """The message names it without the password."""
    there = f"127.0.0.1:{free_port()}/old"
    options = "serverSelectionTimeoutMS=300"
    address = f"mongodb://ann:{_secret('password-1')}@{there}?{options}"
    problem = _refusal(_host(tmp_path, address, _config(None)))

    assert problem.startswith(f"keymux: $.store: mongodb://{there}: no server answers")


def test_a_foreign_collection_is_refused(address: str, tmp_path: Path) -> None:
    """One that bears a name of ours and was not written by keymux."""
    _insert(address, {"exchanges": [{"_id": 1, "currency": "CHF", "rate": 1.1}]})
    before = _state(address)
    problem = _refusal(_host(tmp_path, address, _config(None)))

    assert problem.startswith(f"keymux: $.store: {address}: the collection exchanges is ")
    assert "nothing was changed" in problem
    assert _state(address) == before


@pytest.mark.parametrize("name", ["audit", "openhands_bindings"])
def test_a_view_is_refused(address: str, tmp_path: Path, name: str) -> None:
    """Nothing can be written there."""
    with _opened(address) as database:
        database.drop_collection(name)
        database.create_collection(name, viewOn="proxies", pipeline=[])
    before = _state(address)
    problem = _refusal(_host(tmp_path, address, _config(None)))

    assert problem == f"keymux: $.store: {address}: {name} is no plain collection"
    assert _state(address) == before


# -- what is left out ------------------------------------------------------------------------------
WRONG: list[Stored] = [
    {"_id": "wrong-1", "apiKey": _secret("wrong-1"), "tokensUsed": "many"},
    {"_id": "wrong-2", "apiKey": _secret("wrong-2"), "createdAt": "Old-canary-date"},
    {"_id": "wrong-3", "apiKey": {"key": _secret("wrong-3")}},
    {"_id": "wrong-4", "apiKey": _secret("wrong-4"), "status": {"is": "Old-canary-status"}},
]
FIELDS = ("tokensUsed", "createdAt", "apiKey", "status")


def test_a_document_of_wrong_types_is_left_out(
    address: str, sandbox: SandboxThread, tmp_path: Path
) -> None:
    """It is named in the log with its field and without a value; all others are served."""
    _insert(address, {"openhands_keys": WRONG})
    with _host(tmp_path, address, _config(sandbox)) as host:
        statuses = _ask(host, _client_key(host), *["openhands-only"] * 3)
    told = {line["problem"] for line in host.log() if line["event"] == "store"}
    secrets = {_secret(each["_id"]) for each in WRONG}
    after = _documents(address)["openhands_keys"]

    assert statuses == [200] * 12
    assert not secrets & {one.key for one in sandbox.seen}
    assert told == {
        f"openhands_keys: the document {each['_id']!r} is left out: "
        f"its field {field} is missing or of the wrong type"
        for each, field in zip(WRONG, FIELDS, strict=True)
    }
    assert _clear(host.log_path.read_text(), secrets | {"Old-canary"}) == set()
    assert all(after[each["_id"]].items() >= each.items() for each in WRONG)


@pytest.mark.parametrize("proxy", ["gone", 7, "proxy-4"])
def test_a_bound_key_never_goes_directly(
    address: str, sandbox: SandboxThread, tmp_path: Path, proxy: object
) -> None:
    """Also if its proxy is not there, cannot be told, or is of an unknown type."""
    bound = {**_binding("openhands", proxy), "_id": "bound"}
    bound["openhandsKeyId"] = _object_id("openhands-bound")
    added = {
        "openhands_keys": [_key("openhands-bound")],
        "openhands_bindings": [bound],
        "proxies": [_proxy("proxy-4", type="socks4")],
    }
    _insert(address, added)
    sandbox.behave(_secret("openhands-bound"), Ok())
    with _host(tmp_path, address, _config(sandbox)) as host:
        statuses = _ask(host, _client_key(host), *["openhands-only"] * 3)
    seen = {one.key for one in sandbox.seen}

    assert statuses == [200] * 12
    assert _secret("openhands-plain") in seen
    assert _secret("openhands-bound") not in seen
    assert _documents(address)["openhands_bindings"]["bound"] == bound


# -- odd documents ---------------------------------------------------------------------------------
def test_a_list_for_a_secret_is_left_out(address: str, tmp_path: Path) -> None:
    """It stops neither a start nor a command."""
    _insert(address, {"openhands_keys": [{"_id": "wrong-5", "apiKey": [_secret("wrong-5")]}]})
    done = _host(tmp_path, address, _config(None)).run("keys", "list", "openhands")

    assert done.returncode == 0
    assert "openhands_keys: the document 'wrong-5' is left out: its field apiKey " in done.stderr


def test_a_key_that_was_replaced_before_keymux_is_not_replaced_again(
    address: str, sandbox: SandboxThread, tmp_path: Path
) -> None:
    """One spare for each dead key: the one that took over is in the pool already."""
    with _opened(address) as database:
        database["openhands_backup_keys"].update_one(
            {"_id": _object_id("openhands-used")},
            {"$set": {"usedFor": _object_id("openhands-dead")}},
        )
        database["openhands_keys"].insert_one(_key("openhands-used"))
    with _host(tmp_path, address, _config(sandbox)):
        pass
    spares = _documents(address)["openhands_backup_keys"].values()

    assert [spare["_id"] for spare in spares if spare.get("isUsed")] == [
        _object_id("openhands-used")
    ]


NOT_SEALED: list[Legacy] = [
    {"proxies": [_proxy(7, password=_secret("password-7"))]},
    {"openhands_keys": [_key("openhands-numbered", _id=7)]},
    {"another_keys": [_key("another-plain")]},
]


@pytest.mark.parametrize(
    "documents",
    NOT_SEALED,
    ids=[
        "an egress proxy whose id is a number",
        "a key whose id is a number",
        "a provider that is not in the config",
    ],
)
def test_what_cannot_be_sealed_is_named(address: str, tmp_path: Path, documents: Legacy) -> None:
    """Whoever reads that all secrets are sealed can rely on it."""
    _insert(address, documents)
    host = _host(tmp_path, address, _config(None))
    sealing, status = host.run("secrets", "encrypt"), host.run("secrets", "status")
    (name,) = documents

    assert not _clear(_dump(address), SECRETS | _secrets_in(documents)) or (
        name in sealing.stderr and status.returncode == 1 and name in status.stderr
    )


def test_a_field_of_others_that_is_called_like_one_of_ours(
    address: str, sandbox: SandboxThread, tmp_path: Path
) -> None:
    """The health of such a key is written, and so is the ledger."""
    changed = {"$set": {"revision": None}}
    with _opened(address) as database:
        database["openhands_keys"].update_one({"_id": _object_id("openhands-revoked")}, changed)
    with _host(tmp_path, address, _config(sandbox)) as host:
        _ask(host, _client_key(host), *["openhands-only"] * 3)
    after = _documents(address)

    assert after["openhands_keys"][_object_id("openhands-revoked")]["status"] == "quarantined"
    assert len(after["exchanges"]) == 12


def test_a_schema_of_others_is_refused(address: str, tmp_path: Path) -> None:
    """In words, and not with a traceback."""
    _insert(address, {"keymux_meta": [{"_id": "schema", "version": "one"}]})

    assert "keymux_meta" in _refusal(_host(tmp_path, address, _config(None)))
