"""What the pretended model says to a prompt: the same words for the same prompt."""

import base64
import re
from hashlib import sha256
from itertools import cycle, islice

import msgspec
from msgspec import Struct

from keymux.core.vocabulary import Usage, Word
from keymux.sandbox.arguments import arguments_for
from keymux.sandbox.prompt import Prompt
from keymux.wire.estimate import prompt_tokens, tokens_of

_MARKER = re.compile(r"marker:[A-Za-z0-9_-]+")
_LENGTH = re.compile(r"\bwords:(\d{1,7})\b")
_WORDS_IN_A_DELTA = 3
_THOUGHTS = "The sandbox looks at the request, finds nothing to worry about, and answers."
_FILLING = "and so it goes on, word after word, as long as it was asked to"


class Stop(Word):
    """Why the answer ends."""

    END = "end"
    LENGTH = "length"
    SEQUENCE = "sequence"
    TOOL = "tool"


class Call(Struct, frozen=True):
    """A tool call.

    Attributes:
        name: of the tool.
        arguments: a JSON object.
    """

    name: str
    arguments: bytes


class Content(Struct, frozen=True):
    """What both wire formats render.

    Attributes:
        model: as the request named it.
        thinking: in pieces as they are streamed; empty when no thinking is shown.
        signature: of the thinking.
        text: in pieces as they are streamed.
        calls: tool calls, after the text.
        stop: why it ends.
        stop_sequence: the text that ended it, when one did.
        usage: None when the answer shall carry none.
    """

    model: str
    thinking: tuple[str, ...] = ()
    signature: str = ""
    text: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    stop: Stop = Stop.END
    stop_sequence: str = ""
    usage: Usage | None = None


def content_for(prompt: Prompt, body: bytes) -> Content:
    """Answer a prompt.

    Args:
        prompt: as read from the body.
        body: whose tokens are counted.
    """
    budget = prompt.max_tokens
    thoughts = _THOUGHTS.split() if prompt.thinking else []
    if budget is not None:
        thoughts = thoughts[: budget // 2]
    text, sequence = _cut_at(_said(prompt), prompt.stops)
    words = text.split()
    allowed = words if budget is None else words[: budget - len(thoughts)]
    calls = _calls(prompt)
    thinking = " ".join(thoughts)
    written = len(thoughts) + len(allowed) + sum(tokens_of(len(call.arguments)) for call in calls)
    return Content(
        model=prompt.model,
        thinking=_deltas(thoughts),
        signature=_signature(thinking) if thoughts else "",
        text=_deltas(allowed),
        calls=calls,
        stop=_stop(calls, sequence, is_cut=len(allowed) < len(words)),
        stop_sequence=sequence,
        usage=usage_for(
            prompt,
            body,
            output=written if budget is None else min(written, budget),
            reasoning=len(thoughts),
        ),
    )


def usage_for(prompt: Prompt, body: bytes, *, output: int = 0, reasoning: int = 0) -> Usage:
    """The tokens of a request; with cache marks, half of them were read and a quarter written."""
    total = prompt_tokens(body)
    if not prompt.caching:
        return Usage(input=total, output=output, reasoning=reasoning)
    read, written = max(1, total // 2), max(len(prompt.caching), total // 4)
    for_an_hour = 0
    if "1h" in prompt.caching:
        for_an_hour = written if len(prompt.caching) == 1 else max(1, written // 3)
    return Usage(
        input=max(1, total - read - written),
        output=output,
        cache_read=read,
        cache_write_5m=written - for_an_hour,
        cache_write_1h=for_an_hour,
        reasoning=reasoning,
    )


def _said(prompt: Prompt) -> str:
    markers = " ".join(_MARKER.findall(prompt.text))
    said = (
        f"{markers} This is the sandbox, answering as {prompt.model}. You wrote "
        f"{len(prompt.text)} characters \u2014 enough for a few words back, with an umlaut "
        "(\u00fc) and a smile (\U0001f642) to keep encodings honest."
    ).strip()
    length = _LENGTH.search(prompt.text)
    if length is None:
        return said
    words = said.split() + _FILLING.split()
    return " ".join(islice(cycle(words), int(length[1])))


def _cut_at(text: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """The text up to the first stop sequence in it, and which one that was."""
    found = [(text.index(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, ""
    place, stop = min(found)
    return text[:place], stop


def _deltas(words: list[str]) -> tuple[str, ...]:
    """The words in pieces that give the text when joined."""
    groups = [
        " ".join(words[start : start + _WORDS_IN_A_DELTA])
        for start in range(0, len(words), _WORDS_IN_A_DELTA)
    ]
    return tuple(group if index == 0 else f" {group}" for index, group in enumerate(groups))


def _calls(prompt: Prompt) -> tuple[Call, ...]:
    marker = _MARKER.search(prompt.text)
    return tuple(
        Call(
            tool.name,
            msgspec.json.encode(arguments_for(tool.schema, marker[0] if marker else "")),
        )
        for tool in prompt.calls
    )


def _stop(calls: tuple[Call, ...], sequence: str, *, is_cut: bool) -> Stop:
    if is_cut:
        return Stop.LENGTH
    if calls:
        return Stop.TOOL
    return Stop.SEQUENCE if sequence else Stop.END


def _signature(thinking: str) -> str:
    """As opaque as the real ones, and the same for the same thinking."""
    return base64.b64encode(sha256(thinking.encode()).digest() * 2).decode()
