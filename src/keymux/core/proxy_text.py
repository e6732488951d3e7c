"""Egress proxies as operators write them: URLs, lines with colons, and fields of a table.

Whatever is wrong is a `ValueError` that continues the sentence "this text ...". None of them
repeats any of the text: a password may stand nearly anywhere in it.
"""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from types import MappingProxyType
from unicodedata import category
from urllib.parse import unquote_to_bytes

from keymux.core.egress import DIRECT, ProxyAddress, ProxyType

NAME_RULE = "1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit"

_TYPES: Mapping[str, ProxyType] = MappingProxyType(
    {**{kind.value: kind for kind in ProxyType}, "socks5h": ProxyType.SOCKS5}
)
_KNOWN = "http, https, socks5 and socks5h"
_DEFAULT_PORTS: Mapping[ProxyType, int] = MappingProxyType(
    {ProxyType.HTTPS: 443, ProxyType.SOCKS5: 1080}
)
_LAST_PORT = 65_535
_LONGEST_TEXT = 8_192
_LONGEST_NAME = 63
_LONGEST_HOST = 253
_MOST_BYTES = 2_048
_MOST_BYTES_SOCKS5 = 255

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LIKE_A_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that nobody sees, and that could end a line of a protocol."""

_NO_PORT = "has no port: write host:port"
_ODD_PORT = f"has a port that is no number from 1 to {_LAST_PORT}"

_Fields = tuple[str, str, str, str]
"""Host, port, user and password, each as it is written."""


# -- texts -----------------------------------------------------------------------------------------
def read_proxy(text: str, plain_type: ProxyType = ProxyType.HTTP) -> ProxyAddress:
    """The proxy that a text names.

    URLs are percent-decoded, in user and password; lines are taken as they stand. The ways to
    write a line: ``host:port``, ``host:port:user:password``, ``user:password@host:port``.

    Args:
        text: a URL or a line.
        plain_type: what a proxy speaks whose text has no scheme.

    Raises:
        ValueError: what is wrong, without any of the text.
    """
    _check_text(text)
    scheme = _SCHEME.match(text)
    if scheme:
        return _of_url(type_of(scheme[1]), text[scheme.end() :])
    return _of_line(text, plain_type)


def _check_text(text: str) -> None:
    if not text:
        raise ValueError("is empty: write a URL, or host:port")
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"has more than {_LONGEST_TEXT} characters")
    if text.isascii() and text.isprintable() and " " not in text:
        return
    if any(category(letter) in _HIDDEN for letter in text):
        raise ValueError("holds a control character or another that is not seen")
    if any(letter.isspace() for letter in text):
        raise ValueError("holds a space: in a URL it is written %20")


def type_of(word: str) -> ProxyType:
    """What a proxy speaks, from a scheme.

    Raises:
        ValueError: nobody knows that.
    """
    found = _TYPES.get(word.lower())
    if found is None:
        raise ValueError(f"has an unknown scheme; there are {_KNOWN}")
    return found


def _of_url(kind: ProxyType, rest: str) -> ProxyAddress:
    if rest.endswith("/") and rest.count("/") == 1:
        rest = rest[:-1]
    if any(letter in rest for letter in "/?#\\"):
        raise ValueError(
            "has a path, query or fragment, or a user or password with / ? # or \\ in it: "
            "leave out the one, write the other as %2F %3F %23 %5C"
        )
    user, _, place = rest.rpartition("@")
    username, _, password = user.partition(":")
    host, port = _split(place)
    return proxy_of(kind, host, port, _decoded(username), _decoded(password))


def _decoded(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise ValueError("has a % in its user or password that is not written %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("has a user or password that is not UTF-8 once decoded") from None


def _of_line(text: str, kind: ProxyType) -> ProxyAddress:
    by_colons, by_sign = _fields_by_colons(text), _fields_by_sign(text)
    if by_colons and by_sign:
        raise ValueError("can be read in two ways: write it as a URL, type://user:password@host")
    fields = by_colons or by_sign or _fields_of_the_rest(text)
    host, port, username, password = fields
    return proxy_of(kind, host, port, username, password)


def _fields_by_colons(text: str) -> _Fields | None:
    """``host:port`` or ``host:port:user:password``; the password may hold colons."""
    try:
        host, rest = _host_and_rest(text)
    except ValueError:
        return None
    port, *credentials = rest.split(":", 2)
    if not _is_port(port) or len(credentials) == 1 or not is_host(host):
        return None
    username, password = credentials or ("", "")
    return host, port, username, password


def _fields_by_sign(text: str) -> _Fields | None:
    """``user:password@host:port``; the password may hold colons and further signs."""
    user, sign, place = text.rpartition("@")
    username, colon, password = user.partition(":")
    if not sign or not colon or not username:
        return None
    try:
        host, port = _split(place)
    except ValueError:
        return None
    return (host, port, username, password) if _is_port(port) and is_host(host) else None


def _fields_of_the_rest(text: str) -> _Fields:
    """``user@host:port``; for all else the reason why it is none of the ways."""
    username, _, place = text.rpartition("@")
    host, rest = _host_and_rest(place)
    port, *more = rest.split(":")
    if not is_host(host) or not _is_port(port):
        _host(host)
        raise ValueError(_ODD_PORT if port else _NO_PORT)
    if more or ":" in username:
        raise ValueError(
            "is none of host:port, host:port:user:password, user:password@host:port, or a URL"
        )
    return host, port, username, ""


def _split(place: str) -> tuple[str, str]:
    """Host and port; the port is empty when none is written."""
    host, rest = _host_and_rest(place) if ":" in place else (place, "")
    if not rest and place.endswith(":"):
        raise ValueError(_NO_PORT)
    return host, rest


def _host_and_rest(text: str) -> tuple[str, str]:
    """What stands before and after the first colon that is not part of an IPv6 address."""
    if not text.startswith("["):
        host, _, rest = text.partition(":")
        return host, rest
    host, bracket, rest = text.partition("]")
    if not bracket or (rest and not rest.startswith(":")):
        raise ValueError("has a [ that begins no IPv6 address: write [2001:db8::1]:8080")
    return f"{host}]", rest[1:]


# -- fields ----------------------------------------------------------------------------------------
def proxy_of(
    kind: ProxyType, host: str, port: str, username: str = "", password: str = ""
) -> ProxyAddress:
    """A proxy from its parts, each as it is written.

    Args:
        kind: what it speaks.
        host: a name or an IP address, an IPv6 address with or without brackets.
        port: empty for that of its type, if it has one.
        username: empty for none.
        password: empty for none.

    Raises:
        ValueError: what is wrong, without any of it.
    """
    address = ProxyAddress(kind, _host(host), _port(port, kind), username, password)
    check_credentials(address)
    return address


def check_credentials(address: ProxyAddress) -> None:
    """Check whether the user and the password can be said to the proxy.

    Raises:
        ValueError: they cannot.
    """
    username, password = address.username, address.password
    if password and not username:
        raise ValueError("has a password and no user")
    if any(category(letter) in _HIDDEN for letter in username + password):
        raise ValueError("has a user or password with a character that is not seen")
    is_socks = address.type is ProxyType.SOCKS5
    if ":" in username and not is_socks:
        raise ValueError(
            "has a user with a colon, which an http or https proxy takes for the end of the user"
        )
    most = _MOST_BYTES_SOCKS5 if is_socks else _MOST_BYTES
    if max(len(username.encode()), len(password.encode())) > most:
        raise ValueError(f"has a user or password of more than {most} bytes")


def _port(text: str, kind: ProxyType) -> int:
    if not text and kind in _DEFAULT_PORTS:
        return _DEFAULT_PORTS[kind]
    if not text:
        raise ValueError(_NO_PORT)
    if not _is_port(text):
        raise ValueError(_ODD_PORT)
    return int(text)


def _is_port(text: str) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text) <= _LAST_PORT


def is_host(text: str) -> bool:
    """Whether a text is a host name or an IP address."""
    try:
        _host(text)
    except ValueError:
        return False
    return True


def _host(text: str) -> str:
    """A host in the one spelling that it is stored in."""
    if not text:
        raise ValueError("has no host: write host:port")
    if not text.isascii():
        raise ValueError("has a host that is not ASCII: write it in its xn-- form")
    if ":" in text or text.startswith("["):
        return _ipv6(text)
    host = text.lower()
    labels = host.split(".")
    if _LIKE_A_NUMBER.fullmatch(labels[-1]):
        return _ipv4(host)
    if len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("has a host that is neither a name nor an IP address")
    return host


def _ipv6(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        found = IPv6Address(bare)
    except AddressValueError:
        raise ValueError("has a host that is no IPv6 address, such as [2001:db8::1]") from None
    if found.scope_id is not None:
        raise ValueError("has an IPv6 address with a zone, which only this host understands")
    return str(found)


def _ipv4(text: str) -> str:
    """An IPv4 address in four decimal numbers; other spellings mean different things elsewhere."""
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError("has a host that is no IPv4 address, such as 192.0.2.1") from None


# -- names -----------------------------------------------------------------------------------------
def check_name(name: str) -> None:
    """Check the name of a proxy.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"has a name that is none: {NAME_RULE}")
    if name.lower() == DIRECT:
        raise ValueError(f"has the name {DIRECT}, which means no egress proxy at all")


def name_for(address: ProxyAddress, number: int = 1) -> str:
    """A name made of host and port.

    Args:
        address: of the proxy.
        number: above 1 it is part of the name, so that there is always another one.
    """
    ending = f"-{address.port}" if number == 1 else f"-{address.port}-{number}"
    host = _NOT_IN_A_NAME.sub("-", address.host).lstrip("._-") or "proxy"
    return f"{host[: _LONGEST_NAME - len(ending)]}{ending}"
