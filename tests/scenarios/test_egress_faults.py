"""What a proxy does wrong is the proxy's fault: nobody else is blamed, nothing goes around it.

All faults are played at once on one gateway, each with a provider, keys and a proxy of its own; the
tests look at what came of them. Every second one is met by the other dialect on the other store.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec import Struct

from keymux.core.egress import ProxyAddress, ProxyRecord, ProxyStatus, ProxyType
from keymux.core.records import ExchangeRow, KeyRecord, KeyState, Outcome
from keymux.sandbox.apart import SandboxChild
from keymux.stores.opening import SealedStore
from tests.egress.certificates import Authority
from tests.egress.programs import MicroSocks, Program, TinyProxy
from tests.egress.scripted import GOOD, Ending, Part, Point, ScriptedProxy, replying
from tests.egress.site import (
    DIALECTS,
    HERE,
    NO_CHECKS,
    UPSTREAM_NAME,
    WAYS,
    Island,
    Site,
    Upstream,
    find_rows,
    secret_of,
    site,
    upstream,
)
from tests.scenarios.hosts import STORES, database
from tests.scenarios.rig import IS_LONG, key_id, pause
from tests.scenarios.wire import Response, ask, chat

HTTP, HTTPS, SOCKS = ProxyType.HTTP, ProxyType.HTTPS, ProxyType.SOCKS5
FAILED, REFUSED = "egress_failed", "egress_refused"
LOGIN = ("someone", "sesame-4711")
OK = b"HTTP/1.1 200 OK\r\n\r\n"
SOCKS_OK = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
GOOD_SOURCE = "127.0.0.20"


class Fault(Struct, frozen=True):
    """What a proxy does wrong.

    Attributes:
        speaks: what it speaks.
        part: played when all is set up.
        says: outcome of the attempt.
        is_down: nobody listens.
        is_spy: it opens TLS with a certificate of its own.
        login: whom it lets in; the gateway shows the right credentials at first.
    """

    speaks: ProxyType
    part: Part = GOOD
    says: str = FAILED
    is_down: bool = False
    is_spy: bool = False
    login: tuple[str, str] | None = None


def _page(status: int) -> Part:
    said = f"HTTP/1.1 {status} Said\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"
    return replying(said.encode(), Ending.CLOSE)


FAULTS = {
    **{f"p01_down_{speaks}": Fault(speaks, is_down=True) for speaks in ProxyType},
    "p02_407": Fault(HTTP, _page(407), REFUSED, login=LOGIN),
    "p02_401": Fault(HTTP, _page(401), login=LOGIN),  # a check tells that it is a refusal
    "p02_407_tls": Fault(HTTPS, _page(407), REFUSED, login=LOGIN),
    "p02_socks_method": Fault(
        SOCKS, replying(b"\x05\xff", Ending.CLOSE, Point.METHOD), REFUSED, login=LOGIN
    ),
    "p02_socks_login": Fault(
        SOCKS, replying(b"\x01\x01", Ending.CLOSE, Point.LOGIN), REFUSED, login=LOGIN
    ),
    **{f"p03_{status}": Fault(HTTP, _page(status)) for status in (400, 403, 429, 502, 503, 504)},
    "p03_403_tls": Fault(HTTPS, _page(403)),
    "p04_garbage": Fault(HTTP, replying(b"\x00\xffgarbage\r\n\r\n", Ending.CLOSE)),
    "p04_close": Fault(HTTP, replying(b"", Ending.CLOSE)),
    "p04_reset": Fault(HTTP, replying(b"", Ending.RESET)),
    "p04_half": Fault(HTTP, replying(OK[:-2], Ending.CLOSE)),
    "p04_stall": Fault(HTTP, replying(b"", Ending.STALL)),
    "p04_open_garbage": Fault(HTTP, replying(OK + b"garbage", Ending.CLOSE)),
    "p04_open_close": Fault(HTTP, replying(OK, Ending.CLOSE)),
    "p04_open_stall": Fault(HTTP, replying(OK, Ending.STALL)),
    "p04_open_cut": Fault(HTTP, Part(cut_after=100)),
    "p04_endless": Fault(HTTP, Part(ends=(Point.REPLY, Ending.ENDLESS), filler=b"X-A: b\r\n")),
    "p04_tls_close": Fault(HTTPS, replying(b"", Ending.CLOSE, Point.ACCEPT)),
    "p04_tls_plain": Fault(HTTPS, replying(OK, Ending.CLOSE, Point.ACCEPT)),
    "p04_tls_stall": Fault(HTTPS, replying(b"", Ending.STALL, Point.ACCEPT)),
    "p05_spy_http": Fault(HTTP, is_spy=True),
    "p05_spy_https": Fault(HTTPS, is_spy=True),
    "p05_spy_socks5": Fault(SOCKS, is_spy=True),
    **{
        f"p06_reply_{code}": Fault(
            SOCKS, replying(bytes([5, code]) + SOCKS_OK[2:], Ending.CLOSE), FAILED
        )
        for code in (*range(1, 10), 255)
    },
    "p06_truncated": Fault(SOCKS, replying(SOCKS_OK[:5], Ending.CLOSE)),
    "p06_version": Fault(SOCKS, replying(b"\x04\x5a" + SOCKS_OK[2:], Ending.CLOSE)),
    "p06_method_version": Fault(SOCKS, replying(b"\x04\x00", Ending.CLOSE, Point.METHOD)),
    "p06_method_close": Fault(SOCKS, replying(b"", Ending.CLOSE, Point.METHOD)),
    "p06_method_stall": Fault(SOCKS, replying(b"", Ending.STALL, Point.METHOD)),
    "p06_address": Fault(SOCKS, replying(b"\x05\x00\x00\x09" + SOCKS_OK[4:], Ending.CLOSE)),
    "p06_open_garbage": Fault(SOCKS, replying(SOCKS_OK + b"garbage", Ending.CLOSE)),
    "p06_open_reset": Fault(SOCKS, replying(SOCKS_OK, Ending.RESET)),
}
REAL = {
    "real_p01_microsocks": FAILED,
    "real_p01_tinyproxy": FAILED,
    "real_p02_microsocks": REFUSED,
    "real_p02_tinyproxy": FAILED,  # it says 401; see above
    "real_p03_tinyproxy": FAILED,
}


class Played(Struct, frozen=True):
    """What came of all faults.

    Attributes:
        dialects: of the provider that met each.
        responses: to the requests, in every way there is.
        rows: of the ledger, for these.
        keys: as stored afterwards, by provider and id.
        proxies: as stored afterwards, by name.
        scripted: the proxies that are not real.
        up: the upstream.
        false_one: what spies lead to.
        log: of the gateway.
        next_one: an answer to a key whose first proxy is down, and its row.
    """

    dialects: Mapping[str, str]
    responses: Mapping[str, Sequence[Response]]
    rows: Mapping[str, Sequence[ExchangeRow]]
    keys: Mapping[str, Mapping[str, KeyRecord]]
    proxies: Mapping[str, ProxyRecord]
    scripted: Mapping[str, ScriptedProxy]
    up: Upstream
    false_one: SandboxChild
    log: str
    next_one: tuple[Response, ExchangeRow]

    def secret(self, name: str, key: str) -> str:
        """The secret of a key of the provider that met a fault."""
        return secret_of(f"{name}_{self.dialects[name]}", key)


def _scripted(up: Upstream) -> dict[str, ScriptedProxy]:
    """A proxy for each fault that does not show it yet."""
    tls = up.authority.server(HERE)
    return {
        name: ScriptedProxy(
            fault.speaks,
            names=up.names,
            login=fault.login,
            tls=tls if fault.speaks is HTTPS else None,
        )
        for name, fault in FAULTS.items()
    }


def _real(up: Upstream) -> dict[str, Program]:
    return {
        "real_p01_microsocks": MicroSocks(),
        "real_p01_tinyproxy": TinyProxy(),
        "real_p02_microsocks": MicroSocks(user=LOGIN[0], password="another"),
        "real_p02_tinyproxy": TinyProxy(basic_auth=(LOGIN[0], "another")),
        "real_p03_tinyproxy": TinyProxy(connect_ports=[up.port + 1]),
    }


def _address(name: str, proxy: ScriptedProxy | Program) -> ProxyAddress:
    if isinstance(proxy, ScriptedProxy):
        return proxy.address()
    login = LOGIN if "p02" in name else ("", "")
    return ProxyAddress(proxy.speaks, HERE, proxy.port, *login)


def _spoil(
    scripted: Mapping[str, ScriptedProxy], real: Mapping[str, Program], false_port: int
) -> None:
    """From now on everybody shows their fault."""
    for name, fault in FAULTS.items():
        proxy = scripted[name]
        proxy.part = fault.part
        if fault.is_down:
            proxy.kill()
        if fault.is_spy:
            proxy.names[UPSTREAM_NAME] = (HERE, false_port)
    for name, program in real.items():
        if "p01" in name:
            program.kill()


def _settle(scripted: Mapping[str, ScriptedProxy]) -> None:
    """Wait until nobody looks at the proxies any more."""
    before = -1
    while before != (before := sum(proxy.connections for proxy in scripted.values())):
        pause(0.3)


async def _ask_all(running: Site, dialects: Mapping[str, str]) -> dict[str, list[Response]]:
    """The requests of each fault one after the other, the faults side by side."""
    turn = asyncio.Semaphore(12)

    async def ask_for(name: str) -> list[Response]:
        model = f"{name}_{dialects[name]}"
        async with turn:
            return [
                await ask(running.hosts[0].port, path, chat(model=model, stream=stream))
                for path, stream in WAYS
            ]

    found = await asyncio.gather(*map(ask_for, dialects))
    return dict(zip(dialects, found, strict=True))


async def _look(
    store: SealedStore, responses: Mapping[str, Sequence[Response]], dialects: Mapping[str, str]
) -> tuple[dict[str, list[ExchangeRow]], dict[str, dict[str, KeyRecord]], dict[str, ProxyRecord]]:
    """Rows, keys and proxies as they are stored."""
    rows = {
        name: await find_rows(store, [one.headers["x-keymux-request-id"] for one in given])
        for name, given in responses.items()
    }
    keys = {
        name: {key.id: key for key in await store.keys.load(f"{name}_{dialect}")}
        for name, dialect in dialects.items()
    }
    return rows, keys, {proxy.name: proxy for proxy in await store.proxies.load()}


@pytest.fixture(scope="module", params=STORES if IS_LONG else STORES[:1])
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Played]:
    """One gateway that has met all faults."""
    folder: Path = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack:
        up = stack.enter_context(upstream(folder))
        theirs = Authority(folder, "theirs").issue(HERE, UPSTREAM_NAME)
        false_one = stack.enter_context(SandboxChild(certificate=theirs))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SSL_CERT_FILE", str(up.authority.ca_file))
        good = ScriptedProxy(SOCKS, names=up.names, bind_to=GOOD_SOURCE)
        scripted, real = _scripted(up), _real(up)
        proxies: dict[str, ScriptedProxy | Program] = {"good": good, **scripted, **real}
        for proxy in proxies.values():
            stack.enter_context(proxy)
        faults = [*FAULTS, *REAL]
        first = STORES.index(request.param)
        dialects = {name: DIALECTS[(n + first) % 2] for n, name in enumerate(faults)}
        islands = {
            name: Island(
                {"bad": {name: 1}, "good": {"good": 1}},
                host=UPSTREAM_NAME if name in FAULTS else HERE,
                dialects=[dialect],
            )
            for name, dialect in dialects.items()
        }
        islands["next"] = Island({"a": {"p01_down_http": 1, "good": 2}}, host=UPSTREAM_NAME)
        addresses = {name: _address(name, proxy) for name, proxy in proxies.items()}
        address = stack.enter_context(database(request.param, folder))
        with site(folder, address, up, islands, addresses, egress=NO_CHECKS) as running:
            _settle(scripted)
            _spoil(scripted, real, int(false_one.url().rpartition(":")[2]))
            responses = asyncio.run(_ask_all(running, dialects))
            next_one = running.post("next_openhands", stream=True)
            pause(1.0)  # states are stored a moment later
            rows, keys, stored = running.hosts[0].ask_store(
                lambda store: _look(store, responses, dialects)
            )
            yield Played(
                dialects,
                responses,
                rows,
                keys,
                stored,
                scripted,
                up,
                false_one,
                running.hosts[0].log_path.read_text(),
                (next_one, running.row(next_one)),
            )


# -- right behaviour -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*FAULTS, *REAL])
def test_another_key_serves(played: Played, name: str) -> None:
    """No client sees an error: the provider's other key is used, through its own proxy."""
    assert [response.status for response in played.responses[name]] == [200] * len(WAYS)
    assert all(response.complete for response in played.responses[name])
    assert len(played.up.seen(played.secret(name, "good"))) == len(WAYS)
    assert played.up.sources(played.secret(name, "good")) == {GOOD_SOURCE}


