"""What audit rows ask to be read again."""

import pytest

from keymux.core.records import AuditRow
from keymux.pools.news import News, Said


def row(action: str, subject: str = "k", *, before: str = "", after: str = "") -> AuditRow:
    """A line of the audit."""
    return AuditRow(1, 0, "somebody", action, "acme", subject, before, after, "")


def _read(*rows: AuditRow, is_own: bool = False) -> News:
    news = News()
    for one in rows:
        news.read(one, is_own=is_own)
    return news


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        pytest.param(["add"], Said.FOUND, id="added: whatever is known here holds"),
        pytest.param(["transition"], Said.FOUND, id="a transition of another process"),
        pytest.param(["disable"], Said.DECIDED, id="an operator disables"),
        pytest.param(["enable"], Said.DECIDED, id="an operator enables"),
        pytest.param(["remove"], Said.DECIDED, id="an operator removes"),
        pytest.param(["reset"], Said.LIFTED, id="an operator resets"),
        pytest.param(["restore"], Said.LIFTED, id="an operator restores"),
        pytest.param(["disable", "transition"], Said.DECIDED, id="the operator's word counts"),
        pytest.param(["transition", "disable"], Said.DECIDED, id="in whichever order"),
        pytest.param(["reset", "transition"], Said.LIFTED, id="a reset and a transition"),
        pytest.param(["reset", "disable"], Said.LIFTED, id="a reset and a ban"),
    ],
)
def test_what_counts_for_a_key(actions: list[str], said: Said) -> None:
    """Several rows about one key are boiled down to one answer."""
    assert _read(*(row(f"key.{action}") for action in actions)).keys == {"k": said}


def test_a_promotion_concerns_two_keys() -> None:
    """The dead one is out, the fresh one is in."""
    news = _read(row("backup.promote", "fresh", before="dead"))

    assert news.keys == {"dead": Said.FOUND, "fresh": Said.FOUND}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param("provider.transition", Said.FOUND, id="found by another process"),
        pytest.param("provider.reset", Said.LIFTED, id="decided by an operator"),
    ],
)
def test_the_providers_health_is_read_again(action: str, expected: Said) -> None:
    """A row about the provider itself."""
    assert _read(row(action)).provider is expected


@pytest.mark.parametrize("action", ["backup.add", "backup.restore"])
def test_more_spares_are_news(action: str) -> None:
    """A dead key may be replaced now."""
    assert _read(row(action)).has_spares


@pytest.mark.parametrize("action", ["backup.remove", "client.add", "unheard.of", ""])
def test_what_concerns_no_pool_is_passed_over(action: str) -> None:
    """Nothing has to be read."""
    news = _read(row(action))

    assert (news.keys, news.provider, news.has_spares, news.has_dead) == ({}, None, False, False)


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize(
    ("after", "is_dead"), [("exhausted", True), ("quarantined", True), ("rate_limited", False)]
)
def test_a_death_is_news_even_when_it_is_ones_own(
    after: str, *, is_dead: bool, is_own: bool
) -> None:
    """It may not have been possible to replace the key at once; a foreign one is for its finder."""
    news = _read(row("key.transition", after=after), is_own=is_own)

    assert (news.has_own_dead, news.has_dead) == (is_dead and is_own, is_dead and not is_own)


def test_ones_own_rows_are_no_news() -> None:
    """What this process did itself it knows already."""
    own = [row("key.transition"), row("provider.transition"), row("backup.promote", before="d")]
    news = _read(*own, is_own=True)

    assert (news.keys, news.provider) == ({}, None)
