"""A key that is bound to proxies leaves through them, and through nothing else."""

import asyncio
import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import h11
import pytest
from msgspec import Struct

from keymux.core.egress import ProxyAddress, ProxyStatus, ProxyType
from keymux.core.records import KeyState, Outcome
from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.behaviours import HugeEvent, Slow, Spent
from tests.egress.programs import MicroSocks, Program, TinyProxy
from tests.egress.scripted import Part, ScriptedProxy
from tests.egress.site import (
    DIALECTS,
    EFFECTIVE_S,
    HERE,
    OPERATOR,
    QUICK_CHECKS,
    UPSTREAM_NAME,
    WAYS,
    Island,
    Site,
    Upstream,
    binding_of,
    find_rows,
    proxy_id,
    secret_of,
    site,
    upstream,
)
from tests.scenarios.hosts import STORES, database
from tests.scenarios.rig import IS_LONG, key_id, pause
from tests.scenarios.wire import ANTHROPIC_PATH, OPENAI_PATH, Connection, Response, chat, get

HTTP, HTTPS, SOCKS = ProxyType.HTTP, ProxyType.HTTPS, ProxyType.SOCKS5
LOGIN = ("someone", "sesame-4711")
WRONG = "mellon-4712"
BACK_S = 8.0
UNAVAILABLE = {503, 529}  # as OpenAI and as Anthropic say it
Proxy = ScriptedProxy | Program


class Stage(Struct, frozen=True):
    """A gateway and the proxies of its islands.

    Attributes:
        site: the gateway.
        proxies: by name.
        trap: what the environment names as a proxy.
        plain: an upstream without TLS.
    """

    site: Site
    proxies: Mapping[str, Proxy]
    trap: ScriptedProxy
    plain: SandboxThread

    def program(self, name: str) -> Program:
        """A real proxy."""
        found = self.proxies[name]
        assert isinstance(found, Program)
        return found

    def sources(self, provider: str, key: str) -> set[str]:
        """From where a key was seen at the upstream."""
        return self.site.up.sources(secret_of(provider, key))

    def count(self, provider: str, key: str) -> int:
        """How often it was seen there."""
        return len(self.site.up.seen(secret_of(provider, key)))


REAL = ("micro", "micro_login", "tiny", "tiny_login")
NAMED = ("named_http", "named_https", "named_socks5")
THROUGH = (*REAL, *NAMED)
ISLANDS = {
    **{name: Island({"a": {name: 1}}) for name in REAL},
    **{name: Island({"a": {name: 1}}, host=UPSTREAM_NAME) for name in NAMED},
    "mixed": Island({"a": {"micro": 1}, "b": {"tiny": 1}, "free": {}}),
    "turns": Island({"a": {"micro": 5, "tiny": 5, "micro_login": 6}}),
    "steps": Island({"a": {"first": 1, "tiny": 2}}),
    "once": Island({"a": {"closing": 1, "micro": 2}}),
    "cut": Island({"a": {"dying": 1, "micro": 2}}),
    "slow": Island({"a": {"slow": 1}}),
    "alone": Island({"a": {"alone": 1, "only": 2}}),
    "strict": Island({"a": {}, "b": {}}, settings={"egress": "required"}),
    "denied": Island({"a": {"denied": 1}, "b": {"tiny": 1}}),
    "denied_too": Island({"a": {"denied_too": 1}, "b": {"tiny": 1}}),
    "heir": Island({"a": {"micro": 1}, "b": {"tiny": 1}}, backups=["spare"]),
}


def _proxies(up: Upstream) -> dict[str, Proxy]:
    """A source address for each, so that the upstream can tell them apart."""
    names, tls = up.names, up.authority.server(HERE)
    return {
        "micro": MicroSocks("127.0.0.31"),
        "micro_login": MicroSocks("127.0.0.32", user=LOGIN[0], password=LOGIN[1]),
        "tiny": TinyProxy("127.0.0.33"),
        "tiny_login": TinyProxy("127.0.0.34", basic_auth=LOGIN),
        "named_http": ScriptedProxy(HTTP, names=names, bind_to="127.0.0.35", login=LOGIN),
        "named_https": ScriptedProxy(
            HTTPS, names=names, bind_to="127.0.0.36", login=LOGIN, tls=tls
        ),
        "named_socks5": ScriptedProxy(SOCKS, names=names, bind_to="127.0.0.37", login=LOGIN),
        "closing": ScriptedProxy(HTTP, bind_to="127.0.0.38"),
        "dying": MicroSocks("127.0.0.39"),
        "slow": ScriptedProxy(SOCKS, bind_to="127.0.0.40"),
        "first": MicroSocks("127.0.0.41"),
        "alone": MicroSocks("127.0.0.42"),
        "only": TinyProxy("127.0.0.43"),
        "watched": ScriptedProxy(HTTP, bind_to="127.0.0.46"),
        "denied": MicroSocks("127.0.0.44", user=LOGIN[0], password=WRONG),
        "denied_too": TinyProxy("127.0.0.45", basic_auth=(LOGIN[0], WRONG)),
    }