def test_the_next_binding_is_used_in_the_same_request(played: Played) -> None:
    """P01: the key stays the same, and the client does not notice."""
    response, row = played.next_one
    secret = secret_of("next_openhands", "a")

    assert (response.status, response.complete) == (200, True)
    assert [(one.key, one.egress, one.outcome) for one in row.attempts] == [
        (key_id(secret), "p01_down_http", FAILED),
        (key_id(secret), "good", "ok"),
    ]
    assert played.up.sources(secret) == {GOOD_SOURCE}


@pytest.mark.parametrize("name", [*FAULTS, *REAL])
def test_nothing_goes_around_the_proxy(played: Played, name: str) -> None:
    """The key that is bound to it is not seen at the upstream, from wherever."""
    assert played.up.seen(played.secret(name, "bad")) == []


@pytest.mark.parametrize("name", [*FAULTS, *REAL])
def test_the_ledger_tells_it_as_the_proxys(played: Played, name: str) -> None:
    """One attempt failed on the way out, before anything was sent; then the proxy is left alone."""
    rows = played.rows[name]
    lost = [one for row in rows for one in row.attempts if one.egress == name]
    bad = key_id(played.secret(name, "bad"))
    expected = FAULTS[name].says if name in FAULTS else REAL[name]

    assert [row.outcome for row in rows] == [Outcome.OK] * len(WAYS)
    assert {row.attempts[-1].egress for row in rows} == {"good"}
    assert [(one.key, one.outcome, one.work, one.status) for one in lost] in (
        [[(bad, expected, "none", 0)]] if name in FAULTS else [[(bad, expected, "none", 0)], []]
    )


