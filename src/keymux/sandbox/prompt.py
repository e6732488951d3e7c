"""What a request asks the pretended model for, read from either wire format."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from keymux.core.vocabulary import WireFormat
from keymux.sandbox import loose

_THINKING = frozenset({"enabled", "adaptive"})
_NO_EFFORT = frozenset({"", "none"})
_EVERY_TOOL = "all tools"


class BadPrompt(Exception):  # noqa: N818 -- it names what came, as the faults do
    """A request that a real service would refuse; the text says why."""


class Tool(Struct, frozen=True):
    """A tool that the request offers.

    Attributes:
        name: by which it is called.
        schema: JSON Schema of its arguments.
    """

    name: str
    schema: Mapping[str, object]


class Prompt(Struct, frozen=True):
    """What decides the answer.

    Attributes:
        model: as the request names it.
        stream: whether server-sent events are wanted.
        wants_usage: whether an OpenAI stream shall carry usage.
        text: the last words of the user.
        max_tokens: most words of the answer, None for as many as it takes.
        stops: texts that end the answer.
        calls: the tools that the answer calls.
        thinking: whether the answer shows its thinking.
        caching: times to live of the cache marks in the request.
    """

    model: str
    stream: bool = False
    wants_usage: bool = False
    text: str = ""
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    calls: tuple[Tool, ...] = ()
    thinking: bool = False
    caching: frozenset[str] = frozenset()


def read_prompt(body: bytes, wire_format: WireFormat, *, counting: bool = False) -> Prompt:
    """Read a request, or raise `BadPrompt`.

    Args:
        body: of the request.
        wire_format: in which it is written.
        counting: True when only its tokens are asked for, so that ``max_tokens`` may be missing.
    """
    asked = loose.decode(body)
    if not isinstance(asked, dict):
        raise BadPrompt("The request body is not a JSON object.")
    _demand(asked, wire_format, counting=counting)
    caching = frozenset(_cache_marks(asked)) if b'"cache_control"' in body else frozenset[str]()
    read = _read_anthropic if wire_format is WireFormat.ANTHROPIC else _read_openai
    return read(asked, caching)


def _demand(asked: Mapping[str, object], wire_format: WireFormat, *, counting: bool) -> None:
    if not loose.text(asked.get("model")):
        raise BadPrompt("model: Field required")
    if not loose.items(asked.get("messages")):
        raise BadPrompt("messages: at least one message is required")
    if wire_format is WireFormat.ANTHROPIC and not counting:
        limit = loose.whole(asked.get("max_tokens"))
        if limit is None or limit < 1:
            raise BadPrompt("max_tokens: Input should be a whole number of at least 1")


def _read_openai(asked: Mapping[str, object], caching: frozenset[str]) -> Prompt:
    words = last_words(asked)
    choice = asked.get("tool_choice")
    wanted = loose.text(loose.mapping(loose.mapping(choice).get("function")).get("name"))
    functions = [loose.mapping(loose.mapping(tool).get("function")) for tool in _tools(asked)]
    tools = [
        Tool(loose.text(function.get("name")), loose.mapping(function.get("parameters")))
        for function in functions
        if function
    ]
    limit = loose.whole(asked.get("max_completion_tokens"))
    return Prompt(
        model=loose.text(asked.get("model")),
        stream=asked.get("stream") is True,
        wants_usage=loose.mapping(asked.get("stream_options")).get("include_usage") is True,
        text=words,
        max_tokens=loose.whole(asked.get("max_tokens")) if limit is None else limit,
        stops=_stops(asked.get("stop")),
        calls=_calls(tools, "named" if wanted else loose.text(choice), wanted, asked),
        thinking=loose.text(asked.get("reasoning_effort")) not in _NO_EFFORT or _thinks(asked),
        caching=caching,
    )


def _read_anthropic(asked: Mapping[str, object], caching: frozenset[str]) -> Prompt:
    choice = loose.mapping(asked.get("tool_choice"))
    tools = [
        Tool(loose.text(tool.get("name")), loose.mapping(tool.get("input_schema")))
        for tool in map(loose.mapping, _tools(asked))
        if "input_schema" in tool
    ]
    how = {"any": "required", "tool": "named"}.get(loose.text(choice.get("type")), "")
    if choice.get("type") == "none":
        how = "none"
    return Prompt(
        model=loose.text(asked.get("model")),
        stream=asked.get("stream") is True,
        wants_usage=True,
        text=last_words(asked),
        max_tokens=loose.whole(asked.get("max_tokens")),
        stops=_stops(asked.get("stop_sequences")),
        calls=_calls(tools, how, loose.text(choice.get("name")), asked),
        thinking=_thinks(asked),
        caching=caching,
    )


def last_words(asked: Mapping[str, object]) -> str:
    """The text of the last message that a user wrote."""
    for message in reversed(_messages(asked)):
        words = _words(message) if message.get("role") == "user" else ""
        if words:
            return words
    return ""


def _messages(asked: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    return [loose.mapping(message) for message in loose.items(asked.get("messages"))]


def _words(message: Mapping[str, object]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [loose.mapping(part) for part in loose.items(content)]
    return "\n".join(loose.text(part["text"]) for part in parts if "text" in part)


def _tools(asked: Mapping[str, object]) -> Sequence[object]:
    return loose.items(asked.get("tools"))


def _stops(found: object) -> tuple[str, ...]:
    several = [found] if isinstance(found, str) else loose.items(found)
    return tuple(stop for stop in map(loose.text, several) if stop)


def _thinks(asked: Mapping[str, object]) -> bool:
    return loose.mapping(asked.get("thinking")).get("type") in _THINKING


def _calls(
    tools: Sequence[Tool], how: str, wanted: str, asked: Mapping[str, object]
) -> tuple[Tool, ...]:
    """Which tools to call: those the request forces, or that the user talks about."""
    if how == "none" or not tools:
        return ()
    if how == "named":
        return tuple(tool for tool in tools if tool.name == wanted)
    if how == "required":
        return tuple(tools[:1])
    words = "" if _answers_a_call(asked) else last_words(asked).lower()
    if _EVERY_TOOL in words:
        return tuple(tools)
    return tuple(tools[:1]) if "tool" in words else ()


def _answers_a_call(asked: Mapping[str, object]) -> bool:
    """Whether the conversation ends with a tool's result, so that calling on would never end."""
    last = _messages(asked)[-1]
    parts = [loose.mapping(part) for part in loose.items(last.get("content"))]
    return last.get("role") == "tool" or any(part.get("type") == "tool_result" for part in parts)


def _cache_marks(value: object) -> Iterator[str]:
    """The times to live of every ``cache_control`` below a value; five minutes if it says none."""
    if isinstance(value, list):
        for item in value:
            yield from _cache_marks(item)
    elif isinstance(value, dict):
        mark = value.get("cache_control")
        if isinstance(mark, dict):
            yield loose.text(mark.get("ttl")) or "5m"
        for item in value.values():
            yield from _cache_marks(item)
