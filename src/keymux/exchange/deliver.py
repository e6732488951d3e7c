"""From the reply to the client: the same bytes, as they come."""

from keymux.core.faults import ClientStalled, StreamBroken, UpstreamFault
from keymux.exchange.dispatch import Exchange
from keymux.exchange.peek import PlainReply, Reply, StreamReply
from keymux.exchange.ports import Client, RawHeaders
from keymux.exchange.watch import Within

_DRAIN_S = 5.0
_STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
_COMMENT = b": waiting for the upstream\n\n"
_UNBUFFERED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class Pulse:
    """Keeps a streaming client's connection alive while the upstream is silent.

    Only comments are sent, and only between whole events, so no parser sees them.
    """

    __slots__ = ("_client", "_exchange", "_last")

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._exchange = exchange
        self._last = exchange.watched.started

    def beat(self) -> None:
        """Something else was sent."""
        self._last = self._exchange.watched.clock()

    def comment_is_due(self, now: float) -> bool:
        """Whether the client has heard nothing for too long."""
        timeouts = self._exchange.rules.timeouts
        patience = timeouts.keep_alive_s if self._client.started else timeouts.early_commit_s
        return now - self._last >= patience

    async def comment(self) -> None:
        """Send a comment, and before it the head of the answer if that is still held back."""
        self.beat()
        if not self._client.started:
            own = (b"x-keymux-request-id", self._exchange.request.id.encode())
            self._exchange.bill.status = 200
            await self._client.start(200, (_STREAM_TYPE, *_UNBUFFERED, own))
        await self._client.send(_COMMENT)


class Delivery:
    """Passes a reply on to the client.

    Made before there is a reply: from then on a stream's client is kept company.

    Args:
        client: whom to answer.
        exchange: what it asked for.
    """

    __slots__ = ("_client", "_exchange", "_pulse")

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._exchange = exchange
        self._pulse = Pulse(client, exchange)
        watched = exchange.watched
        watched.listen()
        if exchange.request.stream:
            watched.keep_alive(self._pulse)

    async def deliver(self, reply: Reply) -> None:
        """Send a reply on: a plain one whole, a stream event by event.

        Raises:
            StreamBroken: the stream did not reach its end.
            ClientStalled: the client stopped reading.
        """
        client = self._client
        status = reply.answer.status
        self._exchange.bill.delivering(status)
        if isinstance(reply, PlainReply):
            with self._writing():
                await client.start(status, self._headers(reply))
                await client.finish(reply.body)
            return
        if not client.started:
            await client.start(status, self._headers(reply))
        await self._relay(reply)
        await client.finish()
        await self._drain(reply)

    async def _relay(self, reply: StreamReply) -> None:
        client, pulse, watched = self._client, self._pulse, self._exchange.watched
        seconds = self._exchange.rules.timeouts.idle_s
        how = f"nothing came for {seconds:g} s"
        reading = watched.within(seconds, StreamBroken, how=how, reason="silence")
        writing = self._writing()
        while True:
            with reading:
                block = await reply.block()
            if block is None:
                return
            if block:
                with writing:
                    await client.send(block)
                pulse.beat()

    def _writing(self) -> Within:
        seconds = self._exchange.rules.timeouts.client_write_s
        return self._exchange.watched.within(seconds, ClientStalled, seconds=f"{seconds:g}")

    async def _drain(self, reply: StreamReply) -> None:
        """Let the upstream end its answer, so that the connection can be used again.

        The client has everything. Whatever happens now is no part of the exchange.
        """
        watched = self._exchange.watched
        watched.forget_client()
        try:
            with watched.within(_DRAIN_S, StreamBroken, how="it did not end"):
                await reply.drain()
        except UpstreamFault:
            pass

    def _headers(self, reply: Reply) -> RawHeaders:
        request, answer = self._exchange.request, reply.answer
        own_id = request.id.encode()
        headers = [
            *answer.headers,
            (request.format.request_id_header, answer.request_id.encode() or own_id),
            (b"x-keymux-request-id", own_id),
            *self._exchange.bill.served_headers(),
        ]
        if isinstance(reply, StreamReply):
            headers += _UNBUFFERED
        return headers
