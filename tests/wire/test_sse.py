"""Server-sent events, cut anywhere and ended by any newline."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.wire.sse import Event, Framer, OversizedEvent, end_of_event, parse, split, written

LIMIT = 1024
LINES = [
    b"data: one",
    b"data:two",
    b"data:  three",
    b"data",
    b'data: {"text": "a: b"}',
    b"data: \xff\xfe",
    b"data:\xf0\x9f\x8c\x8a",
    b"event: ping",
    b"event:error",
    b"event",
    b"id: 7",
    b"retry: 10",
    b": comment",
    b":",
    b"odd: field",
    b"dat: a",
    b" data: indented",
    b"",
    b"",
]

streams = st.lists(
    st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=20
).map(lambda lines: b"".join(line + end for line, end in lines))
cuts = st.lists(st.integers(0, 400), max_size=12)


def pieces(stream: bytes, at: list[int]) -> list[bytes]:
    """A stream, cut at some places."""
    places = sorted({0, *(place for place in at if place < len(stream)), len(stream)})
    return [stream[start:end] for start, end in pairwise(places)]


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Names and data as the standard has them: line by line, a blank line sends."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[tuple[bytes, bytes]] = []
    name, data = b"", b""
    for line in lines.split(b"\n")[:-1]:
        field, colon, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if not line:
            found += [(name, data[:-1])] * bool(data)
            name, data = b"", b""
        elif field == b"data":
            data += value + b"\n"
        elif field == b"event" and (colon or line):
            name = value
    return found


def ours(blocks: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The same, as keymux reads blocks of whole events."""
    events = [parse(event) for block in blocks for event in split(block)]
    return [(event.name, event.data) for event in events if event.data]