def _address(name: str, proxy: Proxy) -> ProxyAddress:
    if name.startswith("denied"):
        return ProxyAddress(proxy.speaks, HERE, proxy.port, *LOGIN)
    return proxy.address() if isinstance(proxy, ScriptedProxy) else proxy.address


@pytest.fixture(scope="module", params=STORES if IS_LONG else STORES[:1])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A gateway whose environment names proxies too, or forbids them."""
    folder: Path = tmp_path_factory.mktemp("egress")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        up = stack.enter_context(upstream(folder))
        proxies = _proxies(up)
        for proxy in proxies.values():
            stack.enter_context(proxy)
        trap = stack.enter_context(ScriptedProxy(HTTP, bind_to="127.0.0.66"))
        patch.setenv("SSL_CERT_FILE", str(up.authority.ca_file))
        for name in ("HTTPS_PROXY", "https_proxy", "http_proxy", "all_proxy"):
            patch.setenv(name, f"http://{HERE}:{trap.port}")
        if request.param == "MongoDB":
            patch.setenv("NO_PROXY", "*")
            patch.setenv("no_proxy", "*")
        address = stack.enter_context(database(request.param, folder))
        addresses = {name: _address(name, proxy) for name, proxy in proxies.items()}
        plain = stack.enter_context(SandboxThread())
        islands = {
            **ISLANDS,
            "plain": Island(
                {"a": {"watched": 1}, "free": {}}, settings={"base_url": plain.url("openhands")}
            ),
        }
        routes = {
            f"elsewhere_{dialect}": [f"alone_{dialect}", f"turns_{other}"]
            for dialect, other in zip(DIALECTS, DIALECTS[::-1], strict=True)
        }
        running = stack.enter_context(
            site(folder, address, up, islands, addresses, egress=QUICK_CHECKS, routes=routes)
        )
        yield Stage(running, proxies, trap, plain)


def _code(response: Response) -> str:
    error = response.json()["error"]
    return str(error.get("code") or error["type"])


# -- the way out -----------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", THROUGH)
def test_a_bound_key_leaves_through_its_proxy(stage: Stage, name: str, dialect: str) -> None:
    """Through each type, with credentials and without; the ledger names the way."""
    provider = f"{name}_{dialect}"
    responses = stage.site.in_all_ways(provider)
    rows = stage.site.rows(responses)

    assert [response.status for response in responses] == [200] * len(WAYS)
    assert stage.sources(provider, "a") == {stage.proxies[name].source}
    assert {one.egress for row in rows for one in row.attempts} == {name}


@pytest.mark.parametrize("name", ["named_http", "named_https", "named_socks5"])
def test_names_are_resolved_at_the_proxy(stage: Stage, name: str) -> None:
    """P07: this name means nothing here; the proxy is given it, and its credentials with it."""
    proxy = stage.proxies[name]
    assert isinstance(proxy, ScriptedProxy)
    status = stage.site.post(f"{name}_openhands").status
    kind = "name" if name == "named_socks5" else "authority"

    assert status == 200
    assert {(wish.host, wish.kind) for wish in proxy.wishes} == {(UPSTREAM_NAME, kind)}
    assert {(wish.username, wish.password) for wish in proxy.wishes} == {LOGIN}
    assert b"sk-sandbox" not in proxy.heard


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_key_leaves_by_its_own_way(stage: Stage, dialect: str) -> None:
    """P12: no connection is shared between ways, and who is unbound goes directly."""
    provider = f"mixed_{dialect}"
    responses = [*stage.site.at_once(provider, 24), *stage.site.in_all_ways(provider)]
    secrets = {key: secret_of(provider, key) for key in ("a", "b", "free")}
    ways: dict[int, set[str]] = {}
    for one in stage.site.up.sandbox.seen:
        if one.key in secrets.values():
            ways.setdefault(one.connection, set()).add(one.key)

    assert {response.status for response in responses} == {200}
    assert stage.sources(provider, "a") == {stage.proxies["micro"].source}
    assert stage.sources(provider, "b") == {stage.proxies["tiny"].source}
    assert stage.sources(provider, "free") == {HERE}
    assert max(map(len, ways.values())) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_environment_is_ignored(stage: Stage, dialect: str) -> None:
    """P13: HTTPS_PROXY and its like lead nobody astray, NO_PROXY lets nobody out."""
    provider = f"mixed_{dialect}"
    stage.site.at_once(provider, 12)

    assert stage.trap.connections == 0
    assert stage.sources(provider, "free") == {HERE}
    assert stage.sources(provider, "a") == {stage.proxies["micro"].source}


def test_a_proxy_that_is_well_is_known_to_be(stage: Stage) -> None:
    """A check has reached the provider through it, and has measured how long that takes."""
    assert stage.site.is_well("tiny")
    found = stage.site.proxy("tiny")

    assert found.status is ProxyStatus.HEALTHY
    assert found.last_latency_ms is not None
    assert (found.last_error, found.fail_count) == ("", 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_equals_take_turns(stage: Stage, dialect: str) -> None:
    """The lowest priority comes first; among equal ones it is one after the other."""
    provider = f"turns_{dialect}"
    before = len(stage.site.up.seen(secret_of(provider, "a")))
    statuses = {stage.site.post(provider).status for _ in range(10)}
    seen = stage.site.up.seen(secret_of(provider, "a"))[before:]
    sources = [one.source for one in seen]

    assert statuses == {200}
    assert sources.count(stage.proxies["micro"].source) == 5
    assert sources.count(stage.proxies["tiny"].source) == 5


# -- failover --------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_next_binding_and_back(stage: Stage, dialect: str) -> None:
    """P01: the key steps around a proxy that is down, and comes back when it is up."""
    provider, first = f"steps_{dialect}", stage.program("first")
    assert stage.site.is_well("first")
    before = stage.site.post(provider).status
    first.kill()
    during = [stage.site.post(provider) for _ in range(3)]
    rows = stage.site.rows(during)
    is_known = stage.site.becomes("first", ProxyStatus.UNHEALTHY)
    first.restart()
    is_back = stage.site.is_well("first")
    mark = stage.count(provider, "a")
    after = stage.site.comes_to(
        lambda: (
            stage.site.post(provider).status == 200
            and stage.site.up.seen(secret_of(provider, "a"))[-1].source == first.source
        ),
        BACK_S,
    )

    assert {before, *(response.status for response in during)} == {200}
    assert {one.key for row in rows for one in row.attempts} == {key_id(secret_of(provider, "a"))}
    assert {row.attempts[-1].egress for row in rows} == {"tiny"}
    assert [one.outcome for row in rows for one in row.attempts].count("egress_failed") <= 1
    assert (is_known, is_back, after) == (True, True, True)
    assert stage.count(provider, "a") > mark
    assert stage.sources(provider, "a") == {first.source, stage.proxies["tiny"].source}
    assert stage.site.key(provider, "a").state == KeyState()


async def _cut_while_it_thinks(
    stage: Stage, model: str, path: str, cut: Callable[[], None]
) -> Response:
    """An answer whose proxy goes when the upstream has read the request."""
    sandbox = stage.site.up.sandbox
    before = len(sandbox.seen)
    async with await Connection.open(stage.site.hosts[0].port) as connection:
        await connection.ask(path, chat(model=model))
        await asyncio.to_thread(
            sandbox.until, lambda: any(one.is_whole for one in sandbox.seen[before:])
        )
        cut()
        return await connection.answer()


async def _cut_mid_stream(
    stage: Stage, model: str, path: str, cut: Callable[[], None]
) -> tuple[str, bytes]:
    """A stream whose proxy goes when some of it has come: the request's id, and all that came."""
    name, body = "", b""
    async with await Connection.open(stage.site.hosts[0].port) as connection:
        await connection.ask(path, chat(model=model, stream=True))
        async for event in connection.events():
            if isinstance(event, h11.Response):
                name = dict(event.headers)[b"x-keymux-request-id"].decode()
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
                cut()
    return name, body