@pytest.mark.parametrize("name", [*FAULTS, *REAL])
def test_the_key_is_not_blamed(played: Played, name: str) -> None:
    """Its stored state is what it was at the start."""
    [bad] = [key for key in played.keys[name].values() if key.secret == played.secret(name, "bad")]

    assert bad.state == KeyState()
    assert (bad.last_error, bad.replaced_by) == ("", "")


@pytest.mark.parametrize("name", [*FAULTS, *REAL])
def test_the_proxy_is_known_to_fail(played: Played, name: str) -> None:
    """Its status and the reason are stored; refused credentials wait for the operator."""
    expected = FAULTS[name].says if name in FAULTS else REAL[name]
    found = played.proxies[name]
    state = found.exits[f"{name}_{played.dialects[name]}"]

    assert found.status is (
        ProxyStatus.MISCONFIGURED if expected == REFUSED else ProxyStatus.UNHEALTHY
    )
    assert found.last_error
    assert state.reason
    assert (state.until is None) == (expected == REFUSED)
    assert found.fail_count >= 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_proxy_learns_no_key(played: Played, name: str) -> None:
    """P02: it is asked for a way, with the credentials that are for it and none that are not."""
    heard = bytes(played.scripted[name].heard)

    for key in ("bad", "good"):
        assert played.secret(name, key).encode() not in heard
    assert b"\r\nauthorization:" not in heard.lower()
    assert b"x-api-key" not in heard.lower()


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.speaks is SOCKS])
def test_names_are_left_to_the_proxy(played: Played, name: str) -> None:
    """P07: the upstream's name cannot be resolved here, and is given as a name."""
    wishes = played.scripted[name].wishes

    assert {(wish.kind, wish.host) for wish in wishes} <= {("name", UPSTREAM_NAME)}


def test_a_spy_is_told_nothing(played: Played) -> None:
    """P05: whoever opens TLS on the way does not get to see a request."""
    assert played.false_one.seen == []


def test_no_credentials_are_told(played: Played) -> None:
    """P11: neither to clients nor in the log, the ledger and the reasons stored."""
    told = [
        played.log,
        repr(played.rows),
        repr(played.proxies),
        *(repr(proxy.exits) + proxy.last_error for proxy in played.proxies.values()),
        *(repr(response) for given in played.responses.values() for response in given),
    ]

    assert not any(LOGIN[1] in text or "sk-sandbox" in text for text in told)
