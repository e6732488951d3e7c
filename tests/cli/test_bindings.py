"""`keymux bindings`: which egress proxies keys must use."""

from typing import Any

import pexpect
import pytest

from keymux.cli.moments import now_ms
from keymux.core.egress import ExitState, Observation
from keymux.core.health import Status
from tests.cli.program import (
    ACTOR,
    CONFIG,
    Program,
    backup,
    binding,
    id_of,
    key,
    proxy,
)

ONE, TWO, THREE = "sk-one-012345wxyz", "sk-two-012345abcd", "sk-three-0123efgh"


def configure(keymux: Program, **alpha: Any) -> None:
    """Further settings of the first provider."""
    providers = {**CONFIG["providers"], "alpha": {"kind": "openhands", **alpha}}
    keymux.configure({**CONFIG, "providers": providers})


def fill(keymux: Program) -> None:
    """Three keys and three proxies; the first key has two bindings, the second one."""
    two, three = key(TWO, created_at=2), key(THREE, created_at=3)
    keymux.add_keys(key(ONE, label="team-a", created_at=1), two, three)
    keymux.add_proxies(*(proxy(name) for name in ("fra-1", "fra-2", "fra-3")))
    keymux.bind(binding(ONE, "fra-1"), binding(ONE, "fra-2", 2), binding(TWO, "fra-1"))


def take_down(keymux: Program, name: str, status: Status = Status.ERROR) -> None:
    """A check has found out that a provider cannot be reached through a proxy."""
    until = now_ms() + 9_000 if status is Status.ERROR else None
    state = ExitState(status, until, "the proxy: timed out", 1, 1)
    seen = Observation(now_ms(), {"alpha": state}, error=state.reason)
    keymux.store(lambda store: store.proxies.observe(f"proxy_{name}", seen, ACTOR))


# -- add -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(id_of(ONE), id="its id"),
        pytest.param(id_of(ONE)[:10], id="the beginning of it"),
        pytest.param("wxyz", id="the last four characters"),
        pytest.param("team-a", id="its label"),
    ],
)
def test_a_key_is_bound(keymux: Program, words: str) -> None:
    """By whichever of its names."""
    keymux.add_keys(key(ONE, label="team-a"), key(TWO))
    keymux.add_proxies(proxy("fra-1"))

    done = keymux.good("bindings", "add", "alpha", "--key", words, "--proxy", "fra-1")

    assert done.out == f"{id_of(ONE)} - fra-1: bound, priority 1\n"
    assert keymux.bound() == {(id_of(ONE), "fra-1", 1)}


def test_several_keys_are_bound_at_once(keymux: Program) -> None:
    """With a priority, to a proxy named by its id."""
    keymux.add_keys(key(ONE), key(TWO))
    keymux.add_proxies(proxy("fra-1"))

    done = keymux.good(
        *("bindings", "add", "alpha", "--key", "wxyz", "--key", "abcd", "--key", "wxyz"),
        *("--proxy", "proxy_fra-1", "--priority", "1000", "--json"),
    )

    assert done.json == [
        {"keyId": id_of(secret), "proxy": "fra-1", "done": "bound, priority 1000"}
        for secret in (ONE, TWO)
    ]
    assert keymux.bound() == {(id_of(ONE), "fra-1", 1000), (id_of(TWO), "fra-1", 1000)}


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        pytest.param(
            ("--key", "nope", "--proxy", "fra-3"), 1, "no key of alpha fits 'nope'", id="no key"
        ),
        pytest.param(
            ("--key", "efgh", "--proxy", "nope"),
            1,
            "no egress proxy is called 'nope'",
            id="no proxy",
        ),
        pytest.param(
            ("--key", "efgh", "--proxy", "http://u:s3cr3t@h:1"), 1, "which is no name", id="a URL"
        ),
        pytest.param(
            ("--key", "key_", "--proxy", "fra-3"), 1, "fits 3 keys of alpha", id="not one key"
        ),
        pytest.param(
            ("--key", "efgh", "--key", "wxyz", "--proxy", "fra-1"),
            1,
            f"{id_of(ONE)} is bound to fra-1 already",
            id="one of them is there",
        ),
        pytest.param(
            ("--key", "efgh", "--proxy", "fra-3", "--priority", "0"),
            2,
            "--priority",
            id="priority 0",
        ),
        pytest.param(
            ("--key", "efgh", "--proxy", "fra-3", "--priority", "1001"), 2, "1000", id="1001"
        ),
        pytest.param(
            ("--key", "efgh", "--proxy", "fra-3", "--priority", "x"),
            2,
            "--priority",
            id="no number",
        ),
        pytest.param(("--proxy", "fra-3"), 2, "--key", id="nothing to bind"),
        pytest.param(("--key", "efgh"), 2, "--proxy", id="nothing to bind to"),
    ],
)
def test_what_cannot_be_bound_is_refused(
    keymux: Program, arguments: tuple[str, ...], code: int, why: str
) -> None:
    """With the reason, and nothing is written."""
    fill(keymux)
    before = keymux.bindings()

    done = keymux.run("bindings", "add", "alpha", *arguments)

    assert done.code == code
    assert why in done.err
    assert "s3cr3t" not in done.err
    assert keymux.bindings() == before


