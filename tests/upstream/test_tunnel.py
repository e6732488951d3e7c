"""Whether a provider can be reached through a proxy, and in which words it cannot."""

import asyncio
import base64
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from keymux.core.egress import ProxyAddress, ProxyType
from keymux.sandbox import Sandbox
from keymux.sandbox.apart import SandboxThread
from keymux.upstream import tunnel
from keymux.upstream.tunnel import Target, TunnelFailed, check, target_of
from tests.egress.certificates import Authority
from tests.egress.programs import HERE, MicroSocks, Program, TinyProxy, lasting_port
from tests.egress.scripted import GOOD, Ending, Part, Point, ScriptedProxy, Wish, replying

NAME = "upstream.test.invalid"
LOGIN = ("a user", "p:@/%ss \u00fc")
ALL_TYPES = list(ProxyType)
PLAIN_TYPES = [ProxyType.HTTP, ProxyType.SOCKS5]
QUICK_S, PATIENT_S = 0.15, 10.0


class Site(Struct, frozen=True):
    """An upstream with TLS, and who vouches for it.

    Attributes:
        sandbox: the upstream.
        authority: of its certificate.
        port: of the upstream.
    """

    sandbox: SandboxThread
    authority: Authority
    port: int

    def target(self, host: str = HERE) -> Target:
        """The upstream as a target."""
        return Target(host, self.port, tls=True, ca_file=str(self.authority.ca_file))

    @property
    def names(self) -> dict[str, tuple[str, int]]:
        """What a scripted proxy knows that nobody else does."""
        return {NAME: (HERE, self.port)}

    def proxy(
        self, speaks: ProxyType, part: Part = GOOD, login: tuple[str, str] | None = None
    ) -> ScriptedProxy:
        """A scripted proxy; one over TLS has a certificate of the same authority."""
        tls = self.authority.server(HERE) if speaks is ProxyType.HTTPS else None
        return ScriptedProxy(speaks, part=part, names=self.names, tls=tls, login=login)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The upstream; whoever trusts the system's certificates trusts its authority."""
    authority = Authority(tmp_path_factory.mktemp("tunnel"))
    tls = authority.server(HERE, NAME)
    with SandboxThread(Sandbox(tls=tls)) as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        tunnel._context.cache_clear()
        yield Site(sandbox, authority, int(sandbox.url().rpartition(":")[2]))
        tunnel._context.cache_clear()


def reach(address: ProxyAddress, target: Target, timeout_s: float = PATIENT_S) -> float:
    """Seconds that it took."""
    return asyncio.run(check(address, target, timeout_s))


def failure(address: ProxyAddress, target: Target, timeout_s: float = PATIENT_S) -> TunnelFailed:
    """How it failed; it must, in its time and without naming an address or a secret."""
    begun = time.monotonic()
    with pytest.raises(TunnelFailed) as caught:
        reach(address, target, timeout_s)
    assert time.monotonic() - begun < timeout_s + 1.0
    for secret in (address.password, address.username, address.host, str(address.port)):
        assert len(secret) == 1 or not secret or secret not in caught.value.reason
    assert caught.value.reason == str(caught.value)
    return caught.value


# -- what works ------------------------------------------------------------------------------------
@pytest.mark.parametrize("login", [("", ""), ("someone", "secret")], ids=["open", "with a login"])
@pytest.mark.parametrize("kind", [MicroSocks, TinyProxy])
def test_real_proxies(kind: type[Program], login: tuple[str, str], site: Site) -> None:
    """A handshake is made through them, no request is sent, and no connection is left."""
    proxy: Program = MicroSocks(user=login[0], password=login[1])
    if kind is TinyProxy:
        proxy = TinyProxy(basic_auth=login if login[0] else None)
    before = len(site.sandbox.seen)
    with proxy:
        took = reach(proxy.address, site.target())
    site.sandbox.until(lambda: site.sandbox.connections == 0)

    assert 0 < took < PATIENT_S
    assert len(site.sandbox.seen) == before


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "with a login"])
@pytest.mark.parametrize("speaks", ALL_TYPES)
def test_names_are_resolved_at_the_proxy(
    speaks: ProxyType, login: tuple[str, str] | None, site: Site
) -> None:
    """P07: a name that nobody can resolve here is given to the proxy as it is."""
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(NAME, site.port)
    with site.proxy(speaks, login=login) as proxy:
        reach(proxy.address(), site.target(NAME))

    kind = "name" if speaks is ProxyType.SOCKS5 else "authority"
    assert proxy.wishes == [Wish(NAME, site.port, kind, *(login or ("", "")))]


