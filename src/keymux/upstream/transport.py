"""One HTTP client per way out, and the only place where its errors become faults.

Traps of pyreqwest 0.15, each found by experiment (2026-11):

* a request that is cancelled while it waits for one of the client's own slots is still sent later;
  so no limit is ever set there, and concurrency is bounded before the request exists;
* a stream is held back until a read buffer is full, unless the buffer is 0;
* a request whose caller is cancelled goes on until its head arrives: `slots` cuts it instead;
* the first bytes of a body are read together with the head unless the read buffer is 0, so a body
  that is cut early fails where the head is waited for;
* ``ConnectError`` is raised for every reset before the status line, also after the whole request
  was sent. Whether anything was sent stands only in the chain of causes.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct
from pyreqwest import exceptions as library
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.proxy import ProxyBuilder

from keymux.core import faults
from keymux.core.egress import DIRECT, ProxyAddress, ProxyType
from keymux.core.faults import UpstreamFault
from keymux.upstream.request import USER_AGENT
from keymux.upstream.slots import SPARE, Slots
from keymux.upstream.sockets import Scissors

_POOL_IDLE_S = 55
_POOL_IDLE = 8
"""Connections that a slot keeps for later; it seldom has more than one at work."""
_MAX_HEADERS = 64 * 1024
_SPARE_PROXIED = 2
"""Clients kept ready for a proxy: there may be a thousand of them."""
_FIRST_MARK = 60_000
"""Milliseconds without an acknowledgement after which a connection is given up, the shortest."""


class Way(Struct, frozen=True):
    """What makes connections incompatible: they are never shared between two ways.

    Attributes:
        egress: name of the way out of this host.
        ca_file: further certificates to trust.
        http2: whether HTTP/2 may be spoken.
        proxy: on that way; None when it is direct.
    """

    egress: str = DIRECT
    ca_file: str | None = None
    http2: bool = True
    proxy: ProxyAddress | None = None


class Transport:
    """HTTP clients, made when first needed, closed when idle, and at last together.

    Args:
        connect_s: seconds for name lookup, TCP and TLS.
        proxied_s: the same through a proxy.
    """

    def __init__(self, connect_s: float, proxied_s: float | None = None) -> None:
        self._connect_s = connect_s
        self._proxied_s = connect_s if proxied_s is None else proxied_s
        self._slots: dict[Way, Slots] = {}
        self._marks = count(_FIRST_MARK)
        self._scissors = Scissors()

    def slots(self, way: Way) -> Slots:
        """The HTTP clients for one way."""
        slots = self._slots.get(way)
        if slots is None:
            slots = self._slots[way] = Slots(
                partial(self._build, way),
                self._marks.__next__,
                self._scissors,
                self._seconds(way),
                SPARE if way.proxy is None else _SPARE_PROXIED,
            )
        return slots

    def _seconds(self, way: Way) -> float:
        return self._connect_s if way.proxy is None else self._proxied_s

    async def close_idle(self, seconds: float) -> None:
        """Close the clients of ways that were not used for so long."""
        idle = [way for way, slots in self._slots.items() if slots.is_idle(seconds)]
        await asyncio.gather(*(self._slots.pop(way).close() for way in idle))

    def client(self, way: Way) -> Client:
        """A client for one way, for requests that are never given up."""
        return self.slots(way).first().client

    def _build(self, way: Way, mark: int) -> Client:
        builder = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(enable=False)
            .referer(enable=False)
            .gzip(enable=False)
            .brotli(enable=False)
            .zstd(enable=False)
            .deflate(enable=False)
            .http1_lower_case_headers()
            .http2(enable=way.http2)
            .http2_initial_stream_window_size(2**20)
            .http2_initial_connection_window_size(2**22)
            .http2_max_header_list_size(_MAX_HEADERS)
            .connect_timeout(timedelta(seconds=self._seconds(way)))
            .pool_max_idle_per_host(_POOL_IDLE)
            .pool_idle_timeout(timedelta(seconds=_POOL_IDLE_S))
            .tcp_keepalive(timedelta(seconds=30))
            .tcp_user_timeout(timedelta(milliseconds=mark))
        )
        if way.proxy is not None:
            builder = builder.proxy(_proxy(way.proxy))
        if way.ca_file is not None:
            builder = builder.add_root_certificate_pem(Path(way.ca_file).read_bytes())
        return builder.build()

    async def close(self) -> None:
        """Close all clients and their connections."""
        self._scissors.close()
        ways, self._slots = list(self._slots.values()), {}
        await asyncio.gather(*(slots.close() for slots in ways))


def _proxy(address: ProxyAddress) -> ProxyBuilder:
    """A proxy as the library wants it: SOCKS credentials in the URL, others in a header."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.type is ProxyType.SOCKS5:
        login = ""
        if address.username:
            login = f"{quote(address.username, safe='')}:{quote(address.password, safe='')}@"
        return ProxyBuilder.all(f"socks5h://{login}{host}:{address.port}")
    proxy = ProxyBuilder.all(f"{address.type}://{host}:{address.port}")
    proxy = proxy.headers({"user-agent": USER_AGENT})
    return proxy.basic_auth(address.username, address.password) if address.username else proxy


