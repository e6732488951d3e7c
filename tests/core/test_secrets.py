"""What may be known of a secret."""

import pytest

from keymux.core.secrets import hash_of, shown


def test_the_hash_is_the_one_every_tool_makes() -> None:
    """So that an operator can look a key up with ``sha256sum``."""
    assert hash_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        pytest.param("sk-1234567890", "sk-...7890", id="the ends of a long one"),
        pytest.param("123456789012", "123...9012", id="twelve letters are long enough"),
        pytest.param("12345678901", "***", id="eleven are not"),
        pytest.param("", "***", id="nothing"),
    ],
)
def test_people_see_the_ends_only(secret: str, expected: str) -> None:
    """Of a short secret they would be too much of it."""
    assert shown(secret) == expected