@pytest.mark.parametrize(
    ("host", "kind"),
    [pytest.param(HERE, "ipv4", id="IPv4"), pytest.param("::1", "ipv6", id="IPv6")],
)
def test_addresses_are_given_as_addresses(host: str, kind: str, site: Site) -> None:
    """SOCKS5 has a form for each; CONNECT puts IPv6 into brackets."""
    for speaks, said in ((ProxyType.SOCKS5, host), (ProxyType.HTTP, host)):
        part = replying(b"", Ending.CLOSE)
        with site.proxy(speaks, part) as proxy:
            failure(proxy.address(), site.target(host))
        [wish] = proxy.wishes

        is_socks = speaks is ProxyType.SOCKS5
        bracketed = f"[{said}]" if ":" in said else said
        assert (wish.host, wish.port) == (said if is_socks else bracketed, site.port)
        assert wish.kind == (kind if is_socks else "authority")


def test_a_target_without_tls_is_only_connected_to() -> None:
    """There is nothing to shake hands with."""
    with SandboxThread() as plain, ScriptedProxy(ProxyType.SOCKS5) as proxy:
        took = reach(proxy.address(), target_of(plain.url("openhands"), None))

        plain.until(lambda: plain.accepted == 1)
        assert took > 0
        assert plain.seen == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example.com/v1", Target("api.example.com", 443)),
        ("https://api.example.com:8443", Target("api.example.com", 8443)),
        ("http://127.0.0.1:8101/openhands", Target("127.0.0.1", 8101, tls=False)),
        ("http://localhost", Target("localhost", 80, tls=False)),
        ("https://[::1]:9", Target("::1", 9)),
    ],
)
def test_the_target_of_a_provider(url: str, expected: Target) -> None:
    """Its host, and its port or the usual one."""
    assert target_of(url, None) == expected


def test_slow_relays_are_waited_for(site: Site) -> None:
    """P08: slowness is no failure as long as the time suffices."""
    with site.proxy(ProxyType.HTTP, Part(rate=8_000)) as proxy:
        assert reach(proxy.address(), site.target()) > 0.05


# -- nobody there ----------------------------------------------------------------------------------
@pytest.mark.parametrize("speaks", ALL_TYPES)
def test_nobody_listens(speaks: ProxyType, site: Site) -> None:
    """P01: the proxy is down."""
    failed = failure(ProxyAddress(speaks, HERE, lasting_port(), "someone", "secret"), site.target())

    assert failed.reason == "the proxy: connection refused"
    assert not failed.is_refusal


def test_a_proxy_whose_name_is_unknown(site: Site) -> None:
    """A typing error in its name."""
    failed = failure(ProxyAddress(ProxyType.HTTP, "proxy.test.invalid", 1), site.target())

    assert failed.reason == "the proxy: its name cannot be resolved"


@pytest.mark.parametrize("host", ["proxy..test.invalid", "p" * 64, "p" * 300, "\u00fc" * 70, "a b"])
@pytest.mark.parametrize("speaks", ALL_TYPES)
def test_names_that_no_resolver_takes(speaks: ProxyType, host: str, site: Site) -> None:
    """Neither that of a proxy nor that of a provider breaks anything."""
    failure(ProxyAddress(speaks, host, 1), site.target())
    with site.proxy(speaks) as proxy:
        failure(proxy.address(), site.target(host))


@pytest.mark.parametrize("login", [("u" * 300, "p"), ("someone", "p" * 300), ("someone", "")])
def test_credentials_that_socks_has_no_room_for(login: tuple[str, str], site: Site) -> None:
    """A name has 255 bytes at most; an empty password is one."""
    with site.proxy(ProxyType.SOCKS5, login=("someone", "secret")) as proxy:
        address = ProxyAddress(ProxyType.SOCKS5, HERE, proxy.port, *login)
        failure(address, site.target())


@pytest.mark.parametrize("kind", [MicroSocks, TinyProxy])
def test_the_upstream_is_down(kind: type[Program]) -> None:
    """P03, P06: real proxies say so in their own ways; it is not the credentials."""
    with kind() as proxy:
        failed = failure(proxy.address, Target(HERE, lasting_port()))

    assert not failed.is_refusal
    assert failed.reason.startswith("the proxy: ")


def test_a_port_that_tinyproxy_does_not_allow(site: Site) -> None:
    """P03: 403 is no refusal of the credentials."""
    with TinyProxy(connect_ports=[1]) as proxy:
        failed = failure(proxy.address, site.target())

    assert failed.reason == "the proxy: answered CONNECT with 403"
    assert not failed.is_refusal


