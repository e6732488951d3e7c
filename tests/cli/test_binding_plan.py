"""`keymux bindings auto`: keys without a binding are spread over healthy proxies."""

from collections import Counter

import pexpect
import pytest

from keymux.cli.binding_plan import planned, usable
from keymux.core.egress import ExitState, ProxyRecord
from keymux.core.health import Status
from keymux.core.spreading import TooFewProxies
from tests.cli.program import ACTOR, Program, backup, binding, id_of, key, proxy

WELL = {"alpha": ExitState()}
KEYS = [f"sk-many-{number:06d}abcd" for number in range(10)]
NAMES = ("fra-1", "fra-2", "fra-3")


def well(name: str) -> ProxyRecord:
    """A proxy that a test has found well."""
    return proxy(name, exits=WELL)


def fill(keymux: Program) -> None:
    """Ten keys, three healthy proxies, one binding."""
    keymux.add_keys(*(key(secret, created_at=at) for at, secret in enumerate(KEYS, 1)))
    keymux.add_proxies(*map(well, NAMES))
    keymux.bind(binding(KEYS[0], "fra-1"))


def per_proxy(keymux: Program) -> Counter[str]:
    """How many bindings each proxy has."""
    return Counter(name for _, name, _ in keymux.bound())


# -- the plan --------------------------------------------------------------------------------------
def test_only_keys_without_a_binding_are_planned_for() -> None:
    """In the order of the pool; one that was replaced is left alone, and weighs nothing."""
    keys = [key(KEYS[0]), key(KEYS[1], replaced_by="x"), key(KEYS[2]), key(KEYS[3])]
    bindings = [binding(KEYS[0], "a"), binding(KEYS[1], "b"), binding(KEYS[1], "a")]

    plan = planned(keys, bindings, [well("a"), well("b")], 1)

    assert plan.chosen == {id_of(KEYS[2]): ("proxy_b",), id_of(KEYS[3]): ("proxy_a",)}
    assert {name: load.all for name, load in plan.before.items()} == {"proxy_a": 1, "proxy_b": 0}
    assert {name: load.all for name, load in plan.after.items()} == {"proxy_a": 2, "proxy_b": 1}


def test_spares_weigh_less_than_what_is_used_first() -> None:
    """Keys are spread by the proxy they use, not by those they have to spare."""
    bindings = [binding(KEYS[0], "a", 5), binding(KEYS[0], "b", 7), binding(KEYS[1], "a", 1)]
    plan = planned([key(one) for one in KEYS[:4]], bindings, [well("a"), well("b")], 2)

    assert list(plan.chosen.values()) == [("proxy_b", "proxy_a"), ("proxy_b", "proxy_a")]
    assert {name: (load.first, load.all) for name, load in plan.after.items()} == {
        "proxy_a": (2, 4),
        "proxy_b": (2, 3),
    }


def test_bindings_to_other_proxies_do_not_matter() -> None:
    """Those keys are bound, and the proxies in question carry nothing of it."""
    plan = planned([key(KEYS[0])], [binding(KEYS[0], "z")], [well("a")], 1)

    assert plan.chosen == {}
    assert plan.after["proxy_a"].all == 0


def test_too_few_proxies_make_no_plan() -> None:
    """A spare needs a second one."""
    with pytest.raises(TooFewProxies):
        planned([key(KEYS[0])], [], [well("a")], 2)


@pytest.mark.parametrize(
    ("record", "is_wanted", "with_unknown"),
    [
        pytest.param(well("a"), True, True, id="healthy"),
        pytest.param(proxy("a"), False, True, id="nobody has tested it"),
        pytest.param(proxy("a", exits=WELL, is_active=False), False, False, id="disabled"),
        pytest.param(
            proxy("a", exits={**WELL, "beta": ExitState(Status.ERROR, 1)}), False, False, id="down"
        ),
        pytest.param(
            proxy("a", exits={"alpha": ExitState(Status.ERROR)}), False, False, id="misconfigured"
        ),
        pytest.param(
            proxy("a", exits={"alpha": ExitState(Status.QUARANTINED)}), False, False, id="blocked"
        ),
    ],
)
def test_which_proxies_get_new_keys(
    record: ProxyRecord, *, is_wanted: bool, with_unknown: bool
) -> None:
    """Those that are known to be well; those that nobody has tested on request."""
    assert bool(usable([record], include_unknown=False)) is is_wanted
    assert bool(usable([record], include_unknown=True)) is with_unknown


# -- the command -----------------------------------------------------------------------------------
def test_keys_are_spread_evenly(keymux: Program) -> None:
    """The plan is printed; what is bound stays and counts."""
    fill(keymux)

    done = keymux.good("bindings", "auto", "alpha", "--yes")

    assert done.out.splitlines() == [
        "proxy\tstatus\tnow\tafter\tfirst",
        "fra-1\thealthy\t1\t4\t4",
        "fra-2\thealthy\t0\t3\t3",
        "fra-3\thealthy\t0\t3\t3",
        "alpha: 9 keys bound",
    ]
    assert per_proxy(keymux) == {"fra-1": 4, "fra-2": 3, "fra-3": 3}
    assert (id_of(KEYS[0]), "fra-1", 1) in keymux.bound()


