"""Names for new things sort by time and do not repeat."""

import re

import pytest

from keymux.ids import LAST_MOMENT, ExchangeIds, client_key, first_id_at, record_id


def test_exchange_ids_do_not_repeat() -> None:
    """Also within a millisecond and across processes: the rest of an id is random."""
    made = [ids.next() for ids in (ExchangeIds(), ExchangeIds()) for _ in range(20_000)]

    assert len(set(made)) == 40_000
    assert all(re.fullmatch(r"req_[0-9a-f]{28}", name) for name in made)


def test_exchange_ids_sort_by_time() -> None:
    """What is made later sorts later, to the millisecond."""
    ids = ExchangeIds()
    moments = [int(ids.next()[4:16], 16) for _ in range(5000)]

    assert moments == sorted(moments)
    assert moments[0] > 1_700_000_000_000


@pytest.mark.parametrize("moment", [0, 1, 1_763_000_000_000, LAST_MOMENT])
def test_times_are_ranges_of_ids(moment: int) -> None:
    """Every id of a moment lies between the first of it and the first of the next."""
    lowest, highest = (f"req_{moment:012x}{rest:016x}" for rest in (0, 2**64 - 1))

    assert first_id_at(moment) < lowest < highest
    assert moment == LAST_MOMENT or highest < first_id_at(moment + 1)


def test_record_ids_say_what_they_name() -> None:
    """A word, then digits that do not repeat."""
    made = {record_id("key") for _ in range(1000)}

    assert len(made) == 1000
    assert all(re.fullmatch(r"key_[0-9a-f]{20}", name) for name in made)


def test_client_keys_cannot_be_guessed() -> None:
    """Forty random letters and digits behind the mark by which leaked keys are found."""
    made = {client_key() for _ in range(1000)}

    assert len(made) == 1000
    assert all(re.fullmatch(r"km-[A-Za-z0-9]{40}", name) for name in made)
    assert len({letter for name in made for letter in name[3:]}) == 62
