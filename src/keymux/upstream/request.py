"""What is to be sent upstream."""

from msgspec import Struct

from keymux import __version__
from keymux.core.egress import ProxyAddress
from keymux.core.vocabulary import Operation, WireFormat

USER_AGENT = f"keymux/{__version__}"
"""What we call ourselves where a client does not name itself."""


class UpstreamRequest(Struct, frozen=True):
    """One attempt, ready to be signed.

    Attributes:
        provider: name of the configured provider.
        secret: the upstream key.
        way: the way out, unlike all others.
        format: of the body.
        operation: which of the provider's paths.
        stream: whether a stream is wanted.
        headers: the client's, as far as they may be forwarded.
        query: raw query string, forwarded as it is.
        body: the bytes.
        left_s: seconds its exchange has left.
        proxy: on that way; None when it is direct.
    """

    provider: str
    secret: str
    way: str
    format: WireFormat
    operation: Operation
    stream: bool
    headers: tuple[tuple[str, str], ...]
    query: str
    body: bytes
    left_s: float = 600.0
    proxy: ProxyAddress | None = None

    def __repr__(self) -> str:
        return f"<UpstreamRequest {self.provider} {self.operation}>"