@pytest.mark.parametrize(
    ("dialect", "path"), [("openhands", OPENAI_PATH), ("ohmygpt", ANTHROPIC_PATH)]
)
def test_what_was_sent_is_not_sent_again(stage: Stage, dialect: str, path: str) -> None:
    """A proxy dies while the provider thinks: the next binding is for the next request."""
    provider, proxy = f"once_{dialect}", stage.proxies["closing"]
    assert isinstance(proxy, ScriptedProxy)
    stage.site.up.sandbox.behave(secret_of(provider, "a"), Slow(3.0, 0.0), "ok")
    response = asyncio.run(_cut_while_it_thinks(stage, provider, path, proxy.kill))
    sent = stage.count(provider, "a")
    later = stage.site.post(provider, path)
    proxy.restart()

    assert response.status == 502
    assert stage.site.attempts(response) == [
        (key_id(secret_of(provider, "a")), "closing", "upstream_no_reply")
    ]
    assert sent == 1
    assert later.status == 200
    assert stage.site.up.seen(secret_of(provider, "a"))[-1].source == stage.proxies["micro"].source
    assert stage.site.key(provider, "a").state == KeyState()
    assert stage.site.is_well("closing")


@pytest.mark.parametrize(
    ("dialect", "path"), [("openhands", ANTHROPIC_PATH), ("ohmygpt", OPENAI_PATH)]
)
def test_a_stream_whose_proxy_dies(stage: Stage, dialect: str, path: str) -> None:
    """P09: it ends with an error in the client's words and no end marker; nothing is sent again."""
    provider, proxy = f"cut_{dialect}", stage.program("dying")
    assert stage.site.is_well("dying")
    stage.site.up.sandbox.behave(secret_of(provider, "a"), Slow(0.0, 0.5), "ok")
    name, body = asyncio.run(_cut_mid_stream(stage, provider, path, proxy.kill))
    sent = stage.count(provider, "a")
    later = stage.site.post(provider, path)
    proxy.restart()
    [row] = stage.site.hosts[0].ask_store(lambda store: find_rows(store, [name]))

    assert b"error" in body.rpartition(b"data:")[2]
    assert not re.search(rb"\[DONE\]|message_stop", body)
    assert sent == 1
    assert row.outcome is Outcome.CUT
    assert row.fault in {"stream_broken", "upstream_truncated"}  # by FIN or RST
    assert [one.egress for one in row.attempts] == ["dying"]
    assert later.status == 200
    assert stage.site.up.seen(secret_of(provider, "a"))[-1].source == stage.proxies["micro"].source
    assert stage.site.key(provider, "a").state == KeyState()


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_proxy(stage: Stage, *, stream: bool) -> None:
    """P08: what arrives slowly arrives; nobody is charged for it."""
    proxy = stage.proxies["slow"]
    assert isinstance(proxy, ScriptedProxy)
    dialect = DIALECTS[stream]
    provider = f"slow_{dialect}"
    stage.site.up.sandbox.behave(secret_of(provider, "a"), HugeEvent(10_000))
    proxy.part = Part(rate=8_000)
    response = stage.site.post(provider, stream=stream)
    proxy.part = Part()
    row = stage.site.row(response)

    assert (response.status, response.complete) == (200, True)
    assert len(response.body) > 10_000
    assert (row.outcome, row.attempts[-1].egress) == (Outcome.OK, "slow")
    assert row.took_ms > 1000
    assert stage.site.key(provider, "a").state == KeyState()