_IN_BODY = "error decoding response body"
_NEVER_SENT = "client error (Connect)"
_SIGNS: tuple[tuple[str, type[UpstreamFault]], ...] = (
    ("invalid peer certificate", faults.CertificateRejected),
    ("tunnel error", faults.EgressFailed),
    ("socks", faults.EgressFailed),
    ("refused stream before processing", faults.RequestCut),
    ("error writing a body to connection", faults.RequestCut),
    ("operation was canceled", faults.StaleConnection),
    (_NEVER_SENT, faults.Unreachable),
)


def fault_before_answer(
    error: library.PyreqwestError, proxy: ProxyAddress | None = None
) -> UpstreamFault:
    """The fault for an error before a status line arrived.

    A provider that could not be reached through a proxy may be up for all others.
    """
    fault = _fault_before_answer(error)
    if proxy is None or not isinstance(fault, _NOT_REACHED):
        return fault
    refused = any(words in fault.reason.lower() for words in _CREDENTIALS)
    return (faults.EgressRefused if refused else faults.EgressFailed)(reason=fault.reason)


_NOT_REACHED = (faults.Unreachable, faults.CertificateRejected, faults.EgressFailed)
_CREDENTIALS = (
    "proxy authorization required",
    "credentials not accepted",
    "server does not support user/pass authentication",
)
"""What the library says of a proxy that wants a user, or another one."""


def _fault_before_answer(error: library.PyreqwestError) -> UpstreamFault:
    causes = tuple(_causes(error))
    story = " / ".join(causes)
    lowered = story.lower()
    reason = _reason(error, causes)
    if _IN_BODY in lowered:
        return fault_in_body(error)
    for words, fault in _SIGNS:
        if words.lower() in lowered:
            return fault(reason=reason)
    if isinstance(error, library.ConnectTimeoutError):
        return faults.Unreachable(reason=reason)
    if isinstance(error, library.DecodeError):
        return faults.Unintelligible(reason=reason)
    return faults.NoReply(reason=reason)


def fault_in_body(error: library.PyreqwestError) -> UpstreamFault:
    """The fault for an error while the body of an answer arrived."""
    return faults.Truncated(reason=_reason(error, tuple(_causes(error))))


def _causes(error: library.PyreqwestError) -> Iterator[str]:
    details = getattr(error, "details", None) or {}
    for cause in details.get("causes") or ():
        yield cause["message"]


def _reason(error: library.PyreqwestError, causes: tuple[str, ...]) -> str:
    """The innermost cause: the only one that names no URL."""
    return (causes[-1] if causes else error.message)[:200]
