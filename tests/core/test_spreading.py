"""Which proxies keys get that have none yet."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.core.spreading import Load, TooFewProxies, spread

LOADS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.integers(0, 6), st.integers(0, 6)).map(
        lambda pair: Load(first=pair[0], all=pair[0] + pair[1])
    ),
    min_size=3,
    max_size=8,
)
KEYS = st.integers(0, 40).map(lambda count: [f"key_{number}" for number in range(count)])


def after(
    loads: Mapping[str, Load], plan: Mapping[str, tuple[str, ...]]
) -> tuple[Counter[str], ...]:
    """What each proxy carries when a plan is carried out: as the first of a key, and in all."""
    first = Counter({name: load.first for name, load in loads.items()})
    every = Counter({name: load.all for name, load in loads.items()})
    first.update(chosen[0] for chosen in plan.values())
    every.update(name for chosen in plan.values() for name in chosen)
    return first, every


def test_keys_take_turns_from_the_first_proxy_on() -> None:
    """Without any load they go round."""
    plan = spread(["k1", "k2", "k3"], {"a": Load(), "b": Load()})

    assert plan == {"k1": ("a",), "k2": ("b",), "k3": ("a",)}


def test_what_is_bound_already_counts() -> None:
    """The proxy that carries less catches up first."""
    plan = spread(["k1", "k2", "k3"], {"a": Load(2, 2), "b": Load()})

    assert plan == {"k1": ("b",), "k2": ("b",), "k3": ("a",)}


def test_a_primary_and_a_spare_are_distinct() -> None:
    """Each key gets another proxy to spare, and both proxies carry the same."""
    plan = spread(["k1", "k2"], {"a": Load(), "b": Load()}, 2)

    assert plan == {"k1": ("a", "b"), "k2": ("b", "a")}


def test_too_few_proxies_are_a_mistake() -> None:
    """A spare that is the primary would be none."""
    with pytest.raises(TooFewProxies, match="2 proxies for each key, and there are only 1"):
        spread(["k1"], {"a": Load()}, 2)


def test_no_keys_need_no_proxies() -> None:
    """Where nothing is to be done nothing is missing."""
    assert spread([], {}, 2) == {}


@given(KEYS, LOADS, st.integers(1, 3))
def test_each_key_gets_as_many_distinct_proxies_as_it_should(
    keys: list[str], loads: dict[str, Load], per_key: int
) -> None:
    """All keys, in order, and only proxies that are there."""
    plan = spread(keys, loads, per_key)

    assert list(plan) == keys
    assert all(len(set(chosen)) == per_key for chosen in plan.values())
    assert all(set(chosen) <= set(loads) for chosen in plan.values())


@given(KEYS, LOADS, st.integers(1, 3))
def test_who_gained_carries_at_most_one_more_than_any_other(
    keys: list[str], loads: dict[str, Load], per_key: int
) -> None:
    """Evenness within one of what keys use first, whatever was bound before."""
    plan = spread(keys, loads, per_key)
    first, _ = after(loads, plan)

    assert all(first[chosen[0]] <= min(first.values()) + 1 for chosen in plan.values())


@given(KEYS, st.integers(3, 8), st.integers(1, 3))
def test_from_nothing_all_is_even(keys: list[str], proxies: int, per_key: int) -> None:
    """Primaries within one, and all bindings within one too."""
    loads = {f"p{number}": Load() for number in range(proxies)}
    first, every = after(loads, spread(keys, loads, per_key))

    assert max(first.values()) - min(first.values()) <= 1
    assert max(every.values()) - min(every.values()) <= 1


@given(KEYS, LOADS, st.integers(1, 3))
def test_the_same_question_has_the_same_answer(
    keys: list[str], loads: dict[str, Load], per_key: int
) -> None:
    """Nothing but the arguments counts."""
    assert spread(keys, loads, per_key) == spread(keys, dict(loads), per_key)


def test_many_keys_over_many_proxies() -> None:
    """Ten thousand keys over a thousand proxies, ten each, and a spare."""
    loads = {f"p{number}": Load() for number in range(1_000)}
    first, every = after(loads, spread([f"k{number}" for number in range(10_000)], loads, 2))

    assert set(first.values()) == {10}
    assert set(every.values()) == {20}
