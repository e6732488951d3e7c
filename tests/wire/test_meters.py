"""Usage and end of a stream, read from whatever blocks it comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.core.vocabulary import Quality, Usage
from keymux.wire import anthropic_messages, openai_chat
from keymux.wire.formats import Format
from keymux.wire.sse import split
from tests.wire.samples import NAMES, blocks, cuts, metered, sample

# What each sample used, and whether it came to its end.
USED = {
    "anthropic-thinking-and-cache": (Usage(12, 95, 2048, 200, 500, 31), True),
    "anthropic-late-figures": (Usage(404_500, 3200, 55), True),
    "anthropic-iterations": (Usage(180_010, 3520, 7, 5, 6), True),
    "anthropic-error-at-the-end": (Usage(25, 2), False),
    "openai-usage-at-the-end": (Usage(300, 40, 600, 100, 0, 25), True),
    "openai-usage-beside-the-finish": (Usage(36, 9, 64, 0, 0, 2), True),
    "openai-usage-in-every-chunk": (Usage(8, 3), True),
    "openai-usage-in-an-extension": (Usage(21, 7), True),
    "openai-no-usage": (Usage(), True),
    "openai-error-at-the-end": (Usage(), False),
}
newlines = st.sampled_from([b"\n", b"\r\n", b"\r"])


def format_of(name: str) -> Format:
    """The format of a sample."""
    return anthropic_messages.FORMAT if name.startswith("anthropic") else openai_chat.FORMAT


def test_every_sample_is_used() -> None:
    """A new one is not forgotten."""
    assert sorted(USED) == NAMES


@pytest.mark.parametrize("name", NAMES)
@given(at=cuts, newline=newlines)
def test_the_figures_are_the_same_in_any_blocks(name: str, at: list[int], newline: bytes) -> None:
    """However the network cuts a stream, and whatever its newlines are."""
    meter = metered(format_of(name), blocks(sample(name, newline), at))

    assert (meter.usage, meter.finished) == USED[name]


@pytest.mark.parametrize("name", [name for name in NAMES if USED[name][1]])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_stream_is_finished_with_its_last_event_only(name: str, newline: bytes) -> None:
    """Whatever its text says about ends."""
    events = list(split(sample(name, newline)))
    before, after = metered(format_of(name), events[:-1]), metered(format_of(name), events)

    assert (before.finished, after.finished) == (False, True)


@pytest.mark.parametrize("name", [name for name in NAMES if USED[name][1]])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_what_follows_the_end_marker_is_cut_off(name: str, newline: bytes) -> None:
    """The meter says where the marker's event ends in its block."""
    stream = sample(name, newline)
    meter = metered(format_of(name), [stream + b"data: {}" + 2 * newline])

    assert meter.end == len(stream)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b'data: {"text":"[DONE]"}\n\n', id="in a value"),
        pytest.param(b'data: {"text":"\\ndata: [DONE]\\n"}\n\n', id="in a value with newlines"),
        pytest.param(b": data: [DONE]\n\n", id="in a comment"),
        pytest.param(b"data: [DONE]x\n\n", id="with something behind it"),
        pytest.param(b"data:  [DONE]\n\n", id="with something before it"),
        pytest.param(b"event: [DONE]\n\n", id="as the name of an event"),
        pytest.param(b"xdata: [DONE]\n\n", id="in another field"),
        pytest.param(b"data: [done]\n\n", id="in small letters"),
    ],
)
def test_what_is_not_the_end_of_a_chat_stream(block: bytes) -> None:
    """Only a data line that is the marker ends it."""
    assert metered(openai_chat.FORMAT, [block]).finished is False


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"data: [DONE]\n\n", id="as everybody sends it"),
        pytest.param(b"data:[DONE]\r\n\r\n", id="without the space"),
        pytest.param(b"data: {}\n\ndata: [DONE]\n\n", id="behind another event"),
        pytest.param(b"event: done\rdata: [DONE] \r\r", id="with a name and a space"),
    ],
)
def test_what_is_the_end_of_a_chat_stream(block: bytes) -> None:
    """In every spelling that clients understand."""
    assert metered(openai_chat.FORMAT, [block]).finished is True


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b'data: {"type":"message_stop"}\n\n', id="without the name of the event"),
        pytest.param(
            b'event: content_block_delta\ndata: {"text":"event: message_stop"}\n\n', id="in a value"
        ),
        pytest.param(
            b'data: {"text":"\\nevent: message_stop\\n"}\n\n', id="in a value with newlines"
        ),
        pytest.param(b": event: message_stop\n\n", id="in a comment"),
        pytest.param(b"event: message_stopped\n\n", id="as the beginning of another name"),
        pytest.param(b"data: event: message_stop\n\n", id="as data"),
    ],
)
def test_what_is_not_the_end_of_a_message(block: bytes) -> None:
    """Only an event of that name ends it, for only that is what clients see."""
    assert metered(anthropic_messages.FORMAT, [block]).finished is False


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b'event: message_stop\ndata: {"type":"message_stop"}\n\n', id="as usual"),
        pytest.param(b"event:message_stop\r\ndata:{}\r\n\r\n", id="without spaces"),
        pytest.param(b'data: {"type":"message_stop"}\revent: message_stop\r\r', id="data first"),
    ],
)
def test_what_is_the_end_of_a_message(block: bytes) -> None:
    """In every spelling that clients understand."""
    assert metered(anthropic_messages.FORMAT, [block]).finished is True


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("anthropic-error-at-the-end", b"overloaded_error", id="a message"),
        pytest.param("openai-error-at-the-end", b"the upstream went away", id="a chat stream"),
    ],
)
def test_an_error_in_a_stream_is_noticed(name: str, words: bytes) -> None:
    """Its data is kept, so that somebody can say what it means."""
    meter = metered(format_of(name), [sample(name)])

    assert words in meter.failure
    assert meter.finished is False


