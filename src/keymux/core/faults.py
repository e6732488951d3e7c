"""Everything that can go wrong: one tree, each leaf with a public code, a status and a blame.

Only leaves are raised. A raise adds facts; the words around them stand here, so that the
message, `docs/errors.md` and the ledger cannot disagree. What happens next to an
`UpstreamFault` is not decided here but in the table of `keymux.core.retrying`.
"""

from math import ceil
from typing import ClassVar

from msgspec import Struct

from keymux.core.vocabulary import Word


class Blame(Word):
    """What a fault counts against."""

    CLIENT = "client"
    KEY = "key"
    GROUP = "quota group"
    EGRESS = "egress"
    PROVIDER = "provider"
    GATEWAY = "gateway"
    NOBODY = "nobody"


class Answer(Struct, frozen=True):
    """What an upstream said instead of serving the request, as it came.

    Attributes:
        status: its HTTP status, or the one its error event stands for.
        content_type: empty when it named none.
        body: the bytes, secrets still inside: redact before they leave the process.
        headers: the response headers that a client may see.
    """

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Fault(Exception):  # noqa: N818 -- "fault" is the word of the vocabulary
    """A named failure.

    Attributes:
        code: stable public name, sent to clients and written to the ledger.
        status: HTTP status of the refusal.
        blame: what it counts against.
        says: the message, with the facts of the raise in braces.
        facts: what the raise added.
        retry_after: seconds after which trying again makes sense, when known.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    blame: ClassVar[Blame]
    says: ClassVar[str]

    def __init__(self, *, retry_after: float | None = None, **facts: object) -> None:
        self.facts = facts
        self.retry_after = retry_after
        seconds = max(1, ceil(retry_after or 1))
        super().__init__(self.says.format(**{"retry_after_s": seconds, **facts}))

    @property
    def message(self) -> str:
        """What was wrong and what to do about it, for the client."""
        return str(self)


# --------------------------------------------------------------------------------------------
# the client's own
class ClientFault(Fault):
    """The request itself cannot be served; nothing was sent upstream."""

    blame = Blame.CLIENT


class BadRequest(ClientFault):
    """The body or a header cannot be understood."""

    code = "bad_request"
    status = 400
    says = "{problem}"


class NotRecognised(ClientFault):
    """No client key, or one that is unknown, expired or revoked."""

    code = "invalid_client_key"
    status = 401
    says = (
        "{problem} Send a keymux client key as 'Authorization: Bearer km-...' or "
        "'x-api-key: km-...'; the operator makes one with 'keymux clients add'."
    )


class NotAllowed(ClientFault):
    """The caller is known but may not do this."""

    code = "not_allowed"
    status = 403
    says = "This client key may not use the model '{model}'; ask the operator to allow it."


class UnknownModel(ClientFault):
    """No route serves the model."""

    code = "model_not_found"
    status = 404
    says = "The model '{model}' is not served here; GET /v1/models lists those that are."


class UnknownPath(ClientFault):
    """No such endpoint."""

    code = "unknown_path"
    status = 404
    says = (
        "No endpoint at this path. keymux serves POST /v1/chat/completions, POST /v1/messages, "
        "POST /v1/messages/count_tokens and GET /v1/models."
    )


class WrongMethod(ClientFault):
    """The endpoint exists, for another method."""

    code = "method_not_allowed"
    status = 405
    says = "This endpoint takes {allowed}, not {method}."


class BodyLate(ClientFault):
    """The client stopped sending its request."""

    code = "request_timeout"
    status = 408
    says = "The request body did not come within {seconds} s. Send it again in one go."


class LengthRequired(ClientFault):
    """A chunked request while the operator has not allowed them."""

    code = "length_required"
    status = 411
    says = (
        "Requests with Transfer-Encoding are not accepted here: send the body with a "
        "Content-Length only (operators: limits.chunked_requests)."
    )


class RequestTooLarge(ClientFault):
    """The body is over the limit."""

    code = "request_too_large"
    status = 413
    says = "The request body is over the limit of {limit} bytes; send a smaller one."


class UnsupportedEncoding(ClientFault):
    """The body is compressed."""

    code = "unsupported_encoding"
    status = 415
    says = "The request body has Content-Encoding '{encoding}'; send it uncompressed."


class HeadersTooLarge(ClientFault):
    """Too many or too large headers."""

    code = "headers_too_large"
    status = 431
    says = (
        "The request headers take {size} bytes, the limit is {limit}; send fewer or shorter ones."
    )


class FormatNotServed(ClientFault):
    """The model is served, but no target of its route speaks the client's format."""

    code = "format_not_served"
    status = 400
    says = (
        "The model '{model}' is not served in the {format} format by any provider of its route; "
        "use the {other} API for it."
    )


class TooManyAtOnce(ClientFault):
    """A concurrency cap that protects the others was reached."""

    code = "too_many_requests"
    status = 429
    says = "Too many {what} at once (limit {limit}); try again in {retry_after_s} s."


