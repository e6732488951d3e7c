"""What counts as the beginning of an answer, and what becomes of one that never begins."""

import pytest

from keymux.core import faults
from keymux.core.records import Outcome
from keymux.core.vocabulary import Quality
from keymux.exchange.peek import PEEK_BYTES
from keymux.settings import Limits
from tests.exchange.rig import (
    DONE,
    USAGE,
    House,
    ScriptedAnswer,
    Visitor,
    asked,
    event,
    plain_answer,
    stream_of,
)

ROLE = event(None, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
PLAIN_ERROR = b'{"error": {"message": "no"}}'
ERROR = b'data: {"error": {"message": "Overloaded", "type": "overloaded_error"}}\n\n'


def _outcomes(house: House) -> list[str]:
    return [attempt.outcome for attempt in house.book.rows[0].attempts]


@pytest.mark.parametrize(
    ("first", "fault"),
    [
        pytest.param(stream_of(ERROR), "upstream_overloaded", id="an error event"),
        pytest.param(stream_of(ROLE, ERROR), "upstream_overloaded", id="one after the preamble"),
        pytest.param(stream_of(), "upstream_empty", id="nothing"),
        pytest.param(stream_of(b": hello\n\n"), "upstream_empty", id="a comment"),
        pytest.param(stream_of(ROLE), "upstream_empty", id="a preamble"),
        pytest.param(stream_of(event("He")[:-1]), "upstream_empty", id="half an event"),
        pytest.param(
            ScriptedAnswer(b"<html>", content_type="text/html"),
            "upstream_unintelligible",
            id="a page",
        ),
        pytest.param(plain_answer(), "upstream_unintelligible", id="a plain answer"),
        pytest.param(
            ScriptedAnswer(PLAIN_ERROR),
            "upstream_overloaded",
            id="a plain error",
        ),
        pytest.param(stream_of(faults.Truncated()), "upstream_truncated", id="a cut"),
    ],
)
def test_a_stream_that_has_not_begun_can_be_thrown_away(first: ScriptedAnswer, fault: str) -> None:
    """Nothing of it reached the client, so where the table allows it another attempt is made."""
    house = House(first, stream_of(event("Hi"), USAGE, DONE), stream_of(event("Hi"), USAGE, DONE))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert _outcomes(house)[0] == fault
    if len(_outcomes(house)) > 1:
        assert visitor.body == event("Hi") + DONE
    else:
        assert visitor.status >= 500


def test_what_was_held_back_comes_first() -> None:
    """The preamble is not lost: it is sent with the first words."""
    house = House(stream_of(ROLE, event("He"), event("llo"), USAGE, DONE))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body == ROLE + event("He") + event("llo") + DONE


def test_a_preamble_without_end_is_let_through() -> None:
    """Only so much is held back; then it counts as begun."""
    many = ROLE * (PEEK_BYTES // len(ROLE) + 1)
    house = House(stream_of(many, ERROR))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.status == 200
    assert visitor.body.startswith(ROLE)
    assert house.book.rows[0].outcome is Outcome.CUT


def test_an_event_may_come_in_any_pieces() -> None:
    """Whole events are passed on, never parts."""
    whole = event("He") + event("llo") + USAGE + DONE
    house = House(stream_of(*(whole[at : at + 1] for at in range(len(whole)))))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body == event("He") + event("llo") + DONE


def test_what_follows_the_end_marker_is_not_passed_on() -> None:
    """An upstream's second thoughts are none of the answer."""
    house = House(stream_of(event("He"), USAGE, DONE + event("more"), event("and more")))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body == event("He") + DONE
    assert house.book.rows[0].outcome is Outcome.OK


def test_an_event_that_is_too_large_breaks_the_stream() -> None:
    """The memory of one stream is bounded."""
    house = House(stream_of(event("He"), b"data: " + b"x" * 5000), limits=Limits(event_bytes=1000))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert b"too large" in visitor.body
    assert house.book.rows[0].fault == "stream_broken"


def test_an_error_within_the_stream_is_passed_on_once() -> None:
    """It is the last event; the row names what the provider meant."""
    house = House(stream_of(event("He"), ERROR, event("never")))
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert visitor.body == event("He") + ERROR
    assert (row.outcome, row.quality) == (Outcome.CUT, Quality.PARTIAL)


def test_a_client_that_asked_for_usage_gets_it() -> None:
    """Nothing is taken out for whom nothing was put in."""
    house = House(stream_of(event("He"), USAGE, DONE))
    body = asked(stream=True, stream_options={"include_usage": True})
    visitor = house.visit(Visitor(body))

    assert visitor.body == event("He") + USAGE + DONE


@pytest.mark.parametrize(
    ("answer", "fault", "status"),
    [
        pytest.param(ScriptedAnswer(b'{"id": "1", "cho'), "upstream_truncated", 502, id="half"),
        pytest.param(ScriptedAnswer(b"hello"), "upstream_unintelligible", 502, id="no JSON"),
        pytest.param(stream_of(event("He")), "upstream_unintelligible", 502, id="a stream"),
        pytest.param(
            ScriptedAnswer(PLAIN_ERROR),
            "upstream_overloaded",
            503,
            id="an error",
        ),
        pytest.param(
            ScriptedAnswer(b'{"type": "error", "error": null}'),
            "upstream_overloaded",
            503,
            id="an error by its type",
        ),
    ],
)
def test_a_plain_answer_has_to_be_one(answer: ScriptedAnswer, fault: str, status: int) -> None:
    """What is no answer of the API is not passed on as one."""
    house = House(answer, keys=("a",))
    visitor = house.visit(Visitor(asked()))

    assert visitor.status == status
    assert house.book.rows[0].fault == fault


def test_without_usage_there_is_an_estimate() -> None:
    """From the length of prompt and answer, and marked so."""
    house = House(plain_answer(usage=None))
    house.visit(Visitor(asked()))
    (row,) = house.book.rows

    assert row.quality is Quality.ESTIMATED
    assert row.usage.input > 0
    assert row.usage.output > 0