# -- credentials -----------------------------------------------------------------------------------
@pytest.mark.parametrize("password", ["", "wrong"], ids=["none", "wrong ones"])
@pytest.mark.parametrize("kind", ["microsocks", "tinyproxy", *ALL_TYPES])
def test_refused_credentials(kind: str, password: str, site: Site) -> None:
    """P02: whatever the proxy says it with, only an operator can help."""
    known, shown = ("someone", "secret"), "someone" if password else ""
    speaks = {"microsocks": ProxyType.SOCKS5, "tinyproxy": ProxyType.HTTP}.get(kind)
    if kind == "microsocks":
        proxy: Program | ScriptedProxy = MicroSocks(user=known[0], password=known[1])
    elif kind == "tinyproxy":
        proxy = TinyProxy(basic_auth=known)
    else:
        proxy = site.proxy(ProxyType(kind), login=known)
    with proxy:
        address = ProxyAddress(speaks or ProxyType(kind), HERE, proxy.port, shown, password)
        failed = failure(address, site.target())

    assert failed.is_refusal
    assert "credentials" in failed.reason


@pytest.mark.parametrize("status", [401, 407])
def test_credentials_refused_with_a_body(status: int, site: Site) -> None:
    """The page that comes with it is not waited for."""
    page = f"HTTP/1.0 {status} No\r\nContent-Length: 100000\r\n\r\n<html>".encode()
    with site.proxy(ProxyType.HTTP, replying(page, Ending.STALL)) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.is_refusal
    assert str(status) in failed.reason


def test_credentials_are_not_shown_to_who_does_not_ask(site: Site) -> None:
    """A SOCKS5 proxy that lets everybody in is not told the password, nor used: requests fail."""
    with site.proxy(ProxyType.SOCKS5, part=replying(b"\x05\x00", at=Point.METHOD)) as proxy:
        where = proxy.address()
        address = ProxyAddress(where.type, where.host, where.port, "u", "secret")
        failed = failure(address, site.target())

    assert failed.reason == "the proxy: takes no credentials"
    assert b"secret" not in proxy.heard


def test_credentials_go_over_tls_only_to_an_https_proxy(site: Site) -> None:
    """Who listens on the way to it reads nothing."""
    with (
        site.proxy(ProxyType.HTTPS, login=LOGIN) as proxy,
        ScriptedProxy(ProxyType.HTTP, part=replying(b"", Ending.STALL)) as listener,
    ):
        failure(ProxyAddress(ProxyType.HTTPS, HERE, listener.port, *LOGIN), site.target(), QUICK_S)
        reach(proxy.address(), site.target())

    login = base64.b64encode(":".join(LOGIN).encode())
    assert login in proxy.heard
    assert login not in listener.heard


# -- CONNECT, malformed ----------------------------------------------------------------------------
@pytest.mark.parametrize("speaks", [ProxyType.HTTP, ProxyType.HTTPS])
@pytest.mark.parametrize("status", [300, 302, 400, 403, 404, 405, 429, 500, 502, 503, 504, 599])
def test_connect_is_answered_with_an_error(status: int, speaks: ProxyType, site: Site) -> None:
    """P03: it is told as the proxy's, with its status."""
    said = f"HTTP/1.1 {status} Said\r\nContent-Length: 3\r\n\r\nno!".encode()
    with site.proxy(speaks, replying(said, Ending.CLOSE)) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.reason == f"the proxy: answered CONNECT with {status}"
    assert not failed.is_refusal


