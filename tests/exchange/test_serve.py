"""Whatever happens to an exchange: one answer, one row, and everything given back."""

import pytest

from keymux.core import faults
from keymux.core.faults import Fault, LedgerFull, UpstreamFault
from keymux.core.records import Outcome
from keymux.core.vocabulary import Quality
from keymux.settings import Limits, Timeouts
from tests.exchange.rig import (
    ANTHROPIC_PATH,
    DONE,
    OPENAI_PATH,
    USAGE,
    House,
    Script,
    Visitor,
    asked,
    event,
    plain_answer,
    stream_of,
)


def _check_given_back(house: House) -> None:
    """No lease, no place, no watch, no open connection stays."""
    assert house.world.leasing.lent == 0
    assert house.admission.running == 0
    assert not house.watch.running
    assert not any(ask.is_open for ask in house.upstreams.asks)


def test_a_plain_answer_goes_through() -> None:
    """The upstream's bytes, its id, and a row with its figures."""
    house = House(plain_answer())
    visitor = house.visit(Visitor(asked()))
    (row,) = house.book.rows

    assert (visitor.status, visitor.is_finished) == (200, True)
    assert visitor.json()["choices"][0]["message"]["content"] == "Hello"
    assert visitor.headers["x-request-id"] == "req_upstream"
    assert (row.outcome, row.usage.input, row.usage.output) == (Outcome.OK, 3, 5)
    assert row.cost_micros == 8000
    _check_given_back(house)


def test_a_stream_goes_through() -> None:
    """Event by event, without the usage that only we asked for."""
    house = House(stream_of(event("He"), event("llo"), USAGE, DONE))
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert visitor.body == event("He") + event("llo") + DONE
    assert (row.outcome, row.quality) == (Outcome.OK, Quality.FINAL)
    assert (row.usage.input, row.usage.output) == (3, 5)
    _check_given_back(house)


def test_what_was_admitted_is_reserved_before_it_is_sent() -> None:
    """A crash between the two loses nothing: the journal knows both."""
    house = House(plain_answer())
    house.visit(Visitor(asked()))
    (reservation,), (attempt,), (row,) = house.book.reserved, house.book.begun, house.book.rows

    assert reservation.id == attempt.id == row.id
    assert reservation.prompt_tokens > 0
    assert (reservation.bound_micros or 0) >= 100 * 1000
    assert attempt.attempt.outcome == "started"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param(OPENAI_PATH, 503, id="OpenAI"),
        pytest.param(ANTHROPIC_PATH, 529, id="Anthropic"),
    ],
)
def test_without_a_book_nothing_is_sent(path: str, status: int) -> None:
    """What could not be booked is refused, with the time to come back, and leaves no row."""
    house = House(plain_answer())
    house.book.full = LedgerFull(retry_after=5.0)
    visitor = house.visit(Visitor(asked()), path=path)

    assert visitor.status == status
    assert visitor.headers["retry-after"] == "5"
    assert visitor.headers["x-should-retry"] == "true"
    assert house.upstreams.asked == []
    assert house.book.rows == []
    _check_given_back(house)


def test_a_defect_is_an_answer_too() -> None:
    """The client is told an id, the operator the traceback; the row says internal."""
    house = House()
    visitor = house.visit(Visitor(asked()))
    ((where, trace),) = house.reports

    assert visitor.status == 500
    assert where in visitor.json()["error"]["message"]
    assert "IndexError" in trace
    assert "IndexError" not in visitor.body.decode()
    assert house.book.rows[0].fault == "internal"
    _check_given_back(house)


def test_a_stranger_gets_no_row() -> None:
    """A refusal without a caller is counted and not booked."""
    house = House()
    visitor = house.visit(Visitor(asked()), authorization="Bearer nobody")

    assert visitor.status == 401
    assert house.turned_away == [("openai", "invalid_client_key")]
    assert house.book.rows == []


def test_one_too_many_is_refused_at_once() -> None:
    """The other goes on, and the refusal says when to come back."""
    house = House(stream_of(1.0, event("He"), DONE), limits=Limits(exchanges=1))
    first, second = Visitor(asked(stream=True)), Visitor(asked())
    house.visit(first, second)

    assert first.status == 200
    assert second.status == 503
    assert second.json()["error"]["code"] == "overloaded"
    assert second.headers["x-should-retry"] == "true"
    _check_given_back(house)


def test_a_draining_process_takes_nothing() -> None:
    """Another process, or this one when it is back, will."""
    house = House(plain_answer())
    house.admission.is_draining = True
    visitor = house.visit(Visitor(asked()))

    assert visitor.status == 503
    assert visitor.json()["error"]["code"] == "draining"
    assert visitor.headers["retry-after"] == "1"
    assert house.upstreams.asked == []
    assert house.book.rows[0].outcome is Outcome.REFUSED


FAULTS: list[tuple[Fault, int]] = [
    (faults.Unreachable(), 1),
    (faults.NoReply(), 2),
    (faults.ServerFailed(), 2),
    (faults.RequestRefused(), 1),
    (faults.KeyRejected(), 3),
    (faults.Truncated(), 1),
    (faults.EmptyReply(), 2),
]