@pytest.mark.parametrize("command", [["add", "--key", "wxyz", "--proxy", "fra-1"], ["auto"]])
def test_a_provider_in_plain_text_has_no_bindings(keymux: Program, command: list[str]) -> None:
    """Keys never travel through a proxy in plain text."""
    configure(keymux, base_url="http://127.0.0.1:9")
    keymux.add_keys(key(ONE))
    keymux.add_proxies(proxy("fra-1"))

    done = keymux.run("bindings", command[0], "alpha", *command[1:])

    assert done.code == 1
    assert "alpha has an http base_url" in done.err
    assert keymux.bindings() == []


def test_a_proxy_that_is_down_may_be_bound(keymux: Program) -> None:
    """It is said that the key cannot leave through it now."""
    keymux.add_keys(key(ONE))
    keymux.add_proxies(proxy("fra-1"))
    take_down(keymux, "fra-1")

    done = keymux.good("bindings", "add", "alpha", "--key", "wxyz", "--proxy", "fra-1")

    assert "fra-1 cannot be used now: the proxy: timed out" in done.err


# -- list ------------------------------------------------------------------------------------------
def test_a_list_says_who_must_use_what(keymux: Program) -> None:
    """A line each; unbound keys and unused proxies beside it."""
    fill(keymux)
    take_down(keymux, "fra-1")

    done = keymux.good("bindings", "list", "alpha")

    assert done.rows[0] == {
        "keyId": id_of(ONE),
        "label": "team-a",
        "key": "sk-...wxyz",
        "proxy": "fra-1",
        "priority": "1",
        "isActive": "yes",
        "proxyStatus": "unhealthy",
        "reason": "the proxy: timed out",
    }
    assert [(row["key"], row["proxy"]) for row in done.rows] == [
        ("sk-...wxyz", "fra-1"),
        ("sk-...wxyz", "fra-2"),
        ("sk-...abcd", "fra-1"),
    ]
    assert "1 key without a binding: used directly" in done.err
    assert "used by no key of alpha: fra-3" in done.err


