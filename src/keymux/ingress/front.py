"""The ASGI application: a table of paths, and one way for each kind of request.

Paths are matched raw and whole. What is not in the table does not exist, however it is spelled.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import unquote

from keymux.core.faults import Fault, UnknownPath, WrongMethod
from keymux.core.vocabulary import Operation
from keymux.exchange.authenticate import authenticate
from keymux.exchange.ports import Callers
from keymux.exchange.refuse import status_of, told
from keymux.exchange.serve import Gateway, Terms
from keymux.ids import ExchangeIds
from keymux.ingress import models
from keymux.ingress.answering import AsgiClient, Message, Receive, Send
from keymux.ingress.arrival import Arrival, Door, Head, client_keys, read_head
from keymux.wire import anthropic_messages, openai_chat
from keymux.wire.formats import Format

Page = Callable[[], tuple[int, bytes, bytes]]
"""Gives status, content type and body of a page that needs no client key."""


DOORS: Mapping[bytes, Door] = MappingProxyType(
    {
        b"/v1/chat/completions": Door(openai_chat.FORMAT, Operation.GENERATE),
        b"/v1/messages": Door(anthropic_messages.FORMAT, Operation.GENERATE),
        b"/v1/messages/count_tokens": Door(anthropic_messages.FORMAT, Operation.COUNT_TOKENS),
    }
)
_MODELS = b"/v1/models"
_PROBED = frozenset({b"/", b"/api/hello"})


class Lifespan(Protocol):
    """What has to be started before the first request and stopped after the last."""

    async def start(self) -> None:
        """Raise an exception to refuse to start."""

    async def stop(self) -> None:
        """Give everything back."""


class Front:
    """The application that the server calls.

    Args:
        gateway: gives the gateway, once it is started.
        callers: knows client keys.
        terms: gives the present terms.
        pages: pages for operations, by path.
        lifespan: started and stopped with the server.
    """

    def __init__(
        self,
        gateway: Gateway,
        callers: Callers,
        terms: Callable[[], Terms],
        pages: Mapping[bytes, Page],
        lifespan: Lifespan,
    ) -> None:
        self._gateway = gateway
        self._callers = callers
        self._terms = terms
        self._pages = pages
        self._lifespan = lifespan
        self._ids = ExchangeIds()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the server."""
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        client = AsgiClient(receive, send)
        door = DOORS.get(scope["raw_path"])
        if door is None:
            await self._aside(scope, client)
        elif scope["method"] != "POST":
            fault = WrongMethod(allowed="POST", method=scope["method"][:20])
            await self._refuse(fault, door.format, client)
        else:
            head = read_head(scope["headers"])
            query = scope["query_string"]
            arrival = Arrival(self._ids.next(), door, head, query, receive)
            await self._gateway.serve(arrival, client)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._lifespan.start()
        except Exception as error:  # noqa: BLE001 -- the server is told, and ends
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._lifespan.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _aside(self, scope: Message, client: AsgiClient) -> None:
        """Everything that is answered here, without an upstream."""
        path, method = scope["raw_path"], scope["method"]
        head = read_head(scope["headers"])
        wire = _format_of(path, scope["headers"])
        reading = method in {"GET", "HEAD"}
        try:
            if reading and path in self._pages:
                await _answer(client, *self._pages[path]())
            elif reading and path in _PROBED:
                await _answer(client, 200, b"text/plain", b"")
            elif reading and _is_about_models(path):
                await _answer(client, 200, b"application/json", self._model_page(path, head))
            else:
                raise _nothing_here(path, method, self._pages)
        except Fault as fault:
            await self._refuse(fault, wire, client)

    async def _refuse(self, fault: Fault, wire: Format, client: AsgiClient) -> None:
        request_id = self._ids.next()
        headers, body = told(fault, wire, request_id)
        own = [(b"x-keymux-request-id", request_id.encode())]
        if isinstance(fault, WrongMethod):
            own.append((b"allow", str(fault.facts["allowed"]).encode()))
        await client.start(status_of(fault, wire), [*headers, *own])
        await client.finish(body)

    def _model_page(self, path: bytes, head: Head) -> bytes:
        caller = authenticate(client_keys(head), self._callers)
        routes = self._terms().routes
        name = path[len(_MODELS) + 1 :]
        if not name:
            return models.listed(routes, caller)
        return models.one(routes, caller, unquote(name.decode("latin-1")))


def _nothing_here(path: bytes, method: str, pages: Mapping[bytes, Page]) -> Fault:
    if path in pages or path in _PROBED or _is_about_models(path):
        return WrongMethod(allowed="GET", method=method[:20])
    return UnknownPath()


def _is_about_models(path: bytes) -> bool:
    return path == _MODELS or path.startswith(_MODELS + b"/")


def _format_of(path: bytes, headers: list[tuple[bytes, bytes]]) -> Format:
    """The format a refusal is told in where no endpoint says which."""
    if path.startswith(b"/v1/messages"):
        return anthropic_messages.FORMAT
    if any(name == b"anthropic-version" for name, _ in headers):
        return anthropic_messages.FORMAT
    return openai_chat.FORMAT


async def _answer(client: AsgiClient, status: int, content_type: bytes, body: bytes) -> None:
    await client.start(status, [(b"content-type", content_type)])
    await client.finish(body)
