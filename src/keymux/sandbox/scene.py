"""One request on its way to an answer: what a behaviour has to work with."""

from collections.abc import Callable
from email.utils import formatdate

import msgspec
from msgspec import Struct

from keymux.core.vocabulary import WireFormat
from keymux.sandbox import anthropic_messages, openai_chat
from keymux.sandbox.answer import Answer, Framing, Pace
from keymux.sandbox.asked import Asked, Endpoint, Headers
from keymux.sandbox.content import Content, content_for, usage_for
from keymux.sandbox.dialects import DIALECTS, Dialect
from keymux.sandbox.models import model_list, model_named
from keymux.sandbox.prompt import BadPrompt, Prompt, read_prompt
from keymux.sandbox.wrong import Wrong

_JSON = ("content-type", "application/json")
_EVENTS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
)


class Scene(Struct, frozen=True):
    """A request and everything outside it that its answer depends on.

    Attributes:
        asked: the request.
        pace: the usual timing of streams.
        now: wall clock, seconds since 1970.
        identity: from which the ids of the answer are made.
    """

    asked: Asked
    pace: Pace
    now: float
    identity: str

    @property
    def dialect(self) -> Dialect:
        """Whom the sandbox plays."""
        return DIALECTS[self.asked.place.dialect]

    @property
    def format(self) -> WireFormat:
        """In which the answer is written."""
        return self.asked.place.format

    def good(self, change: Callable[[Content], Content] | None = None) -> Answer:
        """What a provider in good health answers; a wrong request is refused.

        Args:
            change: made to what the model says before it is written down.
        """
        place = self.asked.place
        try:
            if place.endpoint is Endpoint.MODELS:
                return self.json(200, model_named(place.model) if place.model else model_list())
            counting = place.endpoint is Endpoint.COUNT_TOKENS
            prompt = read_prompt(self.asked.body, self.format, counting=counting)
        except BadPrompt as reason:
            return self.wrong(Wrong(400, str(reason)))
        if counting:
            usage = usage_for(prompt, self.asked.body)
            return self.json(200, msgspec.json.encode({"input_tokens": usage.total}))
        content = content_for(prompt, self.asked.body)
        return self._render(change(content) if change else content, prompt)

    def _render(self, content: Content, prompt: Prompt) -> Answer:
        created = int(self.now)
        if self.format is WireFormat.ANTHROPIC:
            if prompt.stream:
                pieces = anthropic_messages.stream(content, self.identity)
                return self._stream(pieces, anthropic_messages.PREAMBLE)
            return self.json(200, anthropic_messages.plain(content, self.identity))
        if prompt.stream:
            pieces = openai_chat.stream(
                content, self.identity, created, wants_usage=prompt.wants_usage
            )
            return self._stream(pieces, openai_chat.PREAMBLE)
        return self.json(200, openai_chat.plain(content, self.identity, created))

    def wrong(self, wrong: Wrong, *headers: tuple[str, str]) -> Answer:
        """An error answer in the shape of whoever says it."""
        body = self.dialect.error(wrong, self.format, self.identity)
        return self.json(wrong.status, msgspec.json.encode(body), *headers)

    def json(self, status: int, body: bytes, *headers: tuple[str, str]) -> Answer:
        """A JSON answer with the dialect's headers."""
        return Answer(status, (_JSON, *self._own_headers(), *headers), (body,))

    def page(self, status: int, body: bytes, *headers: tuple[str, str]) -> Answer:
        """A page of HTML, as an edge or a captive portal sends it."""
        kind = ("content-type", "text/html; charset=utf-8")
        return Answer(
            status, (kind, ("date", formatdate(self.now, usegmt=True)), *headers), (body,)
        )

    @property
    def framing(self) -> Framing:
        """How the end of a stream is told to this peer."""
        return Framing.CHUNKED if self.asked.can_chunk else Framing.CLOSE

    def _stream(self, pieces: tuple[bytes, ...], preamble: int) -> Answer:
        return Answer(200, (*_EVENTS, *self._own_headers()), pieces, preamble)

    def _own_headers(self) -> Headers:
        is_anthropic = self.format is WireFormat.ANTHROPIC
        return (
            ("date", formatdate(self.now, usegmt=True)),
            ("request-id" if is_anthropic else "x-request-id", f"req_{self.identity}"),
            *self.dialect.headers(self.identity),
        )