def test_a_key_may_have_a_spare(keymux: Program) -> None:
    """Two distinct proxies, the first with priority 1, the spare with 2."""
    fill(keymux)

    keymux.good("bindings", "auto", "alpha", "--per-key", "2", "--yes")
    by_key: dict[str, list[tuple[int, str]]] = {}
    for key_id, name, priority in keymux.bound():
        by_key.setdefault(key_id, []).append((priority, name))
    del by_key[id_of(KEYS[0])]

    assert all(sorted(number for number, _ in one) == [1, 2] for one in by_key.values())
    assert all(len({name for _, name in one}) == 2 for one in by_key.values())
    assert sum(per_proxy(keymux).values()) == 19


def test_what_is_not_well_gets_no_keys(keymux: Program) -> None:
    """Down, disabled and unknown ones are left out, and that is said."""
    keymux.add_keys(*map(key, KEYS))
    down = {"alpha": ExitState(Status.ERROR, 1)}
    keymux.add_proxies(well("fra-1"), proxy("fra-2", exits=down), proxy("fra-3"))
    keymux.add_proxies(proxy("fra-4", exits=WELL, is_active=False))

    done = keymux.good("bindings", "auto", "alpha", "--yes")

    assert per_proxy(keymux) == {"fra-1": 10}
    assert "left out, because not healthy: 3 egress proxies" in done.err


def test_untested_proxies_are_used_on_request(keymux: Program) -> None:
    """And never what is down."""
    keymux.add_keys(*map(key, KEYS))
    keymux.add_proxies(well("fra-1"), proxy("fra-2"))

    keymux.good("bindings", "auto", "alpha", "--include-unknown", "--yes")

    assert per_proxy(keymux) == {"fra-1": 5, "fra-2": 5}


def test_proxies_may_be_named(keymux: Program) -> None:
    """Only those are used."""
    fill(keymux)

    keymux.good("bindings", "auto", "alpha", "--proxy", "fra-2", "--proxy", "fra-3", "--yes")

    assert per_proxy(keymux) == {"fra-1": 1, "fra-2": 5, "fra-3": 4}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--per-key", "4"), "each key is to have 4 egress proxies, and there are 3"),
        (("--proxy", "nope"), "no egress proxy is called 'nope'"),
        (("--proxy", "fra-1", "--per-key", "2"), "and there are 1 to choose from"),
        (("--per-key", "0"), "--per-key"),
        ((), "add --yes"),
    ],
)
def test_what_cannot_be_done_is_said(keymux: Program, arguments: tuple[str, ...], why: str) -> None:
    """And nothing is written."""
    fill(keymux)

    done = keymux.run("bindings", "auto", "alpha", *arguments)

    assert done.code in {1, 2}
    assert why in done.err
    assert len(keymux.bindings()) == 1


def test_a_plan_alone_changes_nothing(keymux: Program) -> None:
    """--dry-run, for people and for programs."""
    fill(keymux)

    done = keymux.good("bindings", "auto", "alpha", "--dry-run")
    found = keymux.good("bindings", "auto", "alpha", "--dry-run", "--json").json

    assert "fra-2\thealthy\t0\t3\t3" in done.out
    assert len(found["bindings"]) == 9
    assert found["bindings"][0] == {"keyId": id_of(KEYS[1]), "proxy": "fra-2", "priority": 1}
    assert [row["after"] for row in found["proxies"]] == [4, 3, 3]
    assert len(keymux.bindings()) == 1


def test_the_same_plan_comes_out_twice(keymux: Program) -> None:
    """It follows from what is there and nothing else."""
    fill(keymux)
    first, second = (
        keymux.good("bindings", "auto", "alpha", "--dry-run", "--json").out for _ in range(2)
    )

    assert first == second


@pytest.mark.parametrize(("answer", "bound"), [("y", 10), ("n", 1)])
def test_a_person_reads_the_plan_and_is_asked(keymux: Program, answer: str, bound: int) -> None:
    """Anything but yes changes nothing."""
    fill(keymux)

    process = keymux.terminal("bindings", "auto", "alpha")
    process.expect("bindings now")
    process.expect("Bind 9 keys of alpha")
    process.sendline(answer)
    process.expect(pexpect.EOF)

    assert len(keymux.bindings()) == bound


def test_nothing_to_do_is_said(keymux: Program) -> None:
    """Everybody is bound."""
    fill(keymux)
    keymux.good("bindings", "auto", "alpha", "--yes")

    again = keymux.good("bindings", "auto", "alpha")

    assert again.out == "alpha: no key is without a binding\n"


def test_many_keys_are_bound(keymux: Program) -> None:
    """Three thousand with a spare each; backup keys are left alone, they inherit."""
    secrets = [f"sk-many-{number:06d}abcd" for number in range(3_000)]
    keymux.add_keys(*map(key, secrets))
    keymux.add_backups(backup("sk-spare-0123456789"))
    keymux.add_proxies(*(well(f"p{number}") for number in range(7)))

    keymux.good("bindings", "auto", "alpha", "--per-key", "2", "--yes")
    counts = per_proxy(keymux)

    assert sum(counts.values()) == 6_000
    assert max(counts.values()) - min(counts.values()) <= 1
    assert ACTOR not in {row["actor"] for row in keymux.good("audit", "--limit", "1").rows}
