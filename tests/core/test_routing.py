"""From the name a client uses to a route."""

import time

import pytest

from keymux.core.faults import NotAllowed, UnknownModel
from keymux.core.routing import Model, Routes
from keymux.core.vocabulary import Caller, Route, Target

ANYBODY = Caller("c1")


def _model(name: str) -> Model:
    return Model(name, name.title(), Route(name, (Target("p", name),)))


SONNET, OPUS, REST = _model("claude-sonnet"), _model("claude-opus"), _model("anything")
ROUTES = Routes(
    [
        (SONNET, ["sonnet", "claude-s*", "wide[1m]"]),
        (OPUS, ["claude-*", "opus"]),
        (REST, []),
    ]
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param("claude-sonnet", SONNET, id="its id"),
        pytest.param("sonnet", SONNET, id="an alias"),
        pytest.param("claude-sonata", SONNET, id="the longest prefix that fits"),
        pytest.param("claude-haiku", OPUS, id="a shorter prefix"),
        pytest.param("claude-", OPUS, id="nothing but the prefix"),
        pytest.param("sonnet[1m]", SONNET, id="the mark of the wide context does not count"),
        pytest.param("opus[1M][1m]", OPUS, id="doubled and in capitals neither"),
        pytest.param("claude-haiku[1m]", OPUS, id="nor behind what a prefix stands for"),
        pytest.param("wide[1m]", SONNET, id="an alias may bear it"),
        pytest.param("[1m]sonnet", None, id="elsewhere it is part of the name"),
        pytest.param("Sonnet", None, id="capitals matter"),
        pytest.param("sonnet ", None, id="spaces matter"),
        pytest.param("", None, id="nothing"),
        pytest.param("[1m]", None, id="the mark alone"),
    ],
)
def test_a_model_goes_by_many_names(asked: str, expected: Model | None) -> None:
    """Id, alias, prefix, each with or without the mark of the wide context; the same twice."""
    assert [ROUTES.find(asked), ROUTES.find(asked)] == [expected, expected]


def test_a_star_alone_stands_for_every_name() -> None:
    """After all more exact ones."""
    routes = Routes([(SONNET, ["son*"]), (REST, ["*"])])

    assert (routes.find("sonata"), routes.find("gpt"), routes.find("")) == (SONNET, REST, REST)


def test_all_models_are_known_by_id_only() -> None:
    """Aliases are not listed."""
    assert list(ROUTES.models.items()) == [
        ("claude-sonnet", SONNET),
        ("claude-opus", OPUS),
        ("anything", REST),
    ]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("claude-" + "x" * 30_000_000, id="a name of thirty megabytes"),
        pytest.param("[1m]" * 100_000 + "x", id="marks that are none"),
        pytest.param("x" + "[1m]" * 100_000, id="marks without end"),
    ],
)
def test_a_hostile_name_costs_little(asked: str) -> None:
    """It is unknown, at once, and not remembered."""
    routes = Routes([(OPUS, ["claude-*"])])
    before = time.process_time()
    found = routes.find(asked)

    assert (found, routes._remembered) == (None, {})
    assert time.process_time() - before < 0.5


def test_names_that_were_worked_out_are_remembered_up_to_a_limit() -> None:
    """The memory of a process does not grow with the ideas of its clients."""
    routes = Routes([(OPUS, ["claude-*"])])
    for number in range(2000):
        routes.find(f"claude-{number}")

    assert len(routes._remembered) == 1024
    assert routes.find("claude-1999") is OPUS


def test_a_caller_gets_the_route() -> None:
    """Of any model when its client key names none."""
    assert ROUTES.resolve("sonnet", ANYBODY) is SONNET.route


def test_a_model_that_is_not_served_is_unknown() -> None:
    """The message repeats the name, but not all of an endless one."""
    with pytest.raises(UnknownModel) as caught:
        ROUTES.resolve("gpt-" + "x" * 1000, ANYBODY)

    assert caught.value.facts == {"model": "gpt-" + "x" * 196}


def test_a_caller_may_be_held_to_some_models() -> None:
    """By their ids, whatever alias it uses."""
    caller = Caller("c1", models=("claude-sonnet",))

    assert ROUTES.resolve("sonnet", caller) is SONNET.route
    with pytest.raises(NotAllowed) as caught:
        ROUTES.resolve("opus" + "[1m]" * 100, caller)
    assert caught.value.facts == {"model": ("opus" + "[1m]" * 100)[:200]}
