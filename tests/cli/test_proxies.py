"""`keymux proxies`: add, list, and what an operator may do to egress proxies."""

import pexpect
import pytest
from msgspec.structs import replace

from keymux.cli.moments import now_ms
from keymux.core.egress import ExitState, Observation, ProxyAddress, ProxyStatus, ProxyType
from keymux.core.health import Status
from tests.cli.program import ACTOR, CONFIG, Ended, Program, binding, id_of, key, proxy

ONE, TWO, THREE = "sk-one-012345wxyz", "sk-two-012345abcd", "sk-three-0123efgh"
SECRET = "p@ss:/w%r d\u00e9"
ENCODED = "p%40ss%3A%2Fw%25r%20d%C3%A9"


def find_out(keymux: Program, name: str, *, alpha: ExitState, error: str = "") -> None:
    """Something was found out about a proxy, as a check would store it."""
    seen = Observation(now_ms(), {"alpha": alpha}, latency_ms=None if error else 42, error=error)
    keymux.store(lambda store: store.proxies.observe(f"proxy_{name}", seen, ACTOR))


def assert_silent(keymux: Program, done: Ended, *secrets: str) -> None:
    """Neither what a command printed nor the audit nor the database file has a secret in it."""
    printed = done.out + done.err + keymux.good("audit", "--json").out
    stored = b"".join(path.read_bytes() for path in keymux.folder.glob("keymux.db*"))

    for secret in secrets:
        assert secret not in printed
        assert secret.encode() not in stored


# -- add -------------------------------------------------------------------------------------------
def test_a_proxy_is_added(keymux: Program) -> None:
    """With its address; nothing is known of it yet."""
    done = keymux.good("proxies", "add", "fra-1", "socks5h://Proxy.Example")

    assert "fra-1: added, socks5://proxy.example:1080\n" in done.out
    found = keymux.proxies()["fra-1"]
    assert found.address == ProxyAddress(ProxyType.SOCKS5, "proxy.example", 1080)
    assert (found.is_active, found.status) == (True, ProxyStatus.UNKNOWN)


def test_a_password_is_read_from_standard_input(keymux: Program) -> None:
    """As it stands there but for the end of the line; it is printed nowhere and stored sealed."""
    url = "http://us%40er@proxy.example:3128"
    done = keymux.run("proxies", "add", "fra-1", url, "--password-stdin", given=f"{SECRET}\n")

    assert done.code == 0
    assert keymux.proxies()["fra-1"].address == ProxyAddress(
        ProxyType.HTTP, "proxy.example", 3128, "us@er", SECRET
    )
    assert_silent(keymux, done, SECRET)


def test_a_password_is_asked_for(keymux: Program) -> None:
    """At a hidden prompt, when the URL has a user and no password."""
    process = keymux.terminal("proxies", "add", "fra-1", "socks5://user@proxy.example")
    process.expect("password of fra-1")
    process.sendline("s3cr3t")
    process.expect(pexpect.EOF)
    printed = str(process.before)

    assert "s3cr3t" not in printed
    assert "fra-1: added, socks5://***@proxy.example:1080" in printed
    assert keymux.proxies()["fra-1"].address.password == "s3cr3t"


def test_nobody_is_asked_where_nobody_is(keymux: Program) -> None:
    """A script is told how to hand the password over."""
    done = keymux.run("proxies", "add", "fra-1", "socks5://user@proxy.example")

    assert done.code == 2
    assert "--password-stdin" in done.err


def test_a_password_in_the_url_is_taken_with_a_word_of_warning(keymux: Program) -> None:
    """It works, and the operator is told what is wrong with it; the password is not repeated."""
    done = keymux.good("proxies", "add", "fra-1", f"https://user:{ENCODED}@proxy.example")

    assert "history of the shell" in done.err
    assert keymux.proxies()["fra-1"].address.password == SECRET
    assert_silent(keymux, done, SECRET, ENCODED)


