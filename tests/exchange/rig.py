"""The request path in one process: scripted upstreams, a book that is a list, jumping time."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any

import msgspec

from keymux.background import Background
from keymux.core import faults
from keymux.core.faults import UpstreamFault
from keymux.core.records import AttemptStarted, ClientKeyRecord, ExchangeRow, Reservation
from keymux.core.retrying import Patience, first_steps
from keymux.core.routing import Model, Routes
from keymux.core.secrets import hash_of
from keymux.core.vocabulary import Operation, Price, Route, Target, WireFormat
from keymux.exchange.admit import Admission
from keymux.exchange.authenticate import Doorkeeper
from keymux.exchange.counting import Lacking
from keymux.exchange.dispatch import Dispatcher
from keymux.exchange.ports import Rules
from keymux.exchange.serve import Gateway, Parts, Terms
from keymux.exchange.settle import Ledger
from keymux.exchange.watch import Watch
from keymux.ingress.front import Front
from keymux.ingress.operations import Readiness, pages
from keymux.settings import Limits, Timeouts
from keymux.upstream.request import UpstreamRequest
from tests.pools.rig import PROVIDER, Clock, Steady, World, run

CLIENT_KEY = "km-test"
MODEL = "sonnet"
OPENAI_PATH = "/v1/chat/completions"
ANTHROPIC_PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
PRICE = Price(input=1000.0, output=1000.0)
STREAM = "text/event-stream"

Step = bytes | float | BaseException
"""Of an answer: bytes that come, seconds that pass, or how it breaks."""


class ScriptedAnswer:
    """A good answer that comes step by step."""

    def __init__(self, *steps: Step, content_type: str = "application/json") -> None:
        self.status = 200
        self.content_type = content_type
        self.headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", content_type.encode()),)
        self.request_id = "req_upstream"
        self._steps = list(steps)

    async def chunk(self) -> bytes | None:
        """The next bytes."""
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, bytes):
                return step
            await asyncio.sleep(step)
        return None

    async def whole(self) -> bytes:
        """All of them."""
        body = b""
        while (chunk := await self.chunk()) is not None:
            body += chunk
        return body


Script = ScriptedAnswer | UpstreamFault | float
"""An answer, a fault instead of one, or seconds of silence."""


class ScriptedAsk:
    """One attempt that goes as it was written."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.is_open = False
        self.is_closed = False

    async def answer(self) -> ScriptedAnswer:
        """The answer, if there is one."""
        if isinstance(self._script, UpstreamFault):
            raise self._script
        if isinstance(self._script, float):
            await asyncio.sleep(self._script)
            raise faults.NoReply
        self.is_open = True
        return self._script

    def read_error(self, data: bytes) -> UpstreamFault:
        """An overload, whatever was read."""
        return faults.Overloaded(reason=data.decode()[:50])

    def redact(self, data: bytes) -> bytes:
        """Nothing is secret here."""
        return data

    async def close(self) -> None:
        """The connection is given back or closed."""
        self.is_open = False
        self.is_closed = True


class ScriptedUpstreams:
    """Gives one script after the other."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.asked: list[UpstreamRequest] = []
        self.asks: list[ScriptedAsk] = []

    def ask(self, request: UpstreamRequest) -> ScriptedAsk:
        """The next one."""
        self.asked.append(request)
        self.asks.append(ScriptedAsk(self.scripts.pop(0)))
        return self.asks[-1]


class ListBook:
    """A book that can be read at once."""

    def __init__(self) -> None:
        self.reserved: list[Reservation] = []
        self.begun: list[AttemptStarted] = []
        self.rows: list[ExchangeRow] = []
        self.full: Exception | None = None

    def reserve(self, reservation: Reservation) -> None:
        """Note it, unless there is no room."""
        if self.full is not None:
            raise self.full
        self.reserved.append(reservation)

    def begin(self, attempt: AttemptStarted) -> None:
        """Note it."""
        self.begun.append(attempt)

    def settle(self, row: ExchangeRow) -> None:
        """Note it."""
        self.rows.append(row)


class Visitor:
    """An ASGI client: what it sends, when it leaves, and what it got."""

    def __init__(self, *parts: bytes, leaves_s: float | None = None) -> None:
        self._parts = list(parts)
        self._leaves_s = leaves_s
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_finished = False
        self.slow_s = 0.0

    async def receive(self) -> dict[str, Any]:
        """The next part of the body, then the leaving."""
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await asyncio.sleep(1e6 if self._leaves_s is None else self._leaves_s)
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a part of the answer."""
        assert not self.is_finished
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        await asyncio.sleep(self.slow_s)
        self.body += message["body"]
        self.is_finished = not message["more_body"]

    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


