"""News between two hosts on one database: what happens on one is known to the other in a second."""

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from keymux.core.health import Event
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of
from keymux.sandbox.apart import SandboxChild
from keymux.sandbox.behaviours import (
    BadGateway,
    Behaviour,
    ModelDenied,
    Ok,
    Rejected,
    Revoked,
    Spent,
    Throttled,
)
from keymux.stores.opening import SealedStore
from tests.scenarios.hosts import STORES, Host, database, hosts, records, spares
from tests.scenarios.rig import Keys, islands_of, key_id, pause
from tests.scenarios.wire import OPENAI_PATH, chat, post

SEEN_WITHIN_S = 1.0
OPERATOR = "operator"
GUEST = "km-" + "g" * 40

FAULTS: dict[str, tuple[Behaviour, int]] = {
    "throttled": (Throttled(60), 429),
    "spent": (Spent(), 503),
    "revoked": (Revoked(), 503),
    "denied": (ModelDenied(), 503),
    "down": (BadGateway(), 503),
}
CHANGES: dict[str, tuple[Callable[[SealedStore, str, str], Awaitable[object]], int, int]] = {
    "disabled": (
        lambda store, name, key: store.keys.change(
            name, key_id(key), Event.DISABLE, actor=OPERATOR, reason=""
        ),
        200,
        503,
    ),
    "removed": (lambda store, name, key: store.keys.remove(name, key_id(key), OPERATOR), 200, 503),
    "added": (
        lambda store, name, key: store.keys.add(name, records([f"{key}-more"]), OPERATOR),
        503,
        200,
    ),
    "reset": (
        lambda store, name, key: store.keys.change(
            name, key_id(key), Event.RESET, actor=OPERATOR, reason=""
        ),
        429,
        200,
    ),
    "restored": (
        lambda store, name, key: store.keys.change(
            name, key_id(key), Event.RESTORE, actor=OPERATOR, reason=""
        ),
        503,
        200,
    ),
    "spared": (
        lambda store, name, key: store.backups.add(name, spares([f"{key}-spare"]), OPERATOR),
        503,
        200,
    ),
    "reopened": (lambda store, name, _: store.reset_provider(name, OPERATOR), 503, 200),
}
BEFORE: dict[str, Behaviour] = {
    "added": Revoked(),
    "reset": Throttled(60),
    "restored": Revoked(),
    "spared": Spent(),
    "reopened": BadGateway(),
}
OTHERS = ("replaced", "suspected", "guest")
NAMES = (*FAULTS, *CHANGES, *OTHERS)


def _key(name: str) -> str:
    return f"sk-{name}"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxChild]:
    """The upstream, in a process of its own."""
    with SandboxChild() as running:
        yield running


@pytest.fixture(scope="module", params=STORES)
def site(
    request: pytest.FixtureRequest,
    sandbox: SandboxChild,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Host, Host]]:
    """Two hosts; a provider with one key for each story."""
    folder: Path = tmp_path_factory.mktemp("news")
    sandbox.reset()
    for name in NAMES:
        for ending in ("", "-more", "-spare"):
            sandbox.behave(_key(name) + ending, Ok())
    keys = {name: Keys([_key(name)]) for name in NAMES}
    keys["replaced"] = Keys([_key("replaced")], [_key("replaced") + "-spare"])
    config = islands_of(
        sandbox.url("openhands"),
        NAMES,
        retry={"attempts": 1, "queue_s": 0, "budget_floor": 10_000},
        cooldown={"provider_s": [3600]},
    )
    with (
        database(request.param, folder) as address,
        hosts(folder, 2, config, address, keys) as (here, there),
    ):
        yield here, there


def _status(host: Host, name: str, client: str = "") -> int:
    headers = {"Authorization": f"Bearer {client}"} if client else None
    return post(host.port, OPENAI_PATH, chat(model=name), headers).status


def _heard(host: Host, name: str, expected: int, client: str = "") -> bool:
    """Whether a host answers as it should, a second from now at the latest."""
    give_up = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < give_up:
        if _status(host, name, client) == expected:
            return True
        pause(0.05)
    return False


def _sent(sandbox: SandboxChild, name: str) -> int:
    return sum(one.key.startswith(_key(name)) for one in sandbox.seen)


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_key_met_on_one_host(
    site: tuple[Host, Host], sandbox: SandboxChild, name: str
) -> None:
    """The other host does not send with that key any more, though it would be served."""
    here, there = site
    fault, refusal = FAULTS[name]
    sandbox.behave(_key(name), fault, Ok())
    _status(here, name)
    pause(SEEN_WITHIN_S)
    sent = _sent(sandbox, name)

    assert _status(there, name) == refusal
    assert _sent(sandbox, name) == sent == 1


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_operator_changes(
    site: tuple[Host, Host], sandbox: SandboxChild, name: str
) -> None:
    """Both hosts go by it, wherever the command was given."""
    here, there = site
    change, before, after = CHANGES[name]
    if name in BEFORE:
        sandbox.behave(_key(name), BEFORE[name], Ok())
        _status(here, name)
        pause(SEEN_WITHIN_S)
    earlier = {_status(host, name) for host in site}
    here.ask_store(lambda store: change(store, name, _key(name)))

    assert earlier == {before}
    assert _heard(there, name, after)
    assert _heard(here, name, after)


def test_a_key_that_was_replaced(site: tuple[Host, Host], sandbox: SandboxChild) -> None:
    """The other host sends with the backup key, as if it had found out itself."""
    here, there = site
    sandbox.behave(_key("replaced"), Spent(), Ok())
    _status(here, "replaced")
    pause(SEEN_WITHIN_S)

    assert _status(there, "replaced") == 200
    assert sandbox.seen[-1].key == _key("replaced") + "-spare"


def test_a_refusal_here_and_one_there(site: tuple[Host, Host], sandbox: SandboxChild) -> None:
    """Two refusals in a row are two, whichever processes met them: the key gets no traffic."""
    here, there = site
    sandbox.behave(_key("suspected"), Rejected(), Rejected(), Ok())
    _status(here, "suspected")
    pause(SEEN_WITHIN_S)
    _status(there, "suspected")
    pause(SEEN_WITHIN_S)

    assert [_status(host, "suspected") for host in site] == [503, 503]
    assert _sent(sandbox, "suspected") == 2


def test_a_client_key_that_comes_and_goes(site: tuple[Host, Host]) -> None:
    """A new one is known, and a revoked one refused, by all hosts."""
    here, there = site
    record = ClientKeyRecord(id="client_2", key_hash=hash_of(GUEST), shown="km-...gggg")
    before = _status(there, "guest", GUEST)
    here.ask_store(lambda store: store.clients.add(record, OPERATOR))
    comes = _heard(there, "guest", 200, GUEST)
    here.ask_store(lambda store: store.clients.revoke("client_2", at=1, actor=OPERATOR))

    assert before == 401
    assert comes
    assert _heard(there, "guest", 401, GUEST)
    assert _heard(here, "guest", 401, GUEST)