def with_data(events: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that say something."""
    return [event for event in events if event[1]]


def framed(chunks: list[bytes]) -> tuple[list[bytes], int]:
    """What a framer lets pass of some chunks, and how many bytes it holds at the end."""
    framer = Framer(LIMIT)
    return [framer.feed(chunk) for chunk in chunks], framer.held


@given(streams)
def test_a_stream_is_read_as_the_standard_says(stream: bytes) -> None:
    """Any mix of newlines, fields, comments and blank lines."""
    blocks, _ = framed([stream])

    assert ours(blocks) == with_data(reference(stream))


@given(streams, cuts)
def test_it_does_not_matter_where_a_stream_is_cut(stream: bytes, at: list[int]) -> None:
    """The events are those of the whole stream."""
    blocks, _ = framed(pieces(stream, at))

    assert ours(blocks) == with_data(reference(stream))


@given(streams, cuts)
def test_no_byte_is_changed_lost_or_added(stream: bytes, at: list[int]) -> None:
    """What passed and what is held is what came."""
    blocks, held = framed(pieces(stream, at))
    passed = b"".join(blocks)

    assert stream.startswith(passed)
    assert len(passed) + held == len(stream)


@given(streams, cuts)
def test_an_event_of_our_own_fits_between_any_two_blocks(stream: bytes, at: list[int]) -> None:
    """A comment sent in a pause never ends up inside an event."""
    blocks, _ = framed(pieces(stream, at))
    joined = b": waiting\n\n".join(block for block in blocks if block)

    assert reference(joined) == reference(b"".join(blocks))


@given(streams)
def test_cutting_at_every_byte_makes_no_difference(stream: bytes) -> None:
    """One byte at a time is the worst a network can do."""
    blocks, _ = framed([stream[place : place + 1] for place in range(len(stream))])

    assert ours(blocks) == with_data(reference(stream))


@given(streams, cuts)
def test_splitting_a_block_loses_nothing(stream: bytes, at: list[int]) -> None:
    """The events of a block, put together again, are the block."""
    blocks, _ = framed(pieces(stream, at))

    assert all(b"".join(split(block)) == block for block in blocks)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(b"\n\n", id="two line feeds"),
        pytest.param(b"\r\r", id="two carriage returns"),
        pytest.param(b"\r\n\r\n", id="two of both"),
        pytest.param(b"\n\r\n", id="one, then both"),
        pytest.param(b"\r\n\n", id="both, then one"),
        pytest.param(b"\n\r", id="one of each"),
        pytest.param(b"\r\r\n", id="a return, then both"),
    ],
)
def test_every_blank_line_ends_an_event(end: bytes) -> None:
    """An event passes as soon as its blank line is there, and not before."""
    framer = Framer(LIMIT)
    before = framer.feed(b"data: x" + end[:1])
    after = framer.feed(end[1:] + b"data: y")

    assert (before, after) == (b"", b"data: x" + end)
    assert framer.held == len(b"data: y")


def test_a_newline_cut_in_two_ends_one_line() -> None:
    """The second half of a carriage return and line feed is no blank line of its own."""
    framer = Framer(LIMIT)
    blocks = [framer.feed(part) for part in (b"data: x\r", b"\n", b"\r", b"\ndata: y\n", b"\n")]

    assert b"".join(blocks) == b"data: x\r\n\r\ndata: y\n\n"
    assert ours(blocks) == [(b"", b"x"), (b"", b"y")]


@pytest.mark.parametrize(
    ("size", "is_too_long"),
    [pytest.param(LIMIT, False, id="at the limit"), pytest.param(LIMIT + 1, True, id="over it")],
)
def test_an_unfinished_event_has_a_limit(size: int, *, is_too_long: bool) -> None:
    """However small the parts it comes in."""
    framer = Framer(LIMIT)
    for _ in range(size - 1):
        framer.feed(b"x")

    if is_too_long:
        with pytest.raises(OversizedEvent):
            framer.feed(b"x")
    else:
        assert framer.feed(b"x") == b""


def test_the_limit_is_not_for_what_is_finished() -> None:
    """A large block of small events passes, and so does an event that ends at once."""
    framer = Framer(10)
    block = b"data: 0123456789\n\n" * 5

    assert framer.feed(block) == block
    assert framer.feed(block + b"data: 01") == block


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(b"data: a\ndata: b\n\n", Event(b"", b"a\nb"), id="lines are joined"),
        pytest.param(b"data:a\n\n", Event(b"", b"a"), id="the space may be missing"),
        pytest.param(b"data:  a\n\n", Event(b"", b" a"), id="only one space is taken"),
        pytest.param(b"data\n\n", Event(b"", b""), id="a field may have no colon"),
        pytest.param(b"event: a\nevent: b\ndata: x\n\n", Event(b"b", b"x"), id="the last name"),
        pytest.param(b": data: x\n\n", Event(b"", b""), id="a comment says nothing"),
        pytest.param(b"Data: x\n\n", Event(b"", b""), id="names are small letters"),
        pytest.param(b"\xef\xbb\xbfdata: x\n\n", Event(b"", b"x"), id="a byte order mark"),
        pytest.param(b"data: a:b\n\n", Event(b"", b"a:b"), id="only the first colon counts"),
        pytest.param(b"", Event(b"", b""), id="nothing at all"),
    ],
)
def test_the_fields_of_an_event(event: bytes, expected: Event) -> None:
    """Name and data as a client's parser sees them."""
    assert parse(event) == expected


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        pytest.param(1, 9, id="in the first event"),
        pytest.param(9, 9, id="at its end"),
        pytest.param(10, 18, id="in the second"),
        pytest.param(18, 18, id="at the end of all"),
        pytest.param(0, 9, id="at the beginning"),
    ],
)
def test_where_an_event_ends(position: int, expected: int) -> None:
    """The blank line is part of it."""
    assert end_of_event(b"data: a\n\ndata: b\n\n", position) == expected


def test_a_block_without_an_end_is_one_event() -> None:
    """Whatever a stream ends with."""
    assert list(split(b"data: a\n\ndata: b")) == [b"data: a\n\n", b"data: b"]
    assert end_of_event(b"", 5) == 0


# -- an event of our own ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        pytest.param(b"", b"x", b"data: x\n\n", id="without a name"),
        pytest.param(b"error", b"x", b"event: error\ndata: x\n\n", id="with a name"),
        pytest.param(b"", b"x\n\n y", b"data: x\ndata: \ndata:  y\n\n", id="several lines"),
        pytest.param(b"", b"", b"data: \n\n", id="nothing to say"),
    ],
)
def test_an_event_is_written(name: bytes, data: bytes, expected: bytes) -> None:
    """One line of data for each of the text's."""
    assert written(name, data) == expected


@given(st.sampled_from([b"", b"error"]), st.binary().filter(lambda data: b"\r" not in data))
def test_what_is_written_is_one_event_and_reads_the_same(name: bytes, data: bytes) -> None:
    """Blank lines and what looks like fields stay inside the data."""
    event = written(name, data)

    assert list(split(event)) == [event]
    assert parse(event) == Event(name, data)