@pytest.mark.parametrize(
    ("fault", "attempts"), [pytest.param(*case, id=type(case[0]).code) for case in FAULTS]
)
def test_every_attempt_is_in_the_row(fault: UpstreamFault, attempts: int) -> None:
    """As many as the table allows, each with its fault; all leases are given back."""
    house = House(*([fault] * 8))
    visitor = house.visit(Visitor(asked()))
    (row,) = house.book.rows

    assert row.outcome is Outcome.FAILED
    assert [attempt.outcome for attempt in row.attempts] == [fault.code] * attempts
    assert visitor.headers["x-keymux-attempts"] == str(attempts)
    assert len(house.book.begun) == attempts
    _check_given_back(house)


def test_the_second_key_saves_it() -> None:
    """The client sees nothing of the first attempt but its number."""
    house = House(faults.KeyThrottled(told=30.0), plain_answer())
    visitor = house.visit(Visitor(asked()))
    (row,) = house.book.rows

    assert visitor.status == 200
    assert visitor.headers["x-keymux-attempts"] == "2"
    assert [attempt.outcome for attempt in row.attempts] == ["key_throttled", "ok"]
    assert len({attempt.key for attempt in row.attempts}) == 2


LEAVING: list[tuple[str, Script]] = [
    ("before the answer", 60.0),
    ("between two events", stream_of(event("He"), 60.0, DONE)),
    ("before the first event", stream_of(60.0, event("He"))),
]


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in LEAVING])
def test_a_client_that_leaves_ends_it(script: Script) -> None:
    """Nobody is blamed, the connection is closed, and what was used is booked."""
    house = House(script)
    visitor = house.visit(Visitor(asked(stream=True), leaves_s=1.0))
    (row,) = house.book.rows

    assert not visitor.is_finished
    assert (row.outcome, row.fault) == (Outcome.CLIENT_GONE, "client_gone")
    assert house.world.changes == []
    assert house.clock.now < 1005.0
    _check_given_back(house)


def test_a_client_that_leaves_with_everything_has_been_served() -> None:
    """What comes after the end marker is read without it, and is no part of the exchange."""
    house = House(stream_of(event("He"), USAGE, DONE, 3.0))
    visitor = house.visit(Visitor(asked(stream=True), leaves_s=1.0))

    assert visitor.is_finished
    assert house.book.rows[0].outcome is Outcome.OK
    assert house.clock.now >= 1003.0
    _check_given_back(house)


def test_an_upstream_that_never_ends_is_left_after_the_end_marker() -> None:
    """The connection is closed instead of kept; the client has had its answer long since."""
    house = House(stream_of(event("He"), USAGE, DONE, 600.0))
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert visitor.is_finished
    assert (row.outcome, row.quality) == (Outcome.OK, Quality.FINAL)
    assert house.upstreams.asks[0].is_closed
    assert house.clock.now < 1010.0


def test_a_client_that_takes_nothing_is_given_up() -> None:
    """After the time a write may take; what the upstream has said is booked."""
    house = House(stream_of(event("He"), event("llo"), DONE), timeouts=Timeouts(client_write_s=5))
    visitor = Visitor(asked(stream=True))
    visitor.slow_s = 60.0
    house.visit(visitor)
    (row,) = house.book.rows

    assert (row.outcome, row.fault) == (Outcome.CLIENT_GONE, "client_stalled")
    assert row.quality is Quality.PARTIAL
    assert house.clock.now < 1010.0
    _check_given_back(house)


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        pytest.param("30", 1030.0, id="less than we would give"),
        pytest.param("99999", 1600.0, id="more than we give"),
        pytest.param("soon", 1600.0, id="no number"),
        pytest.param("-1", 1600.0, id="a negative number"),
        pytest.param("0", 1600.0, id="nothing"),
        pytest.param("nan", 1600.0, id="not a number"),
    ],
)
def test_a_client_says_how_long_it_waits(told: str, ends: float) -> None:
    """Its time counts if it is shorter than ours; what makes no sense is not read."""
    house = House(2000.0)
    visitor = house.visit(Visitor(asked()), x_request_timeout=told)

    assert visitor.status == 504
    assert visitor.json()["error"]["code"] == "deadline_reached"
    assert ends <= house.clock.now < ends + 1
    _check_given_back(house)


def test_a_failure_after_the_first_event_is_not_retried() -> None:
    """The stream ends with an error event; the row is cut and partial."""
    house = House(stream_of(event("He"), faults.Truncated()), plain_answer())
    visitor = house.visit(Visitor(asked(stream=True)))
    (row,) = house.book.rows

    assert visitor.body.startswith(event("He"))
    assert b'"error":' in visitor.body
    assert visitor.is_finished
    assert (row.outcome, row.quality) == (Outcome.CUT, Quality.PARTIAL)
    assert len(house.upstreams.asked) == 1
    _check_given_back(house)
