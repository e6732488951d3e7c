"""What becomes of egress proxies and bindings, whatever keeps them."""

import pytest
from msgspec.structs import replace

from keymux.core.egress import DIRECT, ExitState, Observation
from keymux.core.health import Status
from keymux.stores.egress import (
    Change,
    Successor,
    after_observation,
    exit_status,
    heir,
    named_apart,
    trusted,
)
from tests.contract.records import ACME, NOON, OTHER, proxy

DOWN = ExitState(Status.ERROR, NOON, "refused", 2, 4)


def test_only_what_is_later_changes_an_exit() -> None:
    """And only that is told of."""
    before = proxy("p1", exits={ACME: DOWN, OTHER: DOWN})
    later = replace(DOWN, generation=5)
    after, changes = after_observation(before, Observation(NOON, {ACME: later, OTHER: DOWN}))

    assert after.exits == {ACME: later, OTHER: DOWN}
    assert changes == [Change(ACME, DOWN, later)]
    assert not changes[0].is_seen


def test_an_unknown_exit_was_healthy_before() -> None:
    """So the first failure is a change that is seen, and the first success is none."""
    seen = Observation(NOON, {ACME: DOWN, OTHER: ExitState()})
    _, changes = after_observation(proxy("p1"), seen)

    assert [(one.provider, one.is_seen) for one in changes] == [(ACME, True), (OTHER, False)]


def test_a_check_that_comes_late_does_not_turn_back_the_clock() -> None:
    """The last check is the last one."""
    before = proxy("p1", last_checked_at=NOON + 5)
    after, _ = after_observation(before, Observation(NOON, {}))

    assert after.last_checked_at == NOON + 5


def test_what_is_trusted_again_is_new() -> None:
    """Nothing is left of what was seen, and what was seen before is older."""
    assert trusted({ACME: DOWN}) == {ACME: ExitState(generation=5)}


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("", Status.HEALTHY),
        ("healthy", Status.HEALTHY),
        ("error", Status.ERROR),
        ("quarantined", Status.QUARANTINED),
        ("rate_limited", Status.QUARANTINED),
        ("nonsense", Status.QUARANTINED),
    ],
)
def test_words_for_exits(word: str, status: Status) -> None:
    """What means nothing keeps the traffic away until an operator acts."""
    assert exit_status(word) is status


def test_names_are_told_apart() -> None:
    """The oldest keeps its name; one that has none is called by its id."""
    records = [
        proxy("p3", name="out"),
        proxy("p1", name="out"),
        proxy("p2", name=""),
        proxy("p0", name="out", created_at=NOON + 1),
        proxy("p4", name=DIRECT),
    ]

    assert [record.name for record in named_apart(records)] == [
        *("out", "p2", "out (p3)", "direct (p4)", "out (p0)")
    ]


TOOK_OVER = {
    "nobody": ([], ""),
    "one that is in the pool": ([Successor("b1", "k1", "k2", 1)], "k2"),
    "the last of several": (
        [Successor("b1", "k1", "k2", 1), Successor("b2", "k1", "k3", 2)],
        "k3",
    ),
    "the earlier one, as the last is gone": (
        [Successor("b1", "k1", "k2", 1), Successor("b2", "k1", "", 2)],
        "k2",
    ),
    "the successor of a successor": (
        [Successor("b1", "k1", "", 1), Successor("b2", "b1", "b2", 2)],
        "b2",
    ),
    "one that runs in a circle": (
        [Successor("b1", "k1", "", 1), Successor("k1", "b1", "", 2)],
        "",
    ),
    "itself": ([Successor("b1", "k1", "k1", 1)], ""),
}


@pytest.mark.parametrize(("successors", "found"), TOOK_OVER.values(), ids=TOOK_OVER)
def test_who_took_over(successors: list[Successor], found: str) -> None:
    """As the backup keys tell."""
    assert heir("k1", successors) == found
