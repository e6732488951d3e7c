"""Behaviours are named in keys, in lines of text and in JSON."""

from typing import get_args

import msgspec
import pytest

from keymux.sandbox.answer import Framing
from keymux.sandbox.behaviours import (
    BY_NAME,
    AnyBehaviour,
    BadScript,
    Behaviour,
    Cut,
    Ok,
    Overloaded,
    OverloadedIn200,
    Raw,
    Slow,
    SlowDown,
    Throttled,
    catalogue,
    script_of,
    script_of_key,
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param("sk-sandbox-a", [Ok()], id="a name that means nothing is well"),
        pytest.param("sk-sandbox-", [Ok()], id="so is no name"),
        pytest.param("sk-sandbox-throttled", [Throttled()], id="a behaviour alone"),
        pytest.param("sk-sandbox-throttled-1", [Throttled()], id="anything may follow"),
        pytest.param("sk-sandbox-slow-down-1", [SlowDown()], id="the longer name wins"),
        pytest.param("sk-sandbox-slow-downtown", [Slow()], id="but only as a whole"),
        pytest.param("sk-sandbox-slower", [Ok()], id="a name goes on to a hyphen or the end"),
        pytest.param("sk-sandbox-throttled@7-1", [Throttled(7)], id="the first figure"),
        pytest.param(
            "sk-sandbox-throttled@0.5@said=milliseconds-1",
            [Throttled(0.5, "milliseconds")],
            id="a figure by name",
        ),
        pytest.param("sk-sandbox-throttled@null-1", [Throttled(None)], id="no figure"),
        pytest.param("sk-sandbox-overloaded@503", [Overloaded(503)], id="a choice of numbers"),
        pytest.param(
            "sk-sandbox-cut@9@how=reset@framing=close",
            [Cut(9, "reset", Framing.CLOSE)],
            id="several figures",
        ),
        pytest.param(
            "sk-sandbox-overloaded-in-200@preamble+ok-x",
            [OverloadedIn200("preamble"), Ok()],
            id="one after the other",
        ),
        pytest.param("sk-sandbox-slow+nothing", [Slow()], id="what is unknown is anything"),
    ],
)
def test_keys_name_their_behaviour(key: str, expected: list[Behaviour]) -> None:
    """The longest behaviour that a key begins with, figures and successors included."""
    assert list(script_of_key(key)) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("nothing", "known are ok, throttled", id="no behaviour"),
        pytest.param("ok-1", "known are", id="something behind it"),
        pytest.param("", "known are", id="nothing at all"),
        pytest.param("ok@7", "'ok' has no figure '7'", id="a figure too many"),
        pytest.param("slow@speed=7", "no figure 'speed'", id="an unknown figure"),
        pytest.param("slow@fast", "Expected `float`", id="a figure that is none"),
        pytest.param("overloaded@500", "Invalid enum value", id="a choice that there is not"),
    ],
)
def test_a_wrong_line_is_refused(text: str, word: str) -> None:
    """Tests must not run against a behaviour that was misspelled."""
    with pytest.raises(BadScript, match=word):
        script_of(text)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_behaviour_has_a_default_of_every_figure(name: str) -> None:
    """A bare name is always enough, and JSON gives the same."""
    behaviour = script_of(name)[0]

    assert msgspec.json.decode(msgspec.json.encode(behaviour), type=AnyBehaviour) == behaviour


def test_bytes_travel_as_base64() -> None:
    """A raw answer can be set from another process."""
    behaviour = Raw(b"\x00HTTP?\r\n")

    assert msgspec.json.decode(msgspec.json.encode(behaviour), type=AnyBehaviour) == behaviour


def test_every_behaviour_that_exists_is_listed() -> None:
    """None is written and then forgotten."""
    public = {kind for kind in Behaviour.__subclasses__() if "stage" not in kind.__module__}

    assert public == set(get_args(AnyBehaviour))


def test_the_catalogue_tells_choices() -> None:
    """A figure is shown with its default and what else it may be."""
    figures = {entry.name: entry.figures for entry in catalogue()}

    assert figures["throttled"] == (
        "retry_after=30",
        "said=seconds (or milliseconds, date, reset)",
        "verbatim=",
    )
    assert figures["cut"][2] == "framing=null (or chunked, length, close)"
