"""`keymux proxies test`: real proxies, a real upstream with TLS, and what is stored of it."""

import time
from collections.abc import Iterator

import pytest
from msgspec import Struct

from keymux.core.egress import ExitState, Observation, ProxyStatus, ProxyType
from keymux.core.health import Status
from keymux.sandbox import Sandbox
from keymux.sandbox.apart import SandboxThread
from tests.cli.program import ACTOR, CONFIG, Program, binding, key, proxy
from tests.egress.certificates import Authority
from tests.egress.programs import HERE, lasting_port
from tests.egress.scripted import GOOD, Ending, Part, Point, ScriptedProxy, replying

ONE = "sk-one-012345wxyz"
LOGIN = ("a user", "p:@/%ss \u00fc")


class Site(Struct, frozen=True):
    """Two providers with TLS, and a program that is configured for them.

    Attributes:
        keymux: the program.
        port: of both providers.
    """

    keymux: Program
    port: int

    def add(self, name: str, part: Part = GOOD, **how: object) -> ScriptedProxy:
        """Put a scripted proxy into the store."""
        found = ScriptedProxy(ProxyType.HTTP, part=part, login=LOGIN)
        self.keymux.add_proxies(proxy(name, address=found.address(), **how))
        return found


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SandboxThread, str]]:
    """An upstream with TLS, and the file of its authority."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with SandboxThread(Sandbox(tls=authority.server(HERE))) as sandbox:
        yield sandbox, str(authority.ca_file)


@pytest.fixture
def site(keymux: Program, upstream: tuple[SandboxThread, str]) -> Site:
    """The program with the upstream as two providers, and one that speaks plain HTTP."""
    sandbox, ca_file = upstream
    port = int(sandbox.url().rpartition(":")[2])
    secure = {"kind": "openhands", "base_url": f"https://{HERE}:{port}", "ca_file": ca_file}
    plain = {"kind": "openhands", "base_url": f"http://{HERE}:{port}"}
    providers = {"alpha": secure, "beta": secure, "plain": plain}
    keymux.configure({**CONFIG, "providers": providers})
    return Site(keymux, port)


def exits(keymux: Program, name: str) -> dict[str, tuple[Status, int]]:
    """What is stored of a proxy, by provider: status and generation."""
    found = keymux.proxies()[name].exits
    return {provider: (state.status, state.generation) for provider, state in found.items()}


def test_a_proxy_that_leads_there_is_healthy(site: Site) -> None:
    """A line for each provider with TLS; latency and time are stored, and no key was sent."""
    with site.add("fra-1") as found:
        rows = site.keymux.good("proxies", "test", "fra-1").rows
    stored = site.keymux.proxies()["fra-1"]

    assert [(row["provider"], row["status"], row["finding"]) for row in rows] == [
        ("alpha", "healthy", ""),
        ("beta", "healthy", ""),
    ]
    assert all(int(row["latencyMs"]) >= 0 for row in rows)
    assert [wish.port for wish in found.wishes] == [site.port]  # one target for both
    assert stored.status is ProxyStatus.HEALTHY
    assert stored.last_latency_ms is not None
    assert stored.last_checked_at is not None


def test_a_proxy_is_tested_for_those_it_is_bound_for(site: Site) -> None:
    """Unless a provider is named."""
    with site.add("fra-1"):
        site.keymux.add_keys(key(ONE), provider="beta")
        site.keymux.bind(binding(ONE, "fra-1"), provider="beta")
        bound = site.keymux.good("proxies", "test", "fra-1").rows
        named = site.keymux.good("proxies", "test", "--all", "--provider", "alpha").rows

    assert [row["provider"] for row in bound] == ["beta"]
    assert [row["provider"] for row in named] == ["alpha"]


def test_another_target_may_be_configured(site: Site) -> None:
    """It is reached in place of the providers."""
    raw = {"providers": {"alpha": {"kind": "openhands", "base_url": "https://nowhere.invalid"}}}
    target = {"egress": {"check_target": f"{HERE}:1"}}
    route = [{"provider": "alpha", "model": "m"}]
    site.keymux.configure(
        {"store": CONFIG["store"], **raw, **target, "models": [{"id": "m", "route": route}]}
    )
    with site.add("fra-1") as found:
        done = site.keymux.run("proxies", "test", "fra-1")

    assert done.code == 1
    assert [(wish.host, wish.port) for wish in found.wishes] == [(HERE, 1)]


@pytest.mark.parametrize(
    ("part", "words", "status", "advice"),
    [
        pytest.param(
            replying(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n"),
            "refused the credentials (407)",
            "misconfigured",
            "the user or the password is wrong",
            id="refused credentials",
        ),
        pytest.param(
            replying(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", Ending.CLOSE),
            "answered CONNECT with 403",
            "unhealthy",
            "does it allow this host and port",
            id="a provider that is not allowed",
        ),
        pytest.param(
            replying(b"x" * 50 + b"\r\n\r\n", Ending.CLOSE),
            "not HTTP",
            "unhealthy",
            "is the proxy running",
            id="something that is no proxy",
        ),
        pytest.param(
            Part(ends=(Point.ACCEPT, Ending.STALL)),
            "timed out",
            "unhealthy",
            "is the proxy running",
            id="silence",
        ),
    ],
)
def test_what_is_wrong_is_said_and_stored(
    site: Site, part: Part, words: str, status: str, advice: str
) -> None:
    """With what to do about it, never with the credentials; it ends with 1."""
    with site.add("fra-1", part):
        done = site.keymux.run("proxies", "test", "fra-1", "--timeout", "2")
    stored = site.keymux.proxies()["fra-1"]

    assert done.code == 1
    assert [row["status"] for row in done.rows] == [status] * 2
    assert all(words in row["finding"] for row in done.rows)
    assert advice in done.err
    assert LOGIN[1] not in done.out + done.err
    assert stored.status == status
    assert words in stored.last_error
    assert exits(site.keymux, "fra-1") == dict.fromkeys(("alpha", "beta"), (Status.ERROR, 1))


def test_a_proxy_that_comes_back_is_healthy_again(site: Site) -> None:
    """Down, still down, well: each change of status is one generation and one line of audit."""
    with site.add("fra-1") as found:
        found.kill()
        site.keymux.run("proxies", "test", "fra-1", "--provider", "alpha")
        site.keymux.run("proxies", "test", "fra-1", "--provider", "alpha")
        found.restart()
        site.keymux.good("proxies", "test", "fra-1", "--provider", "alpha")
    rows = site.keymux.good("audit").rows

    assert exits(site.keymux, "fra-1") == {"alpha": (Status.HEALTHY, 2)}
    assert [(row["before"], row["after"]) for row in rows if "transition" in row["action"]] == [
        ("error", "healthy"),
        ("healthy", "error"),
    ]


def test_what_the_provider_refuses_a_test_does_not_settle(site: Site) -> None:
    """A handshake says nothing of a provider that refuses those who come this way."""
    blocked = ExitState(Status.QUARANTINED, None, "403 region", 1, 1)
    with site.add("fra-1"):
        seen = Observation(1, {"alpha": blocked})
        site.keymux.store(lambda store: store.proxies.observe("proxy_fra-1", seen, ACTOR))
        done = site.keymux.run("proxies", "test", "fra-1", "--provider", "alpha")

    assert done.code == 1
    assert [(row["status"], row["finding"]) for row in done.rows] == [("blocked", "403 region")]
    assert "`keymux proxies enable NAME`" in done.err
    assert exits(site.keymux, "fra-1") == {"alpha": (Status.QUARANTINED, 1)}


def test_who_is_disabled_is_tested_when_named(site: Site) -> None:
    """With --all it is left alone, and that is said."""
    with site.add("fra-1", is_active=False):
        every = site.keymux.good("proxies", "test", "--all")
        named = site.keymux.good("proxies", "test", "fra-1")

    assert every.rows == []
    assert "left alone: 1 that are disabled" in every.err
    assert [row["status"] for row in named.rows] == ["healthy"] * 2


def test_a_provider_in_plain_text_is_refused(site: Site) -> None:
    """Keys never travel through a proxy in plain text, so there is nothing to test."""
    site.keymux.add_proxies(proxy("fra-1"))

    done = site.keymux.run("proxies", "test", "fra-1", "--provider", "plain")

    assert done.code == 1
    assert "plain: an http base_url; keys never travel" in done.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "name egress proxies, or give --all"),
        (("fra-1", "--all"), "name egress proxies, or give --all"),
        (("fra-1", "--provider", "nobody"), "no provider is called 'nobody'"),
        (("fra-1", "--timeout", "0"), "--timeout"),
    ],
)
def test_a_wrong_command_line_is_explained(
    site: Site, arguments: tuple[str, ...], why: str
) -> None:
    """It ends with 2."""
    done = site.keymux.run("proxies", "test", *arguments)

    assert done.code == 2
    assert why in done.err


def test_many_are_tested_at_once(site: Site) -> None:
    """Forty that never answer take two rounds of thirty-two, not forty."""
    silent = ScriptedProxy(ProxyType.HTTP, part=Part(ends=(Point.ACCEPT, Ending.STALL)))
    with silent:
        address = silent.address()
        records = [
            proxy(
                f"p{number}", address=type(address)(ProxyType.HTTP, HERE, silent.port, f"u{number}")
            )
            for number in range(40)
        ]
        site.keymux.add_proxies(*records)
        begun = time.monotonic()
        done = site.keymux.run("proxies", "test", "--all", "--timeout", "2", "--json")
        took = time.monotonic() - begun

    assert [row["status"] for row in done.json] == ["unhealthy"] * 80
    assert 4.0 <= took < 20.0
    assert "and 20 more: is the proxy running" in done.err


def test_the_table_fits_a_terminal(site: Site) -> None:
    """On 80 columns, with an address that nobody listens on."""
    address = type(proxy("x").address)(ProxyType.SOCKS5, HERE, lasting_port(), "u", "s3cr3t")
    site.keymux.add_proxies(proxy("fra-1", address=address))

    lines = site.keymux.screen("proxies", "test", "fra-1", "--provider", "alpha")

    assert any("unhealthy" in line and "the proxy:" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if not line.startswith(("keymux:", "testing")))
