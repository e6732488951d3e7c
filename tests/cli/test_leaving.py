"""How the keys of a provider leave this host, from what the store knows."""

import pytest

from keymux.cli.leaving import WayOut, Ways, counted, plural, standing, unbound_words
from keymux.core.egress import BindingRecord, ExitState, ProxyRecord, ProxyStatus
from keymux.core.health import Status
from keymux.settings import ProviderSettings
from tests.cli.program import binding, id_of, proxy

ONE = "sk-one-012345wxyz"
OPTIONAL = ProviderSettings(kind="openhands")
REQUIRED = ProviderSettings(kind="openhands", egress="required")
PLAIN = ProviderSettings(kind="openhands", base_url="http://127.0.0.1:9")
DOWN = ExitState(Status.ERROR, 1, "timed out", 1, 1)
REFUSED = ExitState(Status.ERROR, None, "refused the credentials", 1, 1)
BLOCKED = ExitState(Status.QUARANTINED, None, "403 region", 1, 1)


def way(
    proxies: list[ProxyRecord],
    bindings: list[BindingRecord],
    settings: ProviderSettings = OPTIONAL,
) -> WayOut:
    """How the key leaves."""
    return Ways("alpha", settings, proxies, bindings).of_key(id_of(ONE))


def test_a_key_without_bindings_goes_directly() -> None:
    """Unless that is not allowed."""
    assert way([], []) == WayOut(("direct",))
    assert way([], [], REQUIRED).reason == "has no binding, and this provider's egress is required"


def test_the_lowest_priority_comes_first_and_equal_ones_take_turns() -> None:
    """Whatever order they were made in."""
    proxies = [proxy("a"), proxy("b"), proxy("c")]
    bindings = [binding(ONE, "c", 2), binding(ONE, "a", 1), binding(ONE, "b", 1)]

    assert way(proxies, bindings) == WayOut(("a", "b"))


@pytest.mark.parametrize(
    ("first", "why"),
    [
        pytest.param(proxy("a", exits={"alpha": DOWN}), "unhealthy, timed out", id="down"),
        pytest.param(
            proxy("a", exits={"alpha": REFUSED}),
            "misconfigured, refused the credentials",
            id="refused credentials",
        ),
        pytest.param(proxy("a", is_active=False), "disabled", id="disabled"),
        pytest.param(proxy("other"), "gone", id="gone"),
    ],
)
def test_what_cannot_be_used_is_passed_over(first: ProxyRecord, why: str) -> None:
    """The next binding is used; without one the key cannot leave, and why is said."""
    name = "proxy_a" if why == "gone" else "a"

    assert way([first, proxy("b")], [binding(ONE, "a"), binding(ONE, "b", 2)]).names == ("b",)
    assert way([first], [binding(ONE, "a")]) == WayOut(reason=f"{name}: {why}")


def test_a_disabled_binding_is_not_used_and_still_binds() -> None:
    """The key does not go directly."""
    found = way([proxy("a")], [binding(ONE, "a", is_active=False)])

    assert found == WayOut(reason="a: this binding is disabled")


def test_a_block_is_not_answered_with_the_next_best_way() -> None:
    """Where the provider refuses those who come one way, the rest waits for an operator."""
    blocked = proxy("a", exits={"alpha": BLOCKED})
    found = way([blocked, proxy("b")], [binding(ONE, "a"), binding(ONE, "b", 2)])

    assert found == WayOut(reason="a: blocked, 403 region")


def test_what_holds_for_another_provider_does_not_matter() -> None:
    """An exit belongs to a provider."""
    assert way([proxy("a", exits={"beta": DOWN})], [binding(ONE, "a")]).names == ("a",)


def test_no_bound_key_goes_to_a_provider_in_plain_text() -> None:
    """Neither through its proxy nor directly."""
    assert "http base_url" in way([proxy("a")], [binding(ONE, "a")], PLAIN).reason


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("direct",), "direct"),
        (("a",), "via a"),
        (("a", "b"), "via a and b in turn"),
        ((), "cannot leave this host"),
    ],
)
def test_ways_have_words(names: tuple[str, ...], words: str) -> None:
    """As part of a sentence."""
    assert WayOut(names).words == words


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        ({}, (ProxyStatus.UNKNOWN, "")),
        ({"alpha": ExitState()}, (ProxyStatus.HEALTHY, "")),
        ({"alpha": DOWN, "beta": DOWN}, (ProxyStatus.UNHEALTHY, "timed out")),
        ({"alpha": DOWN, "beta": ExitState()}, (ProxyStatus.UNHEALTHY, "alpha: timed out")),
        (
            {"alpha": DOWN, "beta": REFUSED},
            (ProxyStatus.MISCONFIGURED, "beta: refused the credentials"),
        ),
    ],
)
def test_a_proxy_is_as_well_as_its_worst_exit(
    exits: dict[str, ExitState], expected: tuple[ProxyStatus, str]
) -> None:
    """The reason names the provider where it does not hold for all."""
    assert standing(proxy("a", exits=exits)) == expected


def test_things_are_counted() -> None:
    """One, and more than one."""
    assert plural(1, "key") == "1 key"
    assert plural(0, "key") == "0 keys"
    assert plural(2, "egress proxy") == "2 egress proxies"
    assert counted({"a": 1, "b": 0, "c": 3}) == "1 key of a, 3 keys of c"
    assert unbound_words("a", OPTIONAL, 2).startswith("2 keys of a would have no binding left")
