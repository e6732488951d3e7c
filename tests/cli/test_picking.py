"""Which key an operator means."""

import pytest

from keymux.cli.picking import Candidate, candidate, matching
from keymux.core.records import ClientKeyRecord
from tests.cli.program import key

FIRST = Candidate("key_aaaa1111", "sk-...wxyz", "wxyz")
SECOND = Candidate("key_aaaa2222", "sk-...key_", "key_")
THIRD = Candidate("key_aaaa11112", "sk-...wxyz", "wxyz")
ALL = (FIRST, SECOND, THIRD)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("key_aaaa2222", [SECOND], id="a whole id"),
        pytest.param("key_aaaa1111", [FIRST], id="a whole id that others begin with"),
        pytest.param("key_aaaa2", [SECOND], id="the beginning of an id"),
        pytest.param("key_aaaa", [FIRST, SECOND, THIRD], id="the beginning of several"),
        pytest.param("wxyz", [FIRST, THIRD], id="the last four characters of two secrets"),
        pytest.param("key_", [FIRST, SECOND, THIRD], id="a beginning and an end alike"),
        pytest.param("sk-...wxyz", [FIRST, THIRD], id="a secret as lists show it"),
        pytest.param("xyz", [], id="less than four characters"),
        pytest.param("", [], id="nothing"),
        pytest.param("***", [], id="what hides a short secret"),
    ],
)
def test_matching(words: str, expected: list[Candidate]) -> None:
    """An id decides; else beginnings of ids and ends of secrets count alike."""
    assert matching(words, ALL) == expected


def test_short_secrets_cannot_be_picked_by_their_hidden_form() -> None:
    """A secret too short to be shown is known by its id and its end only."""
    short = candidate(key("sk-12345"))

    assert matching("***", [short]) == []
    assert matching("2345", [short]) == [short]


def test_client_keys_are_known_by_what_is_kept_of_them() -> None:
    """Of a client key only the ends are known, and they do."""
    record = ClientKeyRecord(id="client_1", key_hash="0", shown="km-...abcd")

    assert matching("abcd", [candidate(record)]) == [candidate(record)]