@pytest.mark.parametrize(
    ("name", "url", "why"),
    [
        ("fra-1", "ftp://u:s3cr3t@h:1", "unknown scheme; there are http, https, socks5"),
        ("fra-1", "h:1:u:s3cr3t", "has no scheme"),
        ("fra-1", "http://u:s3cr3t@h", "has no port"),
        ("fra-1", "http://u:s3cr3t@h:70000", "no number from 1 to 65535"),
        ("fra-1", "http://u:s3cr3t@h:1/x?y", "path, query or fragment"),
        ("fra-1", "http://u:s3cr3t @h:1", "holds a space"),
        ("fra-1", "http://u:s3cr3t@h\u00e9:1", "xn-- form"),
        ("fra-1", "http://a%3Ab:s3cr3t@h:1", "a user with a colon"),
        ("fra-1", f"socks5://u:s3cr3t{'x' * 250}@h:1", "more than 255 bytes"),
        ("fra-1", "http://:s3cr3t@h:1", "a password and no user"),
        ("direct", "http://u:s3cr3t@h:1", "has the name direct"),
        ("http://u:s3cr3t@h:1", "http://h:1", "has a name that is none"),
    ],
)
def test_a_bad_proxy_is_refused(keymux: Program, name: str, url: str, why: str) -> None:
    """With the reason, without the credentials, and nothing is made."""
    done = keymux.run("proxies", "add", name, url)

    assert (done.code, done.out) == (2, "")
    assert why in done.err
    assert "s3cr3t" not in done.err
    assert not (keymux.folder / "keymux.db").exists()


@pytest.mark.parametrize(
    ("arguments", "given", "why"),
    [
        (("http://u:s3cr3t@h:1", "--password-stdin"), "other", "has a password already"),
        (("http://h:1", "--password-stdin"), "s3cr3t", "a password needs a user"),
        (("http://u@h:1", "--password-stdin"), b"s3cr3t\xff", "not UTF-8"),
        (("http://u@h:1", "--password-stdin"), "s3cr3t\nmore", "not seen"),
        (("http://u@h:1", "s3cr3t"), "", "--password-stdin"),
    ],
)
def test_a_bad_password_is_refused(
    keymux: Program, arguments: tuple[str, ...], given: str | bytes, why: str
) -> None:
    """It is not repeated, wherever it came from."""
    done = keymux.run("proxies", "add", "fra-1", *arguments, given=given)

    assert done.code in {1, 2}
    assert why in done.err
    assert "s3cr3t" not in done.err
    assert not (keymux.folder / "keymux.db").exists()


@pytest.mark.parametrize(
    ("name", "url", "why"),
    [
        ("fra-1", "http://h:2", "fra-1 is the name of http://h:1 already"),
        ("fra-2", "http://H:1", "known already as fra-1"),
    ],
)
def test_names_and_addresses_are_unique(keymux: Program, name: str, url: str, why: str) -> None:
    """A second one is refused, and the first stays as it is."""
    keymux.good("proxies", "add", "fra-1", "http://h:1")

    done = keymux.run("proxies", "add", name, url)

    assert done.code == 1
    assert why in done.err
    assert list(keymux.proxies()) == ["fra-1"]


def test_programs_read_what_was_added(keymux: Program) -> None:
    """--json has the id, and no credentials."""
    found = keymux.good("proxies", "add", "fra-1", "http://u:s3cr3t@h:1", "--json").json

    assert found == {
        "id": keymux.proxies()["fra-1"].id,
        "name": "fra-1",
        "address": "http://***@h:1",
    }


# -- list ------------------------------------------------------------------------------------------
def fill(keymux: Program) -> None:
    """Three proxies: one well and bound twice, one down, one disabled."""
    keymux.add_keys(key(ONE), key(TWO), key(THREE))
    keymux.add_keys(key(ONE), provider="beta")
    keymux.add_proxies(*(proxy(name) for name in ("fra-1", "fra-2", "fra-3")))
    keymux.bind(binding(ONE, "fra-1"), binding(TWO, "fra-1"), binding(TWO, "fra-2", 2))
    keymux.bind(binding(ONE, "fra-2"), provider="beta")
    find_out(keymux, "fra-1", alpha=ExitState())
    down = ExitState(Status.ERROR, now_ms() + 9_000, "the proxy: timed out", 1, 1)
    find_out(keymux, "fra-2", alpha=down, error="the proxy: timed out")
    keymux.good("proxies", "disable", "fra-3")