class House:
    """Gateway and front, put together as the application does."""

    def __init__(
        self,
        *scripts: Script,
        keys: Sequence[str] = ("a", "b", "c"),
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.clock = Clock()
        self.world = World(keys, clock=self.clock)
        self.upstreams = ScriptedUpstreams()
        self.upstreams.scripts = list(scripts)
        self.book = ListBook()
        self.reports: list[tuple[str, str]] = []
        self.turned_away: list[tuple[str, str]] = []
        self.admission = Admission()
        self.readiness = Readiness()
        self.readiness.is_ready = True
        self.rules = Rules(Patience(), timeouts or Timeouts(), limits or Limits())
        self._background = Background(lambda where, trace: self.reports.append((where, trace)))
        self.watch = Watch(self.clock, self._background.spawn)
        self.doorkeeper = Doorkeeper()
        self.doorkeeper.replace_all(
            [ClientKeyRecord(id="client_1", key_hash=hash_of(CLIENT_KEY), shown="km-...")]
        )
        self.terms = self._terms()
        ticks = count(1_000_000)
        self.gateway = Gateway(
            Parts(
                terms=lambda: self.terms,
                callers=self.doorkeeper,
                watch=self.watch,
                ledger=Ledger(
                    self.book,
                    lambda: next(ticks),
                    lambda wire, code: self.turned_away.append((wire, code)),
                ),
                admission=self.admission,
                dispatcher=Dispatcher(
                    self.world.leasing, self.upstreams, Steady(), Lacking(self.clock)
                ),
                report=lambda where, trace: self.reports.append((where, trace)),
            )
        )
        self.front = Front(
            self.gateway,
            self.doorkeeper,
            lambda: self.terms,
            pages(self.readiness, lambda: b"metrics"),
            self,
        )
        self.is_started = False
        self.refusal: Exception | None = None

    def _terms(self) -> Terms:
        route = Route(MODEL, (Target(PROVIDER, "upstream-sonnet"),), PRICE)
        routes = Routes([(Model(id=MODEL, name="Sonnet", created=0, route=route), ("s-*",))])
        steps = {
            (MODEL, wire, operation): first_steps(route)
            for wire in WireFormat
            for operation in Operation
        }
        return Terms(routes, MappingProxyType(steps), self.rules)

    async def start(self) -> None:
        """As the lifespan of the server wants it."""
        if self.refusal is not None:
            raise self.refusal
        self.is_started = True

    async def stop(self) -> None:
        """As above."""
        self.is_started = False

    async def _serve(self, scope: Mapping[str, Any], visitors: Sequence[Visitor]) -> None:
        looking = self._background.spawn(self.watch.run())
        try:
            async with asyncio.TaskGroup() as group:
                for visitor in visitors:
                    group.create_task(self.front(dict(scope), visitor.receive, visitor.send))
        finally:
            looking.cancel()
            await self._background.stop()

    def visit(
        self,
        *visitors: Visitor,
        path: str = OPENAI_PATH,
        method: str = "POST",
        query: str = "",
        **headers: str,
    ) -> Visitor:
        """Serve some visitors at once; gives the first."""
        shown = {"host": "here", "authorization": f"Bearer {CLIENT_KEY}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in shown.items() if value],
        }
        run(self._serve(scope, visitors), self.clock)
        return visitors[0]


def asked(*, stream: bool = False, **fields: Any) -> bytes:
    """The body of a request that both formats take."""
    body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
    return msgspec.json.encode({**body, "stream": stream, **fields})


def plain_answer(**fields: Any) -> ScriptedAnswer:
    """A complete answer in the OpenAI format: 3 tokens in, 5 out."""
    body = {
        "id": "1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        **fields,
    }
    return ScriptedAnswer(msgspec.json.encode(body))


def event(text: str | None = None, **fields: Any) -> bytes:
    """One chunk of an OpenAI stream."""
    delta = {} if text is None else {"content": text}
    chunk = {"id": "1", "choices": [{"index": 0, "delta": delta}], **fields}
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


USAGE = event(
    None, choices=[], usage={"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
)
DONE = b"data: [DONE]\n\n"


def stream_of(*steps: Step) -> ScriptedAnswer:
    """A stream."""
    return ScriptedAnswer(*steps, content_type=STREAM)