# --------------------------------------------------------------------------------------------
# the gateway's own
class GatewayFault(Fault):
    """keymux itself cannot serve the request now."""

    blame = Blame.GATEWAY


class NoneReady(GatewayFault):
    """No upstream key of the route can be leased now."""

    code = "no_capacity"
    status = 503
    says = "No upstream key for the model '{model}' is ready; try again in {retry_after_s} s."


class AllThrottled(NoneReady):
    """Every upstream key of the route is held back by the provider's rate limit."""

    code = "rate_limited"
    status = 429
    says = (
        "Every upstream key for the model '{model}' is rate-limited; "
        "try again in {retry_after_s} s."
    )


class EgressDown(NoneReady):
    """Every upstream key that is left is bound to egress proxies that are down."""

    code = "egress_unavailable"
    status = 503
    blame = Blame.EGRESS
    says = (
        "The way out to the upstream keys for the model '{model}' is down; "
        "try again in {retry_after_s} s."
    )


class DeadlineReached(GatewayFault):
    """The time for the whole exchange ran out."""

    code = "deadline_reached"
    status = 504
    says = "No complete answer within {seconds} s; allow more time or ask for less."


class Overburdened(GatewayFault):
    """More exchanges at once than this process takes."""

    code = "overloaded"
    status = 503
    says = "keymux is at its limit of exchanges at once; try again in {retry_after_s} s."


class Draining(GatewayFault):
    """The process is about to stop."""

    code = "draining"
    status = 503
    says = "This keymux process is shutting down; try again."


class LedgerFull(GatewayFault):
    """The ledger can neither be stored nor journaled any more."""

    code = "store_unavailable"
    status = 503
    says = "keymux cannot book exchanges at the moment; try again in {retry_after_s} s."


class Internal(GatewayFault):
    """A defect in keymux."""

    code = "internal"
    status = 500
    says = "keymux failed on this request; tell the operator the request id {request_id}."


class ClientGone(Fault):
    """The client hung up; nobody is blamed."""

    code = "client_gone"
    status = 499
    blame = Blame.NOBODY
    says = "The client closed the connection."


class ClientStalled(ClientFault):
    """The client stopped reading its answer."""

    code = "client_stalled"
    status = 499
    says = "The client read nothing for {seconds} s."


# --------------------------------------------------------------------------------------------
# the upstream's
class UpstreamFault(Fault):
    """An attempt failed. What follows is a row of the decision table.

    Attributes:
        answer: what the upstream said, when it said anything.
        told: seconds the upstream asked us to wait.
        reason: a short text for the ledger and the operator, already redacted.
    """

    def __init__(
        self,
        *,
        answer: Answer | None = None,
        told: float | None = None,
        reason: str = "",
        retry_after: float | None = None,
        **facts: object,
    ) -> None:
        self.answer = answer
        self.told = told
        self.reason = reason
        super().__init__(retry_after=retry_after, **facts)


class Unreachable(UpstreamFault):
    """No connection: name not found, refused, timed out. Nothing was sent."""

    code = "upstream_unreachable"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider could not be reached; try again later."


class CertificateRejected(UpstreamFault):
    """The provider's TLS certificate did not verify. Nothing was sent."""

    code = "upstream_certificate_rejected"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider's TLS certificate could not be verified; the operator has to look at it."


class EgressFailed(UpstreamFault):
    """The provider could not be reached through the egress proxy. Nothing was sent."""

    code = "egress_failed"
    status = 503
    blame = Blame.EGRESS
    says = "The way out to the provider is down; try again later."


class EgressRefused(UpstreamFault):
    """The egress proxy does not accept our credentials. Nothing was sent."""

    code = "egress_refused"
    status = 503
    blame = Blame.EGRESS
    says = "The way out to the provider is down; the operator has to look at it."


class StaleConnection(UpstreamFault):
    """A kept-alive connection was gone before the request was written."""

    code = "stale_connection"
    status = 502
    blame = Blame.NOBODY
    says = "The connection to the provider was lost before the request was sent; try again."


class RequestCut(UpstreamFault):
    """The provider turned the request away before it was complete."""

    code = "upstream_refused_stream"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider turned the request away before reading it; try again."


class NoReply(UpstreamFault):
    """The complete request was sent and the connection ended without a status."""

    code = "upstream_no_reply"
    status = 502
    blame = Blame.PROVIDER
    says = (
        "The provider closed the connection without an answer; the request may have been processed."
    )


class FirstEventLate(UpstreamFault):
    """No answer in the time allowed for the first event."""

    code = "upstream_timeout"
    status = 504
    blame = Blame.PROVIDER
    says = "The provider did not start to answer within {seconds} s."


class UpstreamTimedOut(UpstreamFault):
    """The provider's own edge gave up waiting: 408, 425, 504, 520 to 524."""

    code = "upstream_gateway_timeout"
    status = 504
    blame = Blame.PROVIDER
    says = "The provider timed out on the request; it may have been processed."


class ServerFailed(UpstreamFault):
    """500 and its like."""

    code = "upstream_error"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider failed on the request."