def test_a_list_says_how_proxies_are(keymux: Program) -> None:
    """Type, address without credentials, status, reason, latency, last check, bindings."""
    fill(keymux)

    rows = {row["name"]: row for row in keymux.good("proxies", "list").rows}

    assert rows["fra-1"].pop("checkedAt").endswith("Z")
    assert rows["fra-1"] == {
        "name": "fra-1",
        "isActive": "yes",
        "type": "http",
        "address": proxy("fra-1").address.shown,
        "status": "healthy",
        "reason": "",
        "latencyMs": "42",
        "bindings": "alpha 2",
    }
    assert rows["fra-2"]["status"] == "unhealthy"
    assert rows["fra-2"]["reason"] == "the proxy: timed out"
    assert rows["fra-2"]["bindings"] == "alpha 1, beta 1"
    assert (rows["fra-3"]["isActive"], rows["fra-3"]["status"]) == ("", "unknown")


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """Typed, and without credentials."""
    fill(keymux)

    done = keymux.good("proxies", "list", "--json")

    assert [row["bindings"] for row in done.json] == [{"alpha": 2}, {"alpha": 1, "beta": 1}, {}]
    assert [row["isActive"] for row in done.json] == [True, True, False]
    assert "s3cr3t" not in done.out
    assert "user" not in done.out


