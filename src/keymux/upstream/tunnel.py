"""Whether a provider can be reached through a proxy: a TLS handshake, and no byte of a request.

The HTTP client of the request path tunnels by itself. This asks the same of a proxy step by step,
so that an operator is told what went wrong: the client only knows that it did.
"""

import asyncio
import base64
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

import h11
from msgspec import Struct

from keymux.core.egress import ProxyAddress, ProxyType
from keymux.upstream.request import USER_AGENT

_HTTPS, _HTTP = 443, 80
_HEAD_BYTES = 16_384
_READ_BYTES = 4096
_AUTHORIZATION_NEEDED = frozenset({401, 407})  # 401 is what tinyproxy says

_VERSION, _CONNECT, _OK = 5, 1, 0
_NO_LOGIN, _LOGIN, _NO_METHOD = 0, 2, 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4
_LONGEST_LOGIN = 255
_REPLIES = {
    1: "general failure",
    2: "connection not allowed",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
"""Reply codes of RFC 1928, section 6."""


class Target(Struct, frozen=True):
    """What is to be reached through a proxy.

    Attributes:
        host: name or IP address.
        port: of the server.
        tls: whether it speaks TLS; without, a connection is all that is tried.
        ca_file: further certificates to trust.
    """

    host: str
    port: int
    tls: bool = True
    ca_file: str | None = None


class Plan(Struct, frozen=True):
    """How to check.

    Attributes:
        targets: what to reach, by provider; those without one are not checked.
        every_s: seconds between the checks of an exit that is well.
        within_s: seconds for one check.
    """

    targets: Mapping[str, Target]
    every_s: float
    within_s: float


class TunnelFailed(Exception):  # noqa: N818 -- names what happened
    """The target was not reached.

    Attributes:
        reason: in words, without addresses or secrets.
        is_refusal: the proxy wants other credentials: only an operator can help.
    """

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        self.reason = reason
        self.is_refusal = is_refusal
        super().__init__(reason)


def target_of(base_url: str, ca_file: str | None) -> Target:
    """The server of a provider."""
    parts = urlsplit(base_url)
    tls = parts.scheme == "https"
    port = parts.port or (_HTTPS if tls else _HTTP)
    return Target(parts.hostname or "", port, tls, ca_file)


async def check(address: ProxyAddress, target: Target, timeout_s: float) -> float:
    """Reach a target through a proxy, and leave.

    Args:
        address: of the proxy.
        target: to be reached.
        timeout_s: seconds for all of it.

    Returns:
        Seconds until the TLS handshake with the target was over.

    Raises:
        TunnelFailed: it was not reached.
    """
    begun, stage = time.monotonic(), _Stage("the proxy")
    try:
        async with asyncio.timeout(timeout_s), _connected(address) as (reader, writer):
            if address.type is ProxyType.HTTPS:
                context = _context(target.ca_file)  # as the HTTP client, which has one trust store
                await writer.start_tls(context, server_hostname=address.host)
            ask = _ask_socks if address.type is ProxyType.SOCKS5 else _ask_http
            await ask(reader, writer, address, target)
            stage.of = "the provider through the proxy"
            if target.tls:
                await _shake_hands(reader, writer, _context(target.ca_file), target.host)
            return time.monotonic() - begun
    except TimeoutError:
        raise TunnelFailed(f"{stage.of}: timed out") from None
    except (UnicodeError, h11.LocalProtocolError):
        raise TunnelFailed(f"{stage.of}: has no name that can be asked for") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise TunnelFailed(f"{stage.of}: {_words_for(error)}") from None


async def _shake_hands(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    context: ssl.SSLContext,
    name: str,
) -> None:
    """Set TLS up, within TLS where that is what the streams carry: asyncio 3.11 fails at it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            return
        finally:
            writer.write(outgoing.read())
        await writer.drain()
        data = await reader.read(_READ_BYTES)
        if not data:
            raise ConnectionResetError
        incoming.write(data)


class _Stage:
    def __init__(self, of: str) -> None:
        self.of = of


@asynccontextmanager
async def _connected(
    address: ProxyAddress,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_HEAD_BYTES)
    plain = writer.transport  # what TLS is put on; to abort TLS itself fails when it has broken off
    try:
        yield reader, writer
    finally:
        plain.abort()  # a peer that does not answer cannot keep us


@lru_cache(maxsize=64)
def _context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _words_for(error: OSError | asyncio.IncompleteReadError) -> str:
    """What happened, without addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({(error.reason or 'broken off').lower().replace('_', ' ')})"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "closed the connection"


# -- CONNECT ---------------------------------------------------------------------------------------
async def _ask_http(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: ProxyAddress,
    target: Target,
) -> None:
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = f"{host}:{target.port}"
    headers = [("host", authority), ("user-agent", USER_AGENT)]
    if address.username:
        login = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
        headers.append(("proxy-authorization", f"Basic {login}"))
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    request = h11.Request(method="CONNECT", target=authority, headers=headers)
    writer.write(connection.send(request) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    try:
        status = await _status(reader, connection)
    except h11.RemoteProtocolError:
        raise TunnelFailed("the proxy: answered with something that is not HTTP") from None
    if status in _AUTHORIZATION_NEEDED:
        words = "refused the credentials" if address.username else "asks for credentials"
        raise TunnelFailed(f"the proxy: {words} ({status})", is_refusal=True)
    if not 200 <= status < 300:  # noqa: PLR2004 -- the statuses of success
        raise TunnelFailed(f"the proxy: answered CONNECT with {status}")
    if connection.trailing_data[0]:
        raise TunnelFailed("the proxy: sent more than its answer to CONNECT")


async def _status(reader: asyncio.StreamReader, connection: h11.Connection) -> int:
    """The status of the answer, as soon as its head is complete."""
    left = 4 * _HEAD_BYTES
    while left > 0:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise TunnelFailed("the proxy: closed the connection")
            left -= len(data)
            connection.receive_data(data)
    raise TunnelFailed("the proxy: answers CONNECT without an end")


# -- SOCKS5, RFC 1928 and 1929 ---------------------------------------------------------------------
async def _ask_socks(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: ProxyAddress,
    target: Target,
) -> None:
    wanted = _LOGIN if address.username else _NO_LOGIN  # as the HTTP client: no other will do
    writer.write(bytes([_VERSION, 1, wanted]))
    version, method = await reader.readexactly(2)
    if version != _VERSION:
        raise TunnelFailed("the proxy: does not speak SOCKS5")
    if method != wanted:
        words = "takes no credentials" if address.username else "asks for credentials"
        raise TunnelFailed(f"the proxy: {words}", is_refusal=method == _NO_METHOD)
    if address.username:
        await _log_in(reader, writer, address)
    request = bytes([_VERSION, _CONNECT, 0]) + _socks_host(target.host)
    writer.write(request + target.port.to_bytes(2))
    version, reply, _, kind = await reader.readexactly(4)
    if version != _VERSION:
        raise TunnelFailed("the proxy: does not speak SOCKS5")
    if reply != _OK:
        words = _REPLIES.get(reply, f"unknown reply {reply}")
        raise TunnelFailed(f"the proxy: could not reach the provider ({words})")
    await _skip_address(reader, kind)


async def _log_in(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: ProxyAddress
) -> None:
    username, password = address.username.encode(), address.password.encode()
    if max(len(username), len(password)) > _LONGEST_LOGIN:
        raise TunnelFailed("the proxy: user or password too long for SOCKS5", is_refusal=True)
    writer.write(b"\x01" + bytes([len(username)]) + username + bytes([len(password)]) + password)
    _, status = await reader.readexactly(2)
    if status != _OK:
        raise TunnelFailed("the proxy: refused the credentials", is_refusal=True)


def _socks_host(host: str) -> bytes:
    try:
        packed = ip_address(host).packed
    except ValueError:
        name = host.encode("idna")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if len(packed) == 4 else _IPV6]) + packed  # noqa: PLR2004 -- of IPv4


async def _skip_address(reader: asyncio.StreamReader, kind: int) -> None:
    """The address that the proxy has bound, and its port; nobody needs them."""
    if kind == _NAME:
        length = (await reader.readexactly(1))[0]
    elif kind in {_IPV4, _IPV6}:
        length = 4 if kind == _IPV4 else 16
    else:
        raise TunnelFailed("the proxy: does not speak SOCKS5")
    await reader.readexactly(length + 2)