# -- no way out ------------------------------------------------------------------------------------
def test_no_proxy_is_left(stage: Stage) -> None:
    """The key cannot be used, and says so; other providers can. It is back with a proxy."""
    running, gone = stage.site, [stage.program("alone"), stage.program("only")]
    providers = [f"alone_{dialect}" for dialect in DIALECTS]
    before = {running.post(provider).status for provider in providers}
    for proxy in gone:
        proxy.kill()
    during = [one for provider in providers for one in running.in_all_ways(provider)]
    elsewhere = [running.post(f"elsewhere_{dialect}") for dialect in DIALECTS]
    states = [running.key(provider, "a").state for provider in providers]
    gone[1].restart()
    is_back = running.comes_to(
        lambda: all(running.post(provider).status == 200 for provider in providers), BACK_S
    )
    gone[0].restart()

    assert before == {200}
    assert {one.status for one in during} <= UNAVAILABLE
    assert _code(during[0]) == "egress_unavailable"
    assert all(int(one.headers["retry-after"]) >= 1 for one in during)
    assert [one.status for one in elsewhere] == [200, 200]
    assert states == [KeyState(), KeyState()]
    assert is_back
    for provider in providers:
        assert stage.sources(provider, "a") <= {proxy.source for proxy in gone}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_that_requires_proxies(stage: Stage, dialect: str) -> None:
    """Its unbound keys are not used; one that is bound is, within a second."""
    provider = f"strict_{dialect}"
    before = [response.status for response in stage.site.in_all_ways(provider)]
    stage.site.change(
        lambda store: store.bindings.add(provider, [binding_of(provider, "a", "micro")], OPERATOR)
    )
    is_used = stage.site.comes_to(lambda: stage.site.post(provider).status == 200, EFFECTIVE_S)
    statuses = {stage.site.post(provider).status for _ in range(3)}

    assert set(before) <= UNAVAILABLE
    assert is_used
    assert statuses == {200}
    assert stage.sources(provider, "a") == {stage.proxies["micro"].source}
    assert stage.sources(provider, "b") == set()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_plain_http_does_not_go_through_a_proxy(stage: Stage, dialect: str) -> None:
    """P10: who could read and forge it is not trusted; the bound key waits, others go directly."""
    provider, watched = f"plain_{dialect}", stage.proxies["watched"]
    assert isinstance(watched, ScriptedProxy)
    statuses = {stage.site.post(provider).status for _ in range(4)}
    seen = {one.key for one in stage.plain.seen}

    assert statuses == {200}
    assert secret_of(provider, "free") in seen
    assert secret_of(provider, "a") not in seen
    assert b"POST" not in watched.heard


