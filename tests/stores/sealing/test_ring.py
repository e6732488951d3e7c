"""The text of a key ring: what is accepted, and how it turns."""

import json
from base64 import b64encode

import pytest

from keymux.stores.sealing.ring import BadRing, KeyRing, new_ring, parse

KEY = b64encode(bytes(range(32))).decode()


def _text(**changes: object) -> str:
    return json.dumps({"current": "k1", "keys": {"k1": KEY, "k2": KEY}, **changes})


def test_a_ring_is_read_as_it_was_written() -> None:
    """With everything that a rotation has noted in it."""
    ring = new_ring().with_next()

    assert parse(ring.text()) == ring
    assert parse(ring.turned().text()) == ring.turned()


def test_a_new_ring_has_a_key_that_nobody_else_has() -> None:
    """32 random bytes, and a name of its own."""
    one, other = new_ring(), new_ring()

    assert [len(key) for key in one.keys.values()] == [32]
    assert one.current != other.current
    assert set(one.keys.values()).isdisjoint(other.keys.values())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "not JSON", id="nothing at all"),
        pytest.param("[" * 100_000, "not JSON", id="a nest without end"),
        pytest.param("[]", "no key ring", id="a list"),
        pytest.param('{"current": "k1"}', "no key ring", id="no keys"),
        pytest.param(_text(current="k3"), "current key", id="a current key that is not there"),
        pytest.param(_text(current=None), "current key", id="no current key"),
        pytest.param(_text(next="k3"), "next key", id="a next key that is not there"),
        pytest.param(_text(keys={"k1": KEY[:40]}), "k1 that is not 32", id="a short key"),
        pytest.param(_text(keys={"k1": 7}), "k1 that is not 32", id="a number for a key"),
        pytest.param(_text(keys={"k1": "*" * 44}), "k1 that is not 32", id="no base64"),
        pytest.param(_text(keys={"k:1": KEY}), "odd letters", id="a colon in a key id"),
        pytest.param(_text(keys={"k" * 33: KEY}), "odd letters", id="a long key id"),
        pytest.param(_text(expires=1), "does not know", id="a field of a newer keymux"),
    ],
)
def test_what_is_no_ring_is_refused(text: str, why: str) -> None:
    """With the reason, and without anything of the keys."""
    with pytest.raises(BadRing, match=why) as caught:
        parse(text)

    assert KEY[:8] not in str(caught.value)


def test_a_ring_turns_to_its_next_key_and_lets_the_old_one_go() -> None:
    """Both keys are in it until nothing is sealed with the old one."""
    first = new_ring()
    ready = first.with_next()
    turned = ready.turned()
    done = turned.without({first.current})

    assert ready.current == first.current
    assert (turned.current, turned.next, turned.rotating) == (ready.next, "", True)
    assert turned.keys == ready.keys
    assert (list(done.keys), done.current, done.rotating) == ([ready.next], ready.next, False)


def test_a_ring_shows_nothing_of_its_keys() -> None:
    """Not in a traceback or a log either."""
    ring = KeyRing("k1", {"k1": b"0123456789abcdef0123456789abcdef"})

    assert repr(ring) == f"{ring}" == "<KeyRing k1 of 1>"