@pytest.mark.parametrize("name", [name for name in NAMES if USED[name][1]])
def test_a_sound_stream_has_no_error(name: str) -> None:
    """Whatever its text says about errors."""
    assert metered(format_of(name), [sample(name)]).failure == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"usage": {"prompt_tokens": 1', id="cut JSON"),
        pytest.param(b'{"usage": {}, "choices": 7}', id="choices that are none"),
        pytest.param(b'{"usage": {"prompt_tokens": NaN}}', id="what is no number"),
        pytest.param(b'{"usage": {"prompt_tokens": 1e999}}', id="a number nobody can hold"),
        pytest.param(b'{"usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}", id="endless digits"),
        pytest.param(b'{"usage": {"x": ' + b"[" * 100_000 + b"}}", id="a tower of brackets"),
        pytest.param(b'{"usage": {"a": "\\ud800"}}\xff', id="no text"),
        pytest.param(b'{"message": {"usage": {"cache_creation": 5}}}', id="a broken detail"),
        pytest.param(b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("wire", [anthropic_messages.FORMAT, openai_chat.FORMAT])
def test_broken_figures_count_nothing_and_break_nothing(wire: Format, data: bytes) -> None:
    """The stream goes on; its usage is estimated then."""
    meter = metered(wire, [b'event: x\ndata: %s\n\n: "usage": {\n\n' % data])

    assert (meter.usage, meter.finished) == (Usage(), False)


@given(st.binary(max_size=200), st.sampled_from([b'"usage":{', b'"error":{', b"event: error\n"]))
def test_a_meter_reads_whatever_comes(noise: bytes, marker: bytes) -> None:
    """No bytes can make it fail."""
    for wire in (anthropic_messages.FORMAT, openai_chat.FORMAT):
        meter = metered(wire, [b"data: " + noise + marker + noise + b"\n\n"])

        assert meter.usage.total >= 0


# -- settling --------------------------------------------------------------------------------------
START = b'data: {"message":{"usage":{"input_tokens":20,"output_tokens":1}}}\n\n'
DELTA = b'data: {"type":"message_delta","usage":{"output_tokens":50}}\n\n'
STOP = b"event: message_stop\ndata: {}\n\n"
NOTHING = b'data: {"type":"message_delta","usage":{"input_tokens":0,"output_tokens":0}}\n\n'
REFUSAL = b'data: {"type":"message_delta","usage":{"output_tokens":0}}\n\n'


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(START + DELTA + STOP, (Usage(20, 50), Quality.FINAL), id="told to the end"),
        pytest.param(START + DELTA, (Usage(20, 50), Quality.PARTIAL), id="cut before the end"),
        pytest.param(START, (Usage(20, 25), Quality.PARTIAL), id="cut in the middle"),
        pytest.param(START + STOP, (Usage(20, 25), Quality.ESTIMATED), id="without last figures"),
        pytest.param(STOP, (Usage(7, 25), Quality.ESTIMATED), id="without any"),
        pytest.param(b"", (Usage(7, 25), Quality.PARTIAL), id="cut before any"),
        pytest.param(NOTHING + STOP, (Usage(7, 25), Quality.ESTIMATED), id="zero for everything"),
        pytest.param(DELTA + STOP, (Usage(7, 50), Quality.ESTIMATED), id="no prompt"),
        pytest.param(START + REFUSAL + STOP, (Usage(20, 0), Quality.FINAL), id="a refusal"),
    ],
)
def test_a_message_is_settled_with_what_is_known(
    stream: bytes, expected: tuple[Usage, Quality]
) -> None:
    """The upstream's figures where there are some, and never nothing for something."""
    meter = metered(anthropic_messages.FORMAT, [stream] if stream else [])

    assert meter.settle(text_bytes=100, prompt_tokens=7) == expected


def test_a_cut_message_counts_at_least_what_was_reported() -> None:
    """An estimate below the placeholder is no better than it."""
    meter = metered(anthropic_messages.FORMAT, [START.replace(b":1}", b":40}")])

    assert meter.settle(text_bytes=8, prompt_tokens=7) == (Usage(20, 40), Quality.PARTIAL)


USED_CHUNK = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":50}}\n\n'
ZERO_CHUNK = b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n'
HALF_CHUNK = b'data: {"choices":[],"usage":{"completion_tokens":50}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(USED_CHUNK + DONE, (Usage(20, 50), Quality.FINAL), id="told to the end"),
        pytest.param(USED_CHUNK, (Usage(20, 50), Quality.PARTIAL), id="cut before the end"),
        pytest.param(DONE, (Usage(7, 25), Quality.ESTIMATED), id="without any figures"),
        pytest.param(b"", (Usage(7, 25), Quality.PARTIAL), id="cut before any"),
        pytest.param(ZERO_CHUNK + DONE, (Usage(7, 25), Quality.ESTIMATED), id="zero for all"),
        pytest.param(HALF_CHUNK + DONE, (Usage(7, 50), Quality.ESTIMATED), id="no prompt"),
        pytest.param(
            USED_CHUNK + b'data: {"usage":null}\n\n' + DONE,
            (Usage(20, 50), Quality.FINAL),
            id="null after the figures",
        ),
    ],
)
def test_a_chat_stream_is_settled_with_what_is_known(
    stream: bytes, expected: tuple[Usage, Quality]
) -> None:
    """The upstream's figures where there are some, and never nothing for something."""
    meter = metered(openai_chat.FORMAT, [stream] if stream else [])

    assert meter.settle(text_bytes=100, prompt_tokens=7) == expected