@pytest.mark.parametrize("name", ["denied", "denied_too"])
def test_refused_credentials_wait_for_the_operator(stage: Stage, name: str) -> None:
    """P02: the proxy is misconfigured until somebody says otherwise, though it is right by now."""
    running, proxy = stage.site, stage.program(name)
    providers = [f"{name}_{dialect}" for dialect in DIALECTS]
    first = [one.status for provider in providers for one in running.in_all_ways(provider)]
    is_known = running.becomes(name, ProxyStatus.MISCONFIGURED)
    proxy.password = LOGIN[1]
    proxy.restart()
    pause(2.0)  # more than one check and one backoff
    waits = running.proxy(name)
    later = {running.post(provider).status for provider in providers for _ in range(4)}
    used = [stage.sources(provider, "a") for provider in providers]
    running.change(lambda store: store.proxies.set_active(waits.id, active=True, actor=OPERATOR))
    trusted = running.comes_to(
        lambda: all(
            running.post(provider).status == 200 and stage.count(provider, "a")
            for provider in providers
        ),
        BACK_S,
    )

    assert {*first, *later} == {200}
    assert is_known
    assert waits.status is ProxyStatus.MISCONFIGURED
    assert waits.last_error
    assert used == [set(), set()]
    assert trusted
    assert [stage.sources(provider, "a") for provider in providers] == [{proxy.source}] * 2
    assert [running.key(provider, "a").state for provider in providers] == [KeyState()] * 2


# -- keys that come and go -------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_backup_key_inherits_the_way(stage: Stage, dialect: str) -> None:
    """Whoever takes over for a dead key leaves through its proxy, from the first request on."""
    running, provider = stage.site, f"heir_{dialect}"
    running.up.sandbox.behave(secret_of(provider, "a"), Spent())
    statuses = {running.post(provider).status for _ in range(4)}
    is_used = running.comes_to(
        lambda: running.post(provider).status == 200 and stage.count(provider, "spare") > 3, BACK_S
    )
    bindings = running.hosts[0].ask_store(
        lambda store: store.bindings.of_keys(provider, [key_id(secret_of(provider, "spare"))])
    )

    assert statuses == {200}
    assert is_used
    assert stage.sources(provider, "spare") == {stage.proxies["micro"].source}
    assert stage.sources(provider, "b") == {stage.proxies["tiny"].source}
    assert [one.proxy_id for one in bindings] == [proxy_id("micro")]


# -- what is told ----------------------------------------------------------------------------------
def test_no_credentials_are_told(stage: Stage) -> None:
    """P11: not in the log, in errors, in metrics, in the ledger or in the audit."""
    running, host = stage.site, stage.site.hosts[0]
    responses = [
        one for name in ("denied", "tiny_login") for one in running.in_all_ways(f"{name}_openhands")
    ]
    metrics = get(host.port, "/metrics").body.decode()
    told = [
        host.log_path.read_text(),
        host.said(),
        metrics,
        repr(running.rows(responses)),
        repr(host.rows()),
        repr(host.ask_store(lambda store: store.audit.since(0, 1_000_000))),
        repr(host.ask_store(lambda store: store.proxies.load())),
        *(repr(response) for response in responses),
    ]
    login = base64.b64encode(":".join(LOGIN).encode()).decode()

    assert not any(secret in text for text in told for secret in (LOGIN[1], WRONG, login))


def test_metrics_tell_how_proxies_are(stage: Stage) -> None:
    """Each proxy by its name: whether it is up."""
    stage.site.post("micro_openhands")
    metrics = get(stage.site.hosts[0].port, "/metrics").body.decode()

    assert re.search(r'keymux_proxy_up\{[^}]*"micro"[^}]*\} 1', metrics)
