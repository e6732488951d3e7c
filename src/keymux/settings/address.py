"""Where a provider may live: any https address, or plain http on this very machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

_FIRST, _LAST = "!", "~"


def check_address(value: str) -> None:
    """Check a base URL.

    The value itself is never repeated, for it may hold what somebody took for a user and password.

    Raises:
        ValueError: it is not an address keymux sends keys to.
    """
    if not all(_FIRST <= letter <= _LAST for letter in value) or "\\" in value:
        raise ValueError("a URL has no spaces, control characters, backslashes or other scripts")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # whose words repeat parts of the value
        raise ValueError("is not a URL: its host or its port is malformed") from None
    if "@" in parts.netloc or "?" in value or "#" in value or port == 0:
        raise ValueError("give scheme, host, port and path only: no user, query or fragment")
    if not parts.hostname or "%" in parts.netloc:
        raise ValueError("is not a URL with a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("use https; plain http is allowed on a loopback address only")


def check_target(value: str) -> None:
    """Check the host and port of a TLS server.

    Raises:
        ValueError: it is not that.
    """
    try:
        parts = urlsplit(f"//{value}")
        is_good = bool(parts.hostname and parts.port) and parts.netloc == value
    except ValueError:
        is_good = False
    if not is_good or "@" in value:
        raise ValueError("give host:port, such as example.com:443 or [2001:db8::1]:443")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else, in a spelling nobody reads differently."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
