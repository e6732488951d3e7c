"""From the reply to the client: the same bytes, as they come."""

import asyncio

from keymux.core.faults import ClientStalled, DrainLate, StreamStalled, UpstreamFault
from keymux.exchange.dispatch import Exchange
from keymux.exchange.peek import PlainReply, Reply, StreamReply
from keymux.exchange.ports import Client, RawHeaders

_DRAIN_S = 5.0
_STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
_COMMENT = b": waiting for the upstream\n\n"
_UNBUFFERED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class Delivery:
    """Passes a reply on to the client, and keeps a stream's client company until it comes.

    Comments are sent only in silence and only between whole events, so no parser sees them.

    Args:
        client: whom to answer.
        exchange: what it asked for.
    """

    __slots__ = ("_client", "_exchange", "_last")

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._exchange = exchange
        self._last = exchange.watched.started
        exchange.watched.listen(self if exchange.request.stream else None)

    # -- before there is a reply, and in its pauses ----------------------------------------------
    def comment_is_due(self, now: float) -> bool:
        """Whether the client has heard nothing for too long."""
        timeouts = self._exchange.rules.timeouts
        patience = timeouts.keep_alive_s if self._client.started else timeouts.early_commit_s
        return now - self._last >= patience

    async def comment(self) -> None:
        """Send a comment, and before it the head of the answer if that is still held back."""
        self._last = self._exchange.watched.clock()
        if not self._client.started:
            request = self._exchange.request
            own_id = request.id.encode()
            own = (request.format.request_id_header, own_id), (b"x-keymux-request-id", own_id)
            self._exchange.bill.status = 200
            await self._client.start(200, (_STREAM_TYPE, *_UNBUFFERED, *own))
        if self._exchange.watched.pulse is self:  # else the end has overtaken it
            await self._client.send(_COMMENT)

    # -- the reply -------------------------------------------------------------------------------
    async def deliver(self, reply: Reply) -> None:
        """Send a reply on: a plain one whole, a stream event by event.

        Raises:
            StreamBroken: the stream did not reach its end.
            StreamFailed: it told of an error, which the client has been given.
        """
        client, exchange = self._client, self._exchange
        status = reply.answer.status
        exchange.bill.delivering(status)
        exchange.watched.expect(ClientStalled, exchange.rules.timeouts.client_write_s)
        if isinstance(reply, PlainReply):
            await client.start(status, self._headers(reply))
            await client.finish(reply.body)
            return
        if not client.started:
            await client.start(status, (*self._headers(reply), *_UNBUFFERED))
        await self._relay(reply)
        await client.finish()
        await self._drain(reply)

    async def _relay(self, reply: StreamReply) -> None:
        client, watched = self._client, self._exchange.watched
        timeouts = self._exchange.rules.timeouts
        idle_s, write_s = timeouts.idle_s, timeouts.client_write_s
        watched.expect(StreamStalled, idle_s)
        while (block := await reply.block()) is not None:
            if reply.is_over:
                watched.forget_client()  # no comment may follow the end
            if block:
                watched.expect(ClientStalled, write_s)
                await client.send(block)
                self._last = watched.clock()
            watched.expect(StreamStalled, idle_s)

    async def _drain(self, reply: StreamReply) -> None:
        """Let the upstream end its answer, so that the connection can be used again.

        The client has everything; whatever happens now is no part of the exchange.
        """
        watched = self._exchange.watched
        watched.expect(DrainLate, _DRAIN_S)
        try:
            await reply.drain()
        except (UpstreamFault, asyncio.CancelledError) as error:
            if isinstance(watched.named(error), DrainLate):
                watched.resume()
            elif not isinstance(error, UpstreamFault):
                raise

    def _headers(self, reply: Reply) -> RawHeaders:
        request, answer = self._exchange.request, reply.answer
        own_id = request.id.encode()
        upstream_id = answer.request_id.encode() if answer.request_id else own_id
        return (
            *answer.headers,
            (request.format.request_id_header, upstream_id),
            (b"x-keymux-request-id", own_id),
            *self._exchange.bill.served_headers(),
        )
