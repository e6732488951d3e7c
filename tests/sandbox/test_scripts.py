"""Scripts are followed request by request, and the nearest one wins."""

import pytest

from keymux.sandbox.asked import Asked, Endpoint, Place
from keymux.sandbox.behaviours import BadGateway, Behaviour, Ok, Spent, Throttled
from keymux.sandbox.scripts import Scripts


def _asked(
    key: str = "sk-sandbox-a",
    dialect: str = "openhands",
    endpoint: Endpoint = Endpoint.GENERATE,
) -> Asked:
    return Asked(Place(dialect, endpoint), "POST", "/", (), key)


def test_a_script_goes_on_to_its_last_behaviour_and_stays_there() -> None:
    """One behaviour for each request."""
    scripts = Scripts()
    scripts.set("sk-sandbox-a", [Throttled(), Spent(), Ok()])

    assert [scripts.next(_asked()) for _ in range(4)] == [Throttled(), Spent(), Ok(), Ok()]


def test_a_dialects_script_counts_the_requests_of_all_its_keys() -> None:
    """A whole provider can be down for its next two requests."""
    scripts = Scripts()
    scripts.set("ohmygpt", [BadGateway(), BadGateway(), Ok()])
    met = [scripts.next(_asked(f"sk-sandbox-{number}", "ohmygpt")) for number in range(3)]

    assert met == [BadGateway(), BadGateway(), Ok()]


def test_a_named_script_is_counted_for_each_key_and_dialect() -> None:
    """The same key at the other provider begins anew."""
    scripts = Scripts()
    key = "sk-sandbox-throttled+ok-1"
    met = [scripts.next(_asked(key, dialect)) for dialect in ("openhands", "ohmygpt", "openhands")]

    assert met == [Throttled(), Throttled(), Ok()]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(_asked("sk-sandbox-spent-1"), Spent(), id="the name alone"),
        pytest.param(
            _asked("sk-sandbox-spent-1", "ohmygpt"), BadGateway(), id="a dialect beats the name"
        ),
        pytest.param(_asked("sk-set", "ohmygpt"), Ok(), id="a key beats its dialect"),
        pytest.param(
            _asked("sk-set", "ohmygpt", Endpoint.COUNT_TOKENS),
            Throttled(),
            id="an endpoint beats all endpoints",
        ),
    ],
)
def test_the_nearest_script_wins(asked: Asked, expected: Behaviour) -> None:
    """Key before dialect before name, endpoint before all endpoints."""
    scripts = Scripts()
    scripts.set("ohmygpt", [BadGateway()])
    scripts.set("sk-set", [Ok()])
    scripts.set("sk-set", [Throttled()], Endpoint.COUNT_TOKENS)

    assert scripts.next(asked) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param("sk-sandbox-anything", True, id="the prefix is enough"),
        pytest.param("sk-set", True, id="so is a script"),
        pytest.param("sk-other", False, id="anything else is unknown"),
        pytest.param("", False, id="no key is unknown"),
    ],
)
def test_known_keys(key: str, expected: object) -> None:
    """A key is accepted by its prefix, or because a script names it."""
    scripts = Scripts()
    scripts.set("sk-set", [Ok()])

    assert scripts.knows(key) is expected


def test_clearing_begins_anew() -> None:
    """Set scripts are forgotten, named ones start over."""
    scripts = Scripts()
    scripts.set("openhands", [Spent()])
    scripts.next(_asked("sk-sandbox-throttled+ok", "ohmygpt"))
    scripts.clear()

    assert scripts.next(_asked()) == Ok()
    assert scripts.next(_asked("sk-sandbox-throttled+ok", "ohmygpt")) == Throttled()


def test_an_empty_script_is_refused() -> None:
    """It could not say what to do."""
    with pytest.raises(ValueError, match="at least one"):
        Scripts().set("sk-a", [])