OK = b"HTTP/1.1 200 OK\r\n\r\n"
HTTP_NONSENSE = {
    "nothing": b"",
    "half a status line": b"HTTP/1.",
    "half a head": b"HTTP/1.1 200 OK\r\nVia: x",
    "garbage": b"\x00\x01\xff garbage \r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SOCKS": b"\x05\x00",
    "a status without figures": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status too long": b"HTTP/1.1 2000 OK\r\n\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
    "a broken header": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "garbage behind the answer": OK + b"garbage\r\n",
    "TLS behind the answer": OK + b"\x15\x03\x01\x00\x02\x02\x28",
    "only an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.STALL])
@pytest.mark.parametrize("nonsense", HTTP_NONSENSE.values(), ids=HTTP_NONSENSE.keys())
def test_connect_is_answered_with_nonsense(nonsense: bytes, ending: Ending, site: Site) -> None:
    """P04: garbage, an end or silence is a failure of the proxy, in time."""
    with site.proxy(ProxyType.HTTP, replying(nonsense, ending)) as proxy:
        failed = failure(proxy.address(), site.target(), QUICK_S)

    assert not failed.is_refusal
    assert "the proxy" in failed.reason


ENDLESS = {
    "a line": (b"", b"x"),
    "empty lines": (b"", b"\r\n"),
    "zeros": (b"", b"\x00"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX-Header: ", b"y"),
}


@pytest.mark.parametrize(("opening", "filler"), ENDLESS.values(), ids=ENDLESS.keys())
def test_an_answer_without_an_end(opening: bytes, filler: bytes, site: Site) -> None:
    """P04: reading is bounded by size as well, so that it ends long before the time does."""
    part = Part(says={Point.REPLY: opening}, ends=(Point.REPLY, Ending.ENDLESS), filler=filler)
    begun = time.monotonic()
    with site.proxy(ProxyType.HTTP, part) as proxy:
        failure(proxy.address(), site.target())

    assert time.monotonic() - begun < PATIENT_S / 2


def test_a_body_without_an_end(site: Site) -> None:
    """P04: what follows a refusal is not read."""
    part = Part(
        says={Point.REPLY: b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"},
        ends=(Point.REPLY, Ending.ENDLESS),
        filler=b"5\r\nhello\r\n",
    )
    with site.proxy(ProxyType.HTTP, part) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.reason == "the proxy: answered CONNECT with 503"


def test_an_interim_answer_is_passed_over(site: Site) -> None:
    """100 and the like come before the answer."""
    part = replying(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    with site.proxy(ProxyType.HTTP, part) as proxy:
        assert reach(proxy.address(), site.target()) > 0


# -- SOCKS5, malformed -----------------------------------------------------------------------------
@pytest.mark.parametrize("code", range(1, 256))
def test_every_reply_of_socks(code: int, site: Site) -> None:
    """P06: each code but 0 is a failure, told in words or by its figure."""
    part = replying(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]), Ending.CLOSE)
    with site.proxy(ProxyType.SOCKS5, part) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.reason.startswith("the proxy: ")
    assert code <= 8 or str(code) in failed.reason
    assert not failed.is_refusal


SOCKS_REPLY = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
SOCKS_NONSENSE = [
    *(pytest.param(Point.METHOD, said, id=f"method {said!r}") for said in (b"", b"\x05")),
    *(
        pytest.param(Point.METHOD, said, id=f"method {said!r}")
        for said in (b"\x04\x00", b"\x00\x5a", b"\x05\x01", b"\x05\x80", b"HTTP/1.1 400 No\r\n\r\n")
    ),
    *(pytest.param(Point.LOGIN, said, id=f"login {said!r}") for said in (b"", b"\x01")),
    *(
        pytest.param(Point.REPLY, SOCKS_REPLY[:size], id=f"reply of {size} bytes")
        for size in range(len(SOCKS_REPLY))
    ),
    *(
        pytest.param(Point.REPLY, said, id=f"reply {said!r}")
        for said in (
            b"\x04\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\x05\x00\x00\x02\x00\x00\x00\x00\x00\x00",
            b"\x05\x00\x00\x03\xff" + b"x" * 10,
            b"\x05\x00\x00\x04" + b"\x00" * 15,
            SOCKS_REPLY + b"garbage, not TLS",
        )
    ),
]


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.STALL])
@pytest.mark.parametrize(("point", "said"), SOCKS_NONSENSE)
def test_socks_is_answered_with_nonsense(
    point: Point, said: bytes, ending: Ending, site: Site
) -> None:
    """P06: truncated replies, wrong versions and unknown methods fail in time."""
    part = replying(said, ending, point)
    with site.proxy(ProxyType.SOCKS5, part, login=("someone", "secret")) as proxy:
        failed = failure(proxy.address(), site.target(), QUICK_S)

    assert not failed.is_refusal
    assert "the proxy" in failed.reason


@pytest.mark.parametrize(
    "bound",
    [b"\x03\x00\x00\x00", b"\x03\x04host\x00\x50", b"\x04" + b"\x00" * 18],
    ids=["an empty name", "a name", "IPv6"],
)
def test_socks_may_name_its_address_in_any_form(bound: bytes, site: Site) -> None:
    """P06: nobody needs it, but it has to be read to its end."""
    with site.proxy(ProxyType.SOCKS5, replying(b"\x05\x00\x00" + bound)) as proxy:
        assert reach(proxy.address(), site.target()) > 0


def test_a_login_that_was_not_asked_for(site: Site) -> None:
    """P02: a proxy that wants a login from who has none is misconfigured here."""
    with site.proxy(ProxyType.SOCKS5, replying(b"\x05\x02", Ending.STALL, Point.METHOD)) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.reason == "the proxy: asks for credentials"


