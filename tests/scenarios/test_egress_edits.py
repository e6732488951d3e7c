"""Proxies and bindings are edited while two hosts serve: all processes go by it within a second.

All edits are made at once, each on a provider of its own; the tests look at what came of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from keymux.core.egress import ProxyAddress, ProxyType
from keymux.stores.opening import SealedStore
from tests.egress.scripted import ScriptedProxy
from tests.egress.site import (
    DIALECTS,
    EFFECTIVE_S,
    HERE,
    NO_CHECKS,
    OPERATOR,
    Island,
    Site,
    binding_of,
    proxy_id,
    proxy_record,
    secret_of,
    site,
    upstream,
)
from tests.scenarios.hosts import STORES, database
from tests.scenarios.rig import pause
from tests.scenarios.wire import OPENAI_PATH, ask, chat

EACH = 6
"""Requests to each host, so that each of its processes is most probably asked."""
Addresses = Mapping[str, ProxyAddress]
Change = Callable[[SealedStore, str, Addresses], Awaitable[object]]
SOURCES = {"p": "127.0.0.51", "q": "127.0.0.52"}


class Edit(Struct, frozen=True):
    """A change and what it is good for; p and q are proxies that are always there.

    Attributes:
        bound: the key's bindings at the start.
        change: made while serving, with the provider's name.
        before: from where the key is seen before, empty when it cannot be used.
        after: the same afterwards.
        prepare: made a while before.
    """

    bound: Mapping[str, int]
    change: Change
    before: Sequence[str]
    after: Sequence[str]
    prepare: Change | None = None


def _bind(proxy: str, priority: int = 1) -> Change:
    return lambda store, provider, _: store.bindings.add(
        provider, [binding_of(provider, "a", proxy, priority)], OPERATOR
    )


def _unbind(*proxies: str) -> Change:
    return lambda store, provider, _: store.bindings.remove(
        provider, [binding_of(provider, "a", proxy).id for proxy in proxies], OPERATOR
    )


def _prefer(proxy: str, priority: int) -> Change:
    return lambda store, provider, _: store.bindings.set_priority(
        provider, binding_of(provider, "a", proxy).id, priority, OPERATOR
    )


def _switch(proxy: str, *, active: bool) -> Change:
    return lambda store, provider, _: store.bindings.set_active(
        provider, binding_of(provider, "a", proxy).id, active=active, actor=OPERATOR
    )


def _switch_proxy(proxy: str, *, active: bool) -> Change:
    return lambda store, *_: store.proxies.set_active(
        proxy_id(proxy), active=active, actor=OPERATOR
    )


def _remove_proxy(proxy: str) -> Change:
    return lambda store, *_: store.proxies.remove(proxy_id(proxy), OPERATOR)


def _add_proxy(proxy: str, like: str) -> Change:
    return lambda store, _, known: store.proxies.add(
        [proxy_record(proxy, replace(known[like], username=proxy))], OPERATOR
    )


def _in_turn(*changes: Change) -> Change:
    async def all_of_them(store: SealedStore, provider: str, known: Addresses) -> None:
        for change in changes:
            await change(store, provider, known)

    return all_of_them


P, Q, DIRECT = SOURCES["p"], SOURCES["q"], HERE
EDITS = {
    "bind": Edit({}, _bind("p"), [DIRECT], [P]),
    "unbind": Edit({"p": 1}, _unbind("p"), [P], [DIRECT]),
    "unbind_one": Edit({"p": 1, "q": 2}, _unbind("p"), [P], [Q]),
    "exchange": Edit({"p": 1}, _in_turn(_bind("q"), _unbind("p")), [P], [Q]),
    "better": Edit({"q": 2}, _bind("p", 1), [Q], [P]),
    "equal": Edit({"p": 1, "q": 2}, _prefer("q", 1), [P], [P, Q]),
    "worse": Edit({"p": 1, "q": 2}, _prefer("p", 3), [P], [Q]),
    "off": Edit({"p": 1}, _switch("p", active=False), [P], []),
    "one_off": Edit({"p": 1, "q": 2}, _switch("p", active=False), [P], [Q]),
    "on": Edit({"p": 1}, _switch("p", active=True), [], [P], prepare=_switch("p", active=False)),
    "proxy_off": Edit({"own_off": 1}, _switch_proxy("own_off", active=False), [P], []),
    "proxy_on": Edit(
        {"own_on": 1},
        _switch_proxy("own_on", active=True),
        [],
        [P],
        prepare=_switch_proxy("own_on", active=False),
    ),
    "proxy_gone": Edit({"own_gone": 1}, _remove_proxy("own_gone"), [P], []),
    "proxy_gone_next": Edit({"own_next": 1, "q": 2}, _remove_proxy("own_next"), [P], [Q]),
    "proxy_moved": Edit(
        {"own_moved": 1},
        _in_turn(_remove_proxy("own_moved"), _add_proxy("own_moved", like="q")),
        [P],
        [Q],
    ),
    "proxy_late": Edit(
        {"own_late": 1},
        _add_proxy("own_late", like="p"),
        [],
        [P],
        prepare=_remove_proxy("own_late"),
    ),
}
OWN = ("own_off", "own_on", "own_gone", "own_next", "own_moved", "own_late")


async def _apply(
    store: SealedStore, changes: Mapping[str, Change | None], known: Addresses
) -> None:
    for provider, change in changes.items():
        if change is not None:
            await change(store, provider, known)


async def _ask_all(running: Site, providers: Sequence[str]) -> dict[str, set[int]]:
    """Every provider is asked for on every host, on connections of their own."""
    ports = [host.port for host in running.hosts for _ in range(EACH)]

    async def statuses(provider: str) -> set[int]:
        body = chat(model=provider)
        answers = [await ask(port, OPENAI_PATH, body) for port in ports]
        return {answer.status for answer in answers}

    found = await asyncio.gather(*map(statuses, providers))
    return dict(zip(providers, found, strict=True))


def _look(
    running: Site, providers: Sequence[str]
) -> tuple[dict[str, set[int]], dict[str, set[str]]]:
    """Answers, and from where the keys were seen meanwhile."""
    last = max((one.number for one in running.up.sandbox.seen), default=0)
    statuses = asyncio.run(_ask_all(running, providers))
    seen = running.up.sandbox.seen_since(last)
    sources = {
        provider: {one.source for one in seen if one.key == secret_of(provider, "a")}
        for provider in providers
    }
    return statuses, sources


@pytest.fixture(scope="module", params=STORES)
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[set[int], set[str], set[int], set[str]]]]:
    """Two hosts with two processes each that have met all edits."""
    folder: Path = tmp_path_factory.mktemp("edits")
    first = STORES.index(request.param)
    dialects = {name: DIALECTS[(n + first) % 2] for n, name in enumerate(EDITS)}
    providers = {name: f"{name}_{dialect}" for name, dialect in dialects.items()}
    islands = {
        name: Island({"a": EDITS[name].bound}, dialects=[dialect])
        for name, dialect in dialects.items()
    }
    with ExitStack() as stack:
        up = stack.enter_context(upstream(folder))
        address = stack.enter_context(database(request.param, folder))
        proxies = {
            name: stack.enter_context(ScriptedProxy(ProxyType.HTTP, bind_to=source))
            for name, source in SOURCES.items()
        }
        known = {name: proxy.address() for name, proxy in proxies.items()}
        own = {name: replace(known["p"], username=name) for name in OWN}
        running = stack.enter_context(
            site(
                folder,
                address,
                up,
                islands,
                {**known, **own},
                egress={**NO_CHECKS, "connect_s": 5},
                number=2,
                workers=2,
            )
        )
        prepared = {providers[name]: edit.prepare for name, edit in EDITS.items()}
        running.change(lambda store: _apply(store, prepared, known))
        pause(2 * EFFECTIVE_S)
        before = _look(running, [*providers.values()])
        changes = {providers[name]: edit.change for name, edit in EDITS.items()}
        running.change(lambda store: _apply(store, changes, known))
        pause(EFFECTIVE_S)
        after = _look(running, [*providers.values()])
        yield {
            name: (before[0][one], before[1][one], after[0][one], after[1][one])
            for name, one in providers.items()
        }


@pytest.mark.parametrize("name", EDITS)
def test_an_edit(
    seen: Mapping[str, tuple[set[int], set[str], set[int], set[str]]], name: str
) -> None:
    """Every process goes by it a second later; a key without a way out stays at home."""
    edit = EDITS[name]
    status_before, source_before, status_after, source_after = seen[name]

    assert (status_before, source_before) == ({200 if edit.before else 503}, set(edit.before))
    assert (status_after, source_after) == ({200 if edit.after else 503}, set(edit.after))