def test_unbound_keys_are_not_used_where_egress_is_required(keymux: Program) -> None:
    """The list says so."""
    configure(keymux, egress="required")
    fill(keymux)

    assert (
        "not used, because the egress is required" in keymux.good("bindings", "list", "alpha").err
    )


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--key", "team-a"), [("sk-...wxyz", "fra-1"), ("sk-...wxyz", "fra-2")]),
        (("--proxy", "fra-1"), [("sk-...wxyz", "fra-1"), ("sk-...abcd", "fra-1")]),
        (("--key", "wxyz", "--proxy", "fra-2"), [("sk-...wxyz", "fra-2")]),
    ],
)
def test_a_list_may_be_limited(
    keymux: Program, option: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    """To a key, to a proxy."""
    fill(keymux)

    done = keymux.good("bindings", "list", "alpha", *option)

    assert [(row["key"], row["proxy"]) for row in done.rows] == expected
    assert done.err == ""


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """Typed, with ids, and without credentials."""
    fill(keymux)
    keymux.good("proxies", "disable", "fra-2")

    done = keymux.good("bindings", "list", "alpha", "--json")

    assert [(row["priority"], row["isActive"], row["proxyStatus"]) for row in done.json] == [
        (1, True, "unknown"),
        (2, True, "disabled"),
        (1, True, "unknown"),
    ]
    assert done.json[0]["proxyId"] == "proxy_fra-1"
    assert "s3cr3t" not in done.out


def test_a_list_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns."""
    fill(keymux)
    take_down(keymux, "fra-1")

    lines = keymux.screen("bindings", "list", "alpha")
    table = [line for line in lines if not line.startswith("keymux:")]

    assert max(map(len, table)) <= 80
    assert any(id_of(ONE) in line and "fra-1" in line for line in table)


def test_what_is_gone_is_called_gone(keymux: Program) -> None:
    """A binding without its key or its proxy is shown, not hidden."""
    keymux.add_proxies(proxy("fra-1"))
    keymux.bind(binding(ONE, "fra-1"), binding(ONE, "fra-9"))

    rows = keymux.good("bindings", "list", "alpha").rows

    assert [(row["key"], row["proxy"], row["proxyStatus"]) for row in rows] == [
        ("gone", "fra-1", "unknown"),
        ("gone", "proxy_fra-9", "gone"),
    ]


# -- changes ---------------------------------------------------------------------------------------
def test_a_priority_is_changed(keymux: Program) -> None:
    """From what to what is said."""
    fill(keymux)

    done = keymux.good("bindings", "set-priority", "alpha", "wxyz", "fra-1", "30")

    assert done.out == f"{id_of(ONE)} - fra-1: priority 1 -> 30\n"
    assert (id_of(ONE), "fra-1", 30) in keymux.bound()


@pytest.mark.parametrize("priority", ["0", "1001", "x"])
def test_a_priority_has_bounds(keymux: Program, priority: str) -> None:
    """From 1 to 1000."""
    fill(keymux)

    done = keymux.run("bindings", "set-priority", "alpha", "wxyz", "fra-1", priority)

    assert done.code == 2
    assert (id_of(ONE), "fra-1", 1) in keymux.bound()


@pytest.mark.parametrize(
    "command", [["set-priority", "9"], ["enable"], ["disable"], ["remove", "--yes"]]
)
def test_a_binding_that_is_not_there_is_named(keymux: Program, command: list[str]) -> None:
    """With the command that shows those that are."""
    fill(keymux)
    before = keymux.bindings()

    done = keymux.run("bindings", command[0], "alpha", "wxyz", "fra-3", *command[1:])

    assert done.code == 1
    assert f"{id_of(ONE)} is not bound to fra-3" in done.err
    assert keymux.bindings() == before


def test_a_binding_is_disabled_and_enabled(keymux: Program) -> None:
    """A key whose bindings are all disabled cannot leave: that is said."""
    fill(keymux)

    first = keymux.good("bindings", "disable", "alpha", "abcd", "fra-1")
    again = keymux.good("bindings", "disable", "alpha", "abcd", "fra-1")
    back = keymux.good("bindings", "enable", "alpha", "abcd", "fra-1", "--json")

    assert first.out == f"{id_of(TWO)} - fra-1: disabled\n"
    assert f"{id_of(TWO)} cannot leave now: fra-1: this binding is disabled" in first.err
    assert again.out == f"{id_of(TWO)} - fra-1: disabled already\n"
    assert back.json[0]["done"] == "enabled"
    assert all(one.is_active for one in keymux.bindings())


def test_one_binding_of_several_is_removed(keymux: Program) -> None:
    """Nobody is asked: the key keeps another."""
    fill(keymux)

    done = keymux.good("bindings", "remove", "alpha", "wxyz", "fra-1")

    assert done.out == f"{id_of(ONE)} - fra-1: removed\n"
    assert keymux.bound() == {(id_of(ONE), "fra-2", 2), (id_of(TWO), "fra-1", 1)}


@pytest.mark.parametrize("arguments", [("wxyz",), ("abcd", "fra-1")])
def test_the_last_binding_needs_a_yes(keymux: Program, arguments: tuple[str, ...]) -> None:
    """The key would leave directly."""
    fill(keymux)

    refused = keymux.run("bindings", "remove", "alpha", *arguments)
    left = len(keymux.bindings())
    keymux.good("bindings", "remove", "alpha", *arguments, "--yes")

    assert refused.code == 2
    assert left == 3
    assert len(keymux.bindings()) == (1 if arguments == ("wxyz",) else 2)


@pytest.mark.parametrize(
    ("egress", "words"),
    [("optional", "leave this host directly"), ("required", "its egress is required")],
)
def test_a_person_is_asked_before_the_last_binding_goes(
    keymux: Program, egress: str, words: str
) -> None:
    """With what becomes of the key then."""
    configure(keymux, egress=egress)
    fill(keymux)

    process = keymux.terminal("bindings", "remove", "alpha", "abcd")
    process.expect(words)
    process.expect("Remove its last binding")
    process.sendline("n")
    process.expect(pexpect.EOF)

    assert len(keymux.bindings()) == 3


def test_a_key_without_bindings_has_none_to_remove(keymux: Program) -> None:
    """That is an error: the operator meant something else."""
    fill(keymux)

    done = keymux.run("bindings", "remove", "alpha", "efgh", "--yes")

    assert done.code == 1
    assert "is bound to no egress proxy" in done.err


# -- repair ----------------------------------------------------------------------------------------
def test_bindings_are_repaired(keymux: Program) -> None:
    """Counts of what was checked, moved, deleted; what has no proxy is kept, with advice."""
    keymux.add_proxies(proxy("fra-1"))
    keymux.add_keys(key(ONE), key(TWO))
    keymux.add_backups(backup(THREE))
    keymux.store(lambda store: store.backups.promote("alpha", id_of(ONE), at=1, actor=ACTOR))
    keymux.good("keys", "remove", "alpha", id_of(ONE), "--yes")
    keymux.bind(binding(ONE, "fra-1"), binding("sk-nobody-0123", "fra-1"), binding(TWO, "fra-9"))

    done = keymux.good("bindings", "repair", "--all")
    again = keymux.good("bindings", "repair", "alpha", "--json")

    assert done.rows == [
        {"provider": "alpha", "checked": "3", "repaired": "1", "deleted": "1", "withoutProxy": "1"},
        {"provider": "beta", "checked": "0", "repaired": "0", "deleted": "0", "withoutProxy": "0"},
    ]
    assert "`keymux bindings remove alpha KEY PROXY_ID`" in done.err
    assert keymux.bound() == {(id_of(THREE), "fra-1", 1), (id_of(TWO), "proxy_fra-9", 1)}
    assert again.json[0] | {"provider": ""} == {
        "provider": "",
        "checked": 2,
        "repaired": 0,
        "deleted": 0,
        "withoutProxy": 1,
    }


def test_a_binding_without_its_proxy_is_removed_as_advised(keymux: Program) -> None:
    """The proxy is named by its id, which is all that is left of it."""
    keymux.add_keys(key(ONE))
    keymux.bind(binding(ONE, "fra-9"))

    keymux.good("bindings", "remove", "alpha", "wxyz", "proxy_fra-9", "--yes")

    assert keymux.bindings() == []


@pytest.mark.parametrize("arguments", [(), ("alpha", "--all"), ("nobody",)])
def test_repair_needs_to_know_of_whom(keymux: Program, arguments: tuple[str, ...]) -> None:
    """A provider of the config, or all."""
    keymux.good("init-db")

    assert keymux.run("bindings", "repair", *arguments).code == 2


def test_changes_are_in_the_audit(keymux: Program) -> None:
    """Each with the operator and the key."""
    fill(keymux)
    keymux.good("bindings", "set-priority", "alpha", "wxyz", "fra-1", "9")
    keymux.good("bindings", "disable", "alpha", "wxyz", "fra-1")
    keymux.good("bindings", "remove", "alpha", "wxyz", "fra-1")

    rows = keymux.good("audit", "--limit", "3").rows

    assert [row["action"] for row in rows] == [
        "binding.remove",
        "binding.disable",
        "binding.priority",
    ]
    assert all(row["actor"].startswith("cli:") and row["subject"] == id_of(ONE) for row in rows)


# -- where else they show --------------------------------------------------------------------------
def test_keys_show_their_egress(keymux: Program) -> None:
    """As soon as a key of the provider is bound."""
    keymux.add_keys(key(ONE), key(TWO))
    before = keymux.good("keys", "list", "alpha").rows
    keymux.add_proxies(proxy("fra-1"), proxy("fra-2"))
    keymux.bind(binding(ONE, "fra-1", 2), binding(ONE, "fra-2", 1))

    after = {row["id"]: row["egress"] for row in keymux.good("keys", "list", "alpha").rows}

    assert "egress" not in before[0]
    assert after == {id_of(ONE): "fra-2, fra-1", id_of(TWO): "direct"}


def test_keys_fit_a_terminal_with_their_egress(keymux: Program) -> None:
    """On 80 columns."""
    fill(keymux)

    lines = keymux.screen("keys", "list", "alpha")

    assert max(map(len, lines)) <= 80
    assert any(line.startswith(id_of(ONE)) and "fra-1" in line for line in lines)


def test_an_explanation_names_the_way_out(keymux: Program) -> None:
    """For the next key, and why a key that is well cannot leave."""
    fill(keymux)
    take_down(keymux, "fra-1")

    out = keymux.good("explain", "claude-sonnet-4-5").out

    assert f"next: {id_of(ONE)} sk-...wxyz team-a, via fra-2\n" in out
    assert f"held: {id_of(TWO)} sk-...abcd: healthy, cannot leave this host\n" in out
    assert "         fra-1: unhealthy, the proxy: timed out\n" in out


def test_an_explanation_for_programs_has_the_ways(keymux: Program) -> None:
    """The names of the proxies, or why there are none."""
    fill(keymux)
    take_down(keymux, "fra-1")

    found = keymux.good("explain", "claude-sonnet-4-5", "--json").json["targets"][0]
    by_id = {one["id"]: (one["egress"], one["egressReason"]) for one in found["keys"]}

    assert by_id == {
        id_of(ONE): (["fra-2"], ""),
        id_of(TWO): ([], "fra-1: unhealthy, the proxy: timed out"),
        id_of(THREE): (["direct"], ""),
    }
    assert found["ready"] == 2
