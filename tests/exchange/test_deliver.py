"""When a client hears something, and what its headers say."""

import pytest

from keymux.core import faults
from keymux.core.records import Outcome
from keymux.settings import Timeouts
from tests.exchange.rig import (
    ANTHROPIC_PATH,
    DONE,
    USAGE,
    House,
    Script,
    ScriptedAnswer,
    Visitor,
    asked,
    event,
    plain_answer,
    stream_of,
)

COMMENT = b": waiting for the upstream\n\n"
STALLED = b'"code":"stream_stalled"}}\n\n'
PATIENT = Timeouts(early_commit_s=25, keep_alive_s=15, first_event_s=300)


@pytest.mark.parametrize(
    ("seconds", "comments"),
    [
        pytest.param(24.1, 0, id="just in time"),
        pytest.param(30.1, 1, id="after the head had to go out"),
        pytest.param(45.1, 2, id="one more fifteen seconds later"),
        pytest.param(120.1, 7, id="and so on"),
    ],
)
def test_silence_is_broken_in_time(seconds: float, comments: int) -> None:
    """The head is held for 25 s, then a comment goes out every 15 s until the answer comes."""
    stream = stream_of(seconds, event("He"), USAGE, DONE)
    house = House(stream, timeouts=PATIENT)
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body == COMMENT * comments + event("He") + DONE
    assert ("x-keymux-provider" in visitor.headers) is (comments == 0)
    assert visitor.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    ("stream", "end"),
    [
        pytest.param(
            stream_of(24.0, event("He"), USAGE, DONE), DONE, id="when the first event comes"
        ),
        pytest.param(
            stream_of(event("He"), 200.0),
            b'"code":"stream_stalled"}}\n\n',
            id="when it is too late",
        ),
    ],
)
def test_no_comment_follows_the_end(stream: ScriptedAnswer, end: bytes) -> None:
    """Not even one that falls due in the moment in which something else happens."""
    house = House(stream, timeouts=Timeouts(early_commit_s=25, keep_alive_s=15), keys=("a",))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body.endswith(end)
    assert visitor.is_finished


def test_a_pause_within_the_stream_is_filled() -> None:
    """Between two events; the clock begins anew with each."""
    stream = stream_of(event("He"), 10.0, event("l"), 31.0, event("lo"), USAGE, DONE)
    house = House(stream, timeouts=PATIENT)
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.body == (event("He") + event("l") + COMMENT * 2 + event("lo") + DONE)


def test_who_asked_for_no_stream_hears_nothing() -> None:
    """A comment would be no JSON."""
    answer = plain_answer()
    answer._steps.insert(0, 100.0)
    house = House(answer, timeouts=PATIENT)
    visitor = house.visit(Visitor(asked()))

    assert visitor.json()["object"] == "chat.completion"


def test_a_fault_after_the_head_is_told_in_the_stream() -> None:
    """With the code that a status would have stood for; the row says failed and 200."""
    house = House(stream_of(40.0), timeouts=PATIENT, keys=("a",))
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert visitor.status == 200
    assert visitor.body.startswith(COMMENT)
    assert b'"code":"upstream_empty"' in visitor.body
    assert (row.outcome, row.status) == (Outcome.FAILED, 200)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(faults.Truncated(), id="a cut"),
        pytest.param(60.0, id="silence"),
        pytest.param(event("more"), id="more"),
    ],
)
def test_what_comes_after_the_end_changes_nothing(after: bytes | float | BaseException) -> None:
    """The client has its answer, and nobody is blamed."""
    house = House(stream_of(event("He"), USAGE, DONE, after))
    visitor = house.visit(Visitor(asked(stream=True)))

    assert visitor.is_finished
    assert house.book.rows[0].outcome is Outcome.OK
    assert house.world.changes == []


def test_without_an_id_of_the_upstream_there_is_ours() -> None:
    """The SDK shows it to whoever reports a problem."""
    answer = plain_answer()
    answer.request_id = ""
    visitor = House(answer).visit(Visitor(asked()))

    assert visitor.headers["x-request-id"] == visitor.headers["x-keymux-request-id"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param(200.0, "upstream_timeout", id="no head"),
        pytest.param(stream_of(200.0), "upstream_timeout", id="no event"),
        pytest.param(stream_of(0.1, event("He"), 200.0), "stream_stalled", id="no other event"),
    ],
)
def test_an_upstream_that_is_late_is_given_up(script: Script, code: str) -> None:
    """After 120 s by default, with the fault that says what was late."""
    house = House(script, keys=("a",), timeouts=Timeouts())
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert row.fault == code
    assert code.encode() in visitor.body
    assert 1120.0 <= house.clock.now < 1121.0


def test_the_name_of_the_id_is_that_of_the_format() -> None:
    """Anthropic's SDK reads another header."""
    house = House(faults.RequestRefused())
    visitor = house.visit(Visitor(asked()), path=ANTHROPIC_PATH)

    assert visitor.headers["request-id"] == visitor.headers["x-keymux-request-id"]
    assert "x-request-id" not in visitor.headers