def test_a_list_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns, with a time for people, and what is disabled says so."""
    fill(keymux)

    lines = keymux.screen("proxies", "list")

    assert max(map(len, lines)) <= 80
    assert any("fra-1" in line and "healthy" in line and "s ago" in line for line in lines)
    assert any(line.startswith("disabled") for line in lines)


def test_that_there_are_none_is_said(keymux: Program) -> None:
    """On a terminal."""
    keymux.good("init-db")

    assert keymux.screen("proxies", "list") == ["there are no egress proxies"]


def test_reasons_that_differ_name_their_provider(keymux: Program) -> None:
    """A proxy may lead to one provider and not to another."""
    keymux.add_proxies(proxy("fra-1"))
    blocked = ExitState(Status.QUARANTINED, None, "403 region", 1, 1)
    seen = Observation(now_ms(), {"alpha": blocked, "beta": ExitState()})
    keymux.store(lambda store: store.proxies.observe("proxy_fra-1", seen, ACTOR))

    (row,) = keymux.good("proxies", "list").rows

    assert (row["status"], row["reason"]) == ("blocked", "alpha: 403 region")


# -- enable, disable -------------------------------------------------------------------------------
def test_a_proxy_is_disabled_and_enabled(keymux: Program) -> None:
    """By name or id, as often as one likes."""
    keymux.add_proxies(proxy("fra-1"), proxy("fra-2"))

    done = keymux.good("proxies", "disable", "fra-1", "proxy_fra-2", "fra-1")

    assert done.out == "fra-1: disabled\nfra-2: disabled\n"
    assert not any(one.is_active for one in keymux.proxies().values())

    again = keymux.good("proxies", "enable", "fra-1", "--json")

    assert again.json == [{"name": "fra-1", "done": "enabled"}]
    assert keymux.proxies()["fra-1"].is_active


def test_a_password_is_changed(keymux: Program) -> None:
    """From standard input, and never shown; a proxy without a user takes none."""
    keymux.good(
        "proxies", "add", "fra-1", "socks5://me@127.0.0.1:1080", "--password-stdin", given="old"
    )
    keymux.good("proxies", "add", "fra-2", "socks5://127.0.0.1:1081")

    done = keymux.good(
        "proxies", "set-password", "fra-1", "--password-stdin", given="n\u00e4w-secret"
    )
    refused = keymux.run("proxies", "set-password", "fra-2", "--password-stdin", given="x")

    assert done.out == "fra-1: password changed\n"
    assert keymux.proxies()["fra-1"].address.password == "n\u00e4w-secret"
    assert (refused.code, "has no user" in refused.err) == (1, True)


def test_who_is_enabled_is_trusted_again(keymux: Program) -> None:
    """Whatever was found out about it."""
    fill(keymux)

    keymux.good("proxies", "enable", "fra-2")

    row = keymux.good("proxies", "list").rows[1]

    assert keymux.proxies()["fra-2"].status is ProxyStatus.HEALTHY
    assert (row["status"], row["reason"]) == ("healthy", "")


def test_keys_that_cannot_leave_any_more_are_counted(keymux: Program) -> None:
    """The first key has no other way; the second could use its second, which is down."""
    fill(keymux)

    done = keymux.good("proxies", "disable", "fra-1")

    assert "without another egress proxy that can be used: 2 keys of alpha" in done.err


@pytest.mark.parametrize("command", ["enable", "disable", "remove", "test"])
def test_a_name_that_nobody_has_says_where_to_look(keymux: Program, command: str) -> None:
    """Nothing is changed, and what is no name is not repeated."""
    keymux.add_proxies(proxy("fra-1"))

    done = keymux.run("proxies", command, "fra-1", "fra-9", "http://u:s3cr3t@h:1")

    assert done.code == 1
    assert "no egress proxy is called 'fra-9'" in done.err
    assert "`keymux proxies list` shows them" in done.err
    assert "s3cr3t" not in done.err
    assert keymux.proxies()["fra-1"].is_active


# -- remove ----------------------------------------------------------------------------------------
def test_a_proxy_is_removed(keymux: Program) -> None:
    """After a yes, for good."""
    keymux.add_proxies(proxy("fra-1"), proxy("fra-2"))

    done = keymux.good("proxies", "remove", "fra-1", "--yes")

    assert done.out == "fra-1: removed\n"
    assert list(keymux.proxies()) == ["fra-2"]


def test_a_proxy_that_keys_must_use_stays(keymux: Program) -> None:
    """How many keys of which provider is said."""
    fill(keymux)

    done = keymux.run("proxies", "remove", "fra-1", "fra-2", "--yes")

    assert done.code == 1
    assert "fra-1 is what 2 keys of alpha must use" in done.err
    assert "fra-2 is what 1 key of alpha, 1 key of beta must use" in done.err
    assert len(keymux.proxies()) == 3


def test_bindings_go_along_when_that_is_wished(keymux: Program) -> None:
    """What becomes of the keys is said; those with another binding keep it."""
    fill(keymux)

    done = keymux.good("proxies", "remove", "fra-1", "--with-bindings", "--yes")

    assert "1 key of alpha would have no binding left and leave this host directly" in done.err
    assert keymux.bound() == {(id_of(TWO), "fra-2", 2)}
    assert sorted(keymux.proxies()) == ["fra-2", "fra-3"]


def test_that_keys_would_not_be_used_any_more_is_said(keymux: Program) -> None:
    """Where the egress of a provider is required."""
    fill(keymux)
    alpha = {"kind": "openhands", "egress": "required"}
    keymux.configure({**CONFIG, "providers": {**CONFIG["providers"], "alpha": alpha}})

    done = keymux.good("proxies", "remove", "fra-1", "--with-bindings", "--yes")

    assert "no binding left and not be used: its egress is required" in done.err


@pytest.mark.parametrize(("answer", "left"), [("y", 2), ("n", 3)])
def test_a_person_is_asked(keymux: Program, answer: str, left: int) -> None:
    """With the consequences before the question; anything but yes changes nothing."""
    fill(keymux)

    process = keymux.terminal("proxies", "remove", "fra-1", "--with-bindings")
    process.expect("leave this host directly")
    process.expect("Delete 1 for good")
    process.sendline(answer)
    process.expect(pexpect.EOF)

    assert len(keymux.proxies()) == left


def test_scripts_have_to_say_yes(keymux: Program) -> None:
    """Where nobody can be asked, --yes is needed."""
    keymux.add_proxies(proxy("fra-1"))

    done = keymux.run("proxies", "remove", "fra-1")

    assert done.code == 2
    assert "add --yes" in done.err
    assert list(keymux.proxies()) == ["fra-1"]


def test_changes_are_in_the_audit(keymux: Program) -> None:
    """Each names the operator."""
    keymux.good("proxies", "add", "fra-1", "http://h:1")
    for command in (["disable"], ["enable"], ["remove", "--yes"]):
        keymux.good("proxies", *command, "fra-1")

    rows = keymux.good("audit").rows

    assert [row["action"] for row in rows] == [
        "proxy.remove",
        "proxy.enable",
        "proxy.disable",
        "proxy.add",
    ]
    assert all(row["actor"].startswith("cli:") for row in rows)


def test_no_list_has_credentials(keymux: Program) -> None:
    """Whatever characters they are made of."""
    keymux.good("init-db")
    address = replace(proxy("fra-1").address, username="some:\u00fcser", password=SECRET)
    keymux.add_proxies(proxy("fra-1", address=address))

    for arguments in (["list"], ["list", "--json"], ["disable", "fra-1"], ["enable", "fra-1"]):
        done = keymux.good("proxies", *arguments)
        assert_silent(keymux, done, SECRET)
        assert "some:" not in done.out