# -- TLS -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("speaks", ALL_TYPES)
def test_a_proxy_that_opens_tls(speaks: ProxyType, tmp_path: Path, site: Site) -> None:
    """P05: a certificate of somebody else's authority is not accepted, and nothing is sent."""
    tls = Authority(tmp_path, "theirs").server(HERE, NAME)
    with SandboxThread(Sandbox(tls=tls)) as false_one, site.proxy(speaks) as proxy:
        proxy.names[NAME] = (HERE, int(false_one.url().rpartition(":")[2]))
        failed = failure(proxy.address(), site.target(NAME))

        assert failed.reason.startswith("the provider through the proxy: certificate not trusted")
        assert false_one.seen == []


def test_a_certificate_for_another_name(site: Site) -> None:
    """P05: that it is trusted is not enough."""
    with site.proxy(ProxyType.SOCKS5) as proxy:
        proxy.names["other.test.invalid"] = (HERE, site.port)
        failed = failure(proxy.address(), site.target("other.test.invalid"))

    assert "certificate not trusted" in failed.reason


def test_a_proxy_whose_own_certificate_is_not_trusted(tmp_path: Path, site: Site) -> None:
    """It is shown neither credentials nor the name of the provider."""
    tls = Authority(tmp_path, "theirs").server(HERE)
    with ScriptedProxy(ProxyType.HTTPS, tls=tls, login=LOGIN) as proxy:
        failed = failure(proxy.address(), site.target(NAME))

    assert failed.reason.startswith("the proxy: certificate not trusted")
    assert not proxy.heard


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.STALL, Ending.ENDLESS])
@pytest.mark.parametrize("said", [b"", OK, b"\x16\x03\x01\x02"], ids=["nothing", "HTTP", "a bit"])
def test_an_https_proxy_that_does_not_speak_tls(said: bytes, ending: Ending, site: Site) -> None:
    """P04: nor is that waited for longer than it is worth."""
    part = replying(said, ending, Point.ACCEPT)
    with site.proxy(ProxyType.HTTPS, part) as proxy:
        failed = failure(proxy.address(), site.target(), QUICK_S)

    assert failed.reason.startswith("the proxy: ")
    assert not failed.is_refusal


@pytest.mark.parametrize("speaks", ALL_TYPES)
@pytest.mark.parametrize("after", [0, 1, 100, 500])
def test_the_way_ends_in_the_middle_of_the_handshake(
    after: int, speaks: ProxyType, site: Site
) -> None:
    """P04: an end there is told, too."""
    with site.proxy(speaks, Part(cut_after=after)) as proxy:
        failed = failure(proxy.address(), site.target())

    assert failed.reason.startswith("the provider through the proxy: ")


@pytest.mark.parametrize("speaks", ALL_TYPES)
def test_silence_after_the_way_is_open(speaks: ProxyType, site: Site) -> None:
    """P04: the time covers the handshake with the provider."""
    said = SOCKS_REPLY if speaks is ProxyType.SOCKS5 else OK
    with site.proxy(speaks, replying(said, Ending.STALL)) as proxy:
        failed = failure(proxy.address(), site.target(), QUICK_S)

    assert failed.reason == "the provider through the proxy: timed out"


# -- anything --------------------------------------------------------------------------------------
def _mostly_right(right: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, some of them behind a right beginning."""
    return st.builds(
        lambda size, rest: right[:size] + rest, st.integers(0, len(right)), st.binary(max_size=300)
    )


@pytest.fixture(scope="module", params=PLAIN_TYPES)
def fuzzed(request: pytest.FixtureRequest, site: Site) -> Iterator[ScriptedProxy]:
    """A proxy whose part is changed all the time."""
    with site.proxy(request.param) as proxy:
        yield proxy


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_random_bytes(fuzzed: ScriptedProxy, site: Site, data: st.DataObject) -> None:
    """P06: whatever a proxy answers, it is a failure of the tunnel in time, and nothing else."""
    is_socks = fuzzed.speaks is ProxyType.SOCKS5
    point = data.draw(st.sampled_from([Point.METHOD, Point.REPLY] if is_socks else [Point.REPLY]))
    right = (b"\x05\x00" if point is Point.METHOD else SOCKS_REPLY) if is_socks else OK
    ending = data.draw(st.sampled_from([Ending.CLOSE, Ending.RESET]))
    fuzzed.part = replying(data.draw(_mostly_right(right)), ending, point)

    failure(fuzzed.address(), site.target(), PATIENT_S)
