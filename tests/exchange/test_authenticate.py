"""A client key in, a caller out."""

import pytest

from keymux.core.faults import NotRecognised
from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of
from keymux.exchange.authenticate import Doorkeeper, authenticate


def _doorkeeper(*records: ClientKeyRecord) -> Doorkeeper:
    doorkeeper = Doorkeeper()
    doorkeeper.replace_all(records)
    return doorkeeper


def _record(secret: str, **changes: object) -> ClientKeyRecord:
    given = {"id": f"client_{secret}", "key_hash": hash_of(secret), "shown": "km-...", **changes}
    return ClientKeyRecord(**given)  # type: ignore[arg-type]  # -- some are changed


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(["a"], id="alone"),
        pytest.param(["nobody", "a"], id="after one that is not"),
    ],
)
def test_a_key_is_its_caller(shown: list[str]) -> None:
    """With its label and the models it may use."""
    doorkeeper = _doorkeeper(_record("a", label="team", models=("m",)))
    caller = authenticate(shown, doorkeeper)

    assert (caller.id, caller.label, caller.models) == ("client_a", "team", ("m",))


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        pytest.param([], "is missing", id="none"),
        pytest.param(["nobody"], "is not valid", id="an unknown one"),
        pytest.param(["revoked"], "is not valid", id="a revoked one"),
        pytest.param([hash_of("a")], "is not valid", id="the hash of a good one"),
    ],
)
def test_everybody_else_stays_outside(shown: list[str], words: str) -> None:
    """And learns how to get in, but not whether the key ever was one."""
    doorkeeper = _doorkeeper(_record("a"), _record("revoked", revoked_at=1))

    with pytest.raises(NotRecognised, match=words):
        authenticate(shown, doorkeeper)


def test_keys_are_replaced_all_at_once() -> None:
    """Who is not in the new list is out."""
    doorkeeper = _doorkeeper(_record("a"))
    doorkeeper.replace_all([_record("b")])

    assert doorkeeper.find("a") is None
    assert doorkeeper.find("b") is not None
