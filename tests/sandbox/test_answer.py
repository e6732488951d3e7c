"""An answer's steps carry its bytes, whatever the framing and wherever they are cut."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.sandbox.answer import (
    LAST_CHUNK,
    Answer,
    Close,
    Framing,
    Pace,
    Pause,
    Send,
    Step,
    byte_by_byte,
    cut,
    deliver,
    sliced,
)

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6).map(tuple)
FRAMINGS = st.sampled_from(Framing)


def _steps(pieces: tuple[bytes, ...], framing: Framing, *, early: bool = False) -> Iterator[Step]:
    answer = Answer(200, (("x-a", "b"),), pieces, preamble=1)
    return deliver(answer, Pace(0.5, 0.25, early), framing, closing=False)


def _sends(steps: Iterable[Step]) -> list[Send]:
    return [step for step in steps if isinstance(step, Send)]


def _wire(steps: Iterable[Step]) -> bytes:
    return b"".join(step.before + step.body + step.after for step in _sends(steps))


def _body(steps: Iterable[Step]) -> bytes:
    return b"".join(step.body for step in _sends(steps))


def test_a_stream_in_chunks() -> None:
    """Head with the first event, a chunk for each, the last chunk at the end."""
    assert list(_steps((b"one", b"twenty-characters---"), Framing.CHUNKED)) == [
        Pause(0.5),
        Send(
            b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\n",
            b"one",
            b"\r\n",
            200,
        ),
        Pause(0.25),
        Send(b"14\r\n", b"twenty-characters---", b"\r\n"),
        Send(after=LAST_CHUNK),
    ]


def test_an_early_head_comes_before_the_first_wait() -> None:
    """The status is known while the events are still awaited."""
    first, second, *_ = _steps((b"one",), Framing.CLOSE, early=True)

    assert (first, second) == (
        Send(b"HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\n\r\n", status=200),
        Pause(0.5),
    )


def test_a_plain_answer_is_one_write() -> None:
    """Head and body together, and nothing else."""
    answer = Answer(529, (), (b"{}",))

    assert list(deliver(answer, Pace(), Framing.LENGTH, closing=True)) == [
        Send(
            b"HTTP/1.1 529 Unknown\r\ncontent-length: 2\r\nconnection: close\r\n\r\n",
            b"{}",
            b"",
            529,
        )
    ]


def test_a_plain_answer_may_have_an_early_head() -> None:
    """The body follows after the wait, in a write of its own."""
    answer = Answer(200, (), (b"{}",))

    assert list(
        deliver(answer, Pace(0.5, 0.0, early_head=True), Framing.LENGTH, closing=False)
    ) == [
        Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", status=200),
        Pause(0.5),
        Send(body=b"{}"),
    ]


@given(PIECES, FRAMINGS, st.integers(min_value=0, max_value=300))
def test_a_cut_keeps_what_comes_before_it(
    pieces: tuple[bytes, ...], framing: Framing, after: int
) -> None:
    """The body up to that byte, the head in any case, and never an end."""
    whole = _wire(_steps(pieces, framing))
    steps = list(cut(_steps(pieces, framing), after))

    assert _body(steps) == b"".join(pieces)[:after]
    assert whole.startswith(_wire(steps))
    assert [step.status for step in _sends(steps)].count(200) == 1
    assert LAST_CHUNK not in [step.after for step in _sends(steps)]
    assert Close() not in steps


@given(PIECES, FRAMINGS, st.integers(min_value=1, max_value=50))
def test_slices_are_the_same_bytes(pieces: tuple[bytes, ...], framing: Framing, size: int) -> None:
    """In writes of no more than the size."""
    steps = list(sliced(_steps(pieces, framing), size))

    assert _wire(steps) == _wire(_steps(pieces, framing))
    assert _body(steps) == b"".join(pieces)
    assert all(len(step.body) <= size for step in _sends(steps))


@given(PIECES, FRAMINGS)
def test_single_bytes_are_the_same_bytes(pieces: tuple[bytes, ...], framing: Framing) -> None:
    """One for each write, and the body is still known from the framing."""
    steps = list(byte_by_byte(_steps(pieces, framing), 0.0))

    assert _wire(steps) == _wire(_steps(pieces, framing))
    assert _body(steps) == b"".join(pieces)
    assert {len(step.before + step.body + step.after) for step in _sends(steps)} == {1}


@pytest.mark.parametrize("framing", [Framing.CHUNKED, Framing.LENGTH])
def test_only_close_framing_closes(framing: Framing) -> None:
    """The others leave the connection to the next request."""
    assert Close() not in list(_steps((b"one",), framing))
    assert list(_steps((b"one",), Framing.CLOSE))[-1] == Close()
