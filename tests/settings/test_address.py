"""keymux sends keys to https addresses, and over plain http to this very machine only."""

import pytest

from keymux.settings.address import check_address, is_loopback


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://api.example.com/v1/some-path_0/",
        "https://api.example.com:8443/x",
        "HTTPS://API.EXAMPLE.COM",
        "https://10.0.0.1",
        "https://[2001:db8::1]:8443/x",
        "https://localhost",
        "https://api.example.com/a%20b",
        "http://localhost",
        "http://LOCALHOST:8105/openhands",
        "http://127.0.0.1:8105",
        "http://127.255.255.254",
        "http://[::1]",
        "http://[::1]:8105/x",
        "http://[0:0:0:0:0:0:0:1]",
    ],
)
def test_addresses_that_may_be_used(url: str) -> None:
    """Any https address, and loopback in spellings that nobody reads differently."""
    check_address(url)

    assert is_loopback("127.0.0.1")


PLAIN = [
    "http://api.example.com",
    "http://10.0.0.1",
    "http://192.168.1.1:8080",
    "http://169.254.169.254/latest/meta-data",
    "http://0.0.0.0",
    "http://0",
    "http://[::]",
    "http://[fe80::1]",
    "http://[::ffff:10.0.0.1]",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://0177.0.0.1",
    "http://127.1",
    "http://127.0.1",
    "http://127.0.0.01",
    "http://127.0.0.1.example.com",
    "http://127.0.0.1.nip.io",
    "http://localhost.example.com",
    "http://localhost.",
    "http://xlocalhost",
    "http://localhost_",
    "ftp://127.0.0.1",
    "ws://localhost",
    "unix://localhost",
    "httpss://api.example.com",
    "//api.example.com",
    "//localhost",
]
NO_HOST = [
    "",
    "file:///etc/passwd",
    "api.example.com",
    "localhost:8105",
    "https:",
    "https://",
    "https:///x",
    "https:/x",
]
EXTRAS = [
    "https://user:password@api.example.com",
    "https://user@api.example.com",
    "https://@api.example.com",
    "http://127.0.0.1@evil.example.com",
    "http://127.0.0.1:80@evil.example.com",
    "http://localhost#@evil.example.com",
    "http://localhost?@evil.example.com",
    "https://api.example.com?key=1",
    "https://api.example.com?",
    "https://api.example.com/#x",
    "https://api.example.com#",
    "https://api.example.com:0",
]
ODD_LETTERS = [
    "https://api.example.com/a b",
    " https://api.example.com",
    "https://api.example.com ",
    "https://api.example.com\n",
    "https://api.exam\tple.com",
    "https://api.example.com\x00",
    "https://api.example.com\r\nHost: evil",
    "http://localhost\\@evil.example.com",
    "https://api.example.com\\",
    "https://äpi.example.com",
    "http://127。0。0。1",
    "http://①②⑦.0.0.1",
    "http://ⓛocalhost",
    "https://api.example.com/\u202e",
    "https://\ud800",
]
NO_URL = [
    "https://[::1",
    "https://[x]",
    "https://[::1]x]",
    "https://api.example.com:port",
    "https://api.example.com:99999",
    "https://api.example.com:-1",
    "https://api.example.com:8_0",
]
SCOPED = ["http://[::1%25eth0]", "http://[::1%eth0]", "https://%6cocalhost", "http://localhost%00"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        *((url, "https") for url in PLAIN),
        *((url, "is not a URL with a host|use https") for url in NO_HOST),
        *((url, "no user, query or fragment") for url in EXTRAS),
        *((url, "no spaces, control characters, backslashes") for url in ODD_LETTERS),
        *((url, "its host or its port is malformed") for url in NO_URL),
        *((url, "is not a URL with a host") for url in SCOPED),
    ],
)
def test_addresses_that_may_not(url: str, told: str) -> None:
    """Other spellings of loopback, users, queries, odd letters; and the message says which."""
    with pytest.raises(ValueError, match=told):
        check_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@api.example.com",
        "https://hunter2@[::1",
        "https://a:hunter2@b",
        "https://api.example.com:hunter2",
        "http://hunter2.example.com",
        "https://api.example.com?key=hunter2",
        "hunter2",
    ],
)
def test_an_address_is_not_repeated(url: str) -> None:
    """Somebody may have put a password into it."""
    with pytest.raises(ValueError, match=r".") as caught:
        check_address(url)

    assert "hunter2" not in str(caught.value)
