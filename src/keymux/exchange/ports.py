"""What the exchange needs from outside, as small protocols, and what it is handed."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from msgspec import Struct

from keymux.core.faults import UpstreamFault
from keymux.core.records import AttemptStarted, ExchangeRow, Reservation
from keymux.core.retrying import Patience
from keymux.core.vocabulary import Caller, Kind, Operation, Quality, Usage
from keymux.exchange.watch import Watched
from keymux.settings import Limits, Timeouts
from keymux.upstream.request import UpstreamRequest
from keymux.wire.formats import Format

RawHeaders = Sequence[tuple[bytes, bytes]]


class Rules(Struct, frozen=True):
    """The figures that exchanges go by.

    Attributes:
        patience: how much an exchange may try.
        timeouts: how long it may wait for what.
        limits: how much it may carry.
    """

    patience: Patience
    timeouts: Timeouts
    limits: Limits


class ClientRequest(Struct, frozen=True):
    """A request as it came, with the few things the gateway read from it.

    Attributes:
        id: request id of this exchange.
        format: wire format of the client.
        operation: what it asks for.
        kind: how it may be repeated.
        model: as the client named it.
        stream: whether it wants server-sent events.
        wants_usage: whether its answer will carry usage without our doing.
        max_tokens: most tokens the answer may have, 0 when not limited.
        body: the bytes.
        headers: those that may be forwarded.
        query: raw query string.
        is_client_retry: the client said that it is repeating itself.
    """

    id: str
    format: Format
    operation: Operation
    kind: Kind
    model: str
    stream: bool
    wants_usage: bool
    max_tokens: int
    body: bytes
    headers: tuple[tuple[str, str], ...]
    query: str
    is_client_retry: bool


class Incoming(Protocol):
    """A request that has arrived, head first.

    Attributes:
        id: request id.
        format: wire format of the endpoint it came to, and
        operation: what that endpoint does.
        client_keys: the secrets it shows; often one, sometimes none.
        timeout_s: seconds the client is willing to wait, if it says so.
    """

    id: str
    format: Format
    operation: Operation
    client_keys: tuple[str, ...]
    timeout_s: float | None

    async def read(self, watched: Watched, rules: Rules) -> ClientRequest:
        """The whole request; raises a ClientFault if it is no good, ClientGone if it ends early."""


class Client(Protocol):
    """The one we answer.

    Attributes:
        started: status and headers are sent.
    """

    started: bool

    def start(self, status: int, headers: RawHeaders) -> Awaitable[None]:
        """Send status and headers."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a part of the body."""

    def finish(self, data: bytes = b"") -> Awaitable[None]:
        """Send the last part of the body."""

    async def gone(self) -> None:
        """Return when the client has left."""


class AnswerHead(Protocol):
    """What comes before the body of an answer."""

    @property
    def status(self) -> int:
        """HTTP status, 2xx."""

    @property
    def content_type(self) -> str:
        """Of the body, lower case, without parameters."""

    @property
    def headers(self) -> RawHeaders:
        """Those a client may see, without the request id."""

    @property
    def request_id(self) -> str:
        """The upstream's; empty for none."""


class Answer(AnswerHead, Protocol):
    """An upstream's answer, still arriving."""

    async def chunk(self) -> bytes | None:
        """The next bytes of the body, None at its end; raises Truncated when it is cut."""

    async def whole(self) -> bytes:
        """The rest of the body."""


class Ask(Protocol):
    """One attempt at an upstream."""

    @property
    def is_open(self) -> bool:
        """There is an answer that was not read to its end."""

    async def answer(self) -> Answer:
        """Send the request; raises an UpstreamFault unless the answer is 2xx."""

    def read_error(self, data: bytes) -> UpstreamFault:
        """The fault that an error inside a 200 stands for."""

    def redact(self, data: bytes) -> bytes:
        """What an upstream says, without the secrets in it."""

    async def close(self) -> None:
        """Give the connection back, or close it if the answer was not read to its end."""


class Upstreams(Protocol):
    """The way out."""

    def ask(self, request: UpstreamRequest) -> Ask:
        """One attempt."""


class Tokens(Protocol):
    """What an answer used, as far as anybody knows."""

    def settle(self, prompt_tokens: int) -> tuple[Usage, Quality]:
        """The usage and how well it is known, given an estimate for the request."""


class Book(Protocol):
    """Where exchanges are booked; every call returns at once."""

    def reserve(self, reservation: Reservation) -> None:
        """An exchange was admitted."""

    def begin(self, attempt: AttemptStarted) -> None:
        """An attempt is about to be sent."""

    def settle(self, row: ExchangeRow) -> None:
        """An exchange is over."""


class Callers(Protocol):
    """Who may come in."""

    def find(self, client_key: str) -> Caller | None:
        """The caller a client key belongs to."""