class BadGateway(UpstreamFault):
    """502."""

    code = "upstream_bad_gateway"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider's edge could not reach its own servers."


class Unavailable(UpstreamFault):
    """503 without a time to wait."""

    code = "upstream_unavailable"
    status = 503
    blame = Blame.PROVIDER
    says = "The provider is unavailable; try again later."


class Overloaded(UpstreamFault):
    """529, an overload event, or 503 with a time to wait."""

    code = "upstream_overloaded"
    status = 503
    blame = Blame.PROVIDER
    says = "The provider is overloaded; try again later."


class KeyThrottled(UpstreamFault):
    """429: the quota group is over its rate for this model."""

    code = "key_throttled"
    status = 429
    blame = Blame.GROUP
    says = "The provider's rate limit is reached; try again later."


class SlowDown(UpstreamFault):
    """429 that asks for a gentler rise of the request rate."""

    code = "key_slow_down"
    status = 429
    blame = Blame.GROUP
    says = "The provider asks for fewer requests at a time; try again later."


class KeySpent(UpstreamFault):
    """The quota group's budget, credit or quota is used up."""

    code = "key_spent"
    status = 503
    blame = Blame.GROUP
    says = "No upstream capacity is left for this model; try again later."


class KeyRejected(UpstreamFault):
    """401, or a 400 that means the key is not valid."""

    code = "key_rejected"
    status = 503
    blame = Blame.KEY
    says = "No upstream capacity is left for this model; try again later."


class KeyRevoked(UpstreamFault):
    """The key or its account was revoked, banned, deactivated or reported as leaked."""

    code = "key_revoked"
    status = 503
    blame = Blame.GROUP
    says = "No upstream capacity is left for this model; try again later."


class PolicyBlocked(UpstreamFault):
    """The provider refuses this region or address."""

    code = "upstream_policy"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider does not serve requests from this gateway's region or address."


class ModelNotPermitted(UpstreamFault):
    """The key may not use this model."""

    code = "model_not_permitted"
    status = 503
    blame = Blame.KEY
    says = "No upstream key is permitted to use this model; ask the operator."


class Forbidden(UpstreamFault):
    """403 that names no reason we know."""

    code = "upstream_forbidden"
    status = 403
    blame = Blame.NOBODY
    says = "The provider refused the request."


class RequestRefused(UpstreamFault):
    """The provider found the client's request wrong: 400, 404, 409, 413, 422."""

    code = "request_refused"
    status = 400
    blame = Blame.CLIENT
    says = "The provider refused the request."


class ContextTooLong(UpstreamFault):
    """The prompt does not fit the model's context."""

    code = "context_too_long"
    status = 400
    blame = Blame.CLIENT
    says = "The prompt is too long for the model."


class ContentRefused(UpstreamFault):
    """The provider's content policy refused the request."""

    code = "content_refused"
    status = 400
    blame = Blame.CLIENT
    says = "The provider's content policy refused the request."


class OperationMissing(UpstreamFault):
    """The provider does not serve this operation, such as the counting of tokens."""

    code = "operation_missing"
    status = 404
    blame = Blame.NOBODY
    says = "The provider does not serve this operation."


class Redirected(UpstreamFault):
    """3xx: never followed, because the key would go along."""

    code = "upstream_redirected"
    status = 502
    blame = Blame.PROVIDER
    says = (
        "The provider answered with a redirect, which keymux does not follow; "
        "the operator has to look at it."
    )


class Unintelligible(UpstreamFault):
    """The answer is not HTTP, or not the format that was asked for."""

    code = "upstream_unintelligible"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider's answer is not in the format of its API."


class EmptyReply(UpstreamFault):
    """A 200 stream that ended before its first event."""

    code = "upstream_empty"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider ended its answer before it began."


class Truncated(UpstreamFault):
    """A non-streaming answer that stops in the middle."""

    code = "upstream_truncated"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider's answer was cut off; the request was processed and may be billed."


class StreamBroken(UpstreamFault):
    """A stream was cut, stalled or failed after part of it went to the client."""

    code = "stream_broken"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider's stream broke off: {how}."


class StreamFailed(UpstreamFault):
    """A stream told of an error itself, after part of it went to the client."""

    code = "stream_failed"
    status = 502
    blame = Blame.PROVIDER
    says = "The provider ended its stream with an error."


class StreamStalled(UpstreamFault):
    """A stream fell silent after part of it went to the client."""

    code = "stream_stalled"
    status = 504
    blame = Blame.PROVIDER
    says = "The provider's stream broke off: nothing came for {seconds} s."


class DrainLate(UpstreamFault):
    """A stream stayed open after its end marker; the client has everything."""

    code = "stream_not_closed"
    status = 502
    blame = Blame.NOBODY
    says = "The provider kept its stream open after the end."


def leaves(root: type[Fault] = Fault) -> tuple[type[Fault], ...]:
    """Every fault that can be raised, in the order they are written down."""
    below = root.__subclasses__()
    found = [] if not hasattr(root, "code") else [root]
    for child in below:
        found.extend(leaves(child))
    return tuple(found)
