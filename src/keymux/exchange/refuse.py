"""A fault, told in the client's own wire format."""

from keymux.core.faults import ClientGone, ClientStalled, Fault, StreamFailed, UpstreamFault
from keymux.core.retrying import should_retry, speaks_for_itself
from keymux.exchange.ports import Client, Incoming, RawHeaders
from keymux.wire.formats import Format

CLIENT_LEFT = (ClientGone, ClientStalled)
"""Faults that nobody is there to be told of."""

_JSON = (b"content-type", b"application/json")


async def refuse(fault: Fault, incoming: Incoming, client: Client, attempts: int) -> None:
    """Tell a client that its exchange came to nothing, or to an early end.

    Args:
        fault: why.
        incoming: the request, as far as it was read.
        client: whom to tell; if part of a stream is out already, the stream ends with an error.
        attempts: how many were made.
    """
    if isinstance(fault, CLIENT_LEFT):
        return
    if isinstance(fault, StreamFailed):  # the upstream's own error event was the last one
        await client.finish()
        return
    if client.started:
        await client.finish(incoming.format.error_event(fault, incoming.id))
        return
    headers, body = told(fault, incoming.format, incoming.id)
    own = (
        (b"x-keymux-request-id", incoming.id.encode()),
        (b"x-keymux-attempts", b"%d" % attempts),
    )
    await client.start(status_of(fault, incoming.format), (*headers, *own))
    await client.finish(body)


def status_of(fault: Fault, wire: Format) -> int:
    """The HTTP status a client is told, 0 when it is told nothing."""
    if isinstance(fault, CLIENT_LEFT):
        return 0
    if isinstance(fault, UpstreamFault) and fault.answer is not None and speaks_for_itself(fault):
        return fault.answer.status
    return wire.status_of(fault)


def told(fault: Fault, wire: Format, request_id: str) -> tuple[RawHeaders, bytes]:
    """Headers and body of a refusal.

    An upstream's own answer is passed on as it came, for clients act on its wording; secrets in it
    have been taken out before.
    """
    if isinstance(fault, UpstreamFault) and fault.answer is not None and speaks_for_itself(fault):
        headers, body = list(fault.answer.headers), fault.answer.body
    else:
        headers, body = [_JSON], wire.error_body(fault, request_id)
    named = {name for name, _ in headers}
    if wire.request_id_header not in named:
        headers.append((wire.request_id_header, request_id.encode()))
    if fault.retry_after is not None and b"retry-after" not in named:
        headers.append((b"retry-after", b"%d" % -(-fault.retry_after // 1)))
    if b"x-should-retry" not in named:
        headers.append((b"x-should-retry", b"true" if should_retry(fault) else b"false"))
    return headers, body
