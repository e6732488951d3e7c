"""Egress proxies as operators write them."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.core.egress import ProxyAddress, ProxyType
from keymux.core.proxy_text import (
    check_credentials,
    check_name,
    is_host,
    name_for,
    proxy_of,
    read_proxy,
    type_of,
)

HTTP, HTTPS, SOCKS5 = ProxyType.HTTP, ProxyType.HTTPS, ProxyType.SOCKS5
SECRET = "s3cr3t"

HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True),
)
SEEN = st.characters(codec="utf-8", categories=("L", "N", "P", "S"))
USERS = st.text(SEEN.filter(lambda letter: letter != ":"), min_size=1, max_size=40)
PASSWORDS = st.text(SEEN, max_size=40)
ADDRESSES = st.builds(
    ProxyAddress, st.sampled_from(ProxyType), HOSTS, st.integers(1, 65_535), USERS, PASSWORDS
)


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def refusal(text: str, plain_type: ProxyType = HTTP) -> str:
    """Why a text is no proxy."""
    with pytest.raises(ValueError, match=r".") as caught:
        read_proxy(text, plain_type)
    return str(caught.value)


# -- what is read ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://10.0.0.1:3128", ProxyAddress(HTTP, "10.0.0.1", 3128)),
        ("http://10.0.0.1:3128/", ProxyAddress(HTTP, "10.0.0.1", 3128)),
        ("https://Proxy.Example", ProxyAddress(HTTPS, "proxy.example", 443)),
        ("https://proxy.example:8443", ProxyAddress(HTTPS, "proxy.example", 8443)),
        ("socks5://proxy.example", ProxyAddress(SOCKS5, "proxy.example", 1080)),
        ("SOCKS5H://u:p@proxy.example:9", ProxyAddress(SOCKS5, "proxy.example", 9, "u", "p")),
        ("http://[2001:DB8::0:1]:80", ProxyAddress(HTTP, "2001:db8::1", 80)),
        ("http://u@h:80", ProxyAddress(HTTP, "h", 80, "u")),
        ("http://@h:80", ProxyAddress(HTTP, "h", 80)),
        ("http://u:p%40s%3As%2F%25%20%C3%A9@h:80", ProxyAddress(HTTP, "h", 80, "u", "p@s:s/% é")),
        ("http://u:p@ss:w@h:80", ProxyAddress(HTTP, "h", 80, "u", "p@ss:w")),
        ("socks5://us%3Aer:p@h:80", ProxyAddress(SOCKS5, "h", 80, "us:er", "p")),
        ("10.0.0.1:3128", ProxyAddress(HTTP, "10.0.0.1", 3128)),
        ("host_1.example:3128:u:p", ProxyAddress(HTTP, "host_1.example", 3128, "u", "p")),
        ("h:1:u:p:w:x", ProxyAddress(HTTP, "h", 1, "u", "p:w:x")),
        ("h:1:u:p@ss%20/#?\\", ProxyAddress(HTTP, "h", 1, "u", "p@ss%20/#?\\")),
        ("h:1:u:pa://ss", ProxyAddress(HTTP, "h", 1, "u", "pa://ss")),
        ("[2001:db8::1]:1:u:p", ProxyAddress(HTTP, "2001:db8::1", 1, "u", "p")),
        ("u:p@h:1", ProxyAddress(HTTP, "h", 1, "u", "p")),
        ("u:p%20:@w@h:1", ProxyAddress(HTTP, "h", 1, "u", "p%20:@w")),
        ("u:8080@h:1", ProxyAddress(HTTP, "h", 1, "u", "8080")),
        ("u:p@[::1]:1", ProxyAddress(HTTP, "::1", 1, "u", "p")),
        ("u@h:1", ProxyAddress(HTTP, "h", 1, "u")),
    ],
)
def test_what_operators_write_is_understood(text: str, expected: ProxyAddress) -> None:
    """URLs are decoded, lines are not; hosts are brought to one spelling."""
    assert read_proxy(text) == expected


def test_lines_have_the_type_they_are_given() -> None:
    """A text with a scheme keeps its own."""
    assert read_proxy("h:1", SOCKS5).type is SOCKS5
    assert read_proxy("http://h:1", SOCKS5).type is HTTP


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (f"ftp://u:{SECRET}@h:1", "unknown scheme; there are http, https, socks5 and socks5h"),
        (f"socks4://u:{SECRET}@h:1", "unknown scheme"),
        (f"http://u:{SECRET}@h", "has no port"),
        (f"http://u:{SECRET}@h:", "has no port"),
        (f"http://u:{SECRET}@h:0", "no number from 1 to 65535"),
        (f"http://u:{SECRET}@h:65536", "no number from 1 to 65535"),
        (f"http://u:{SECRET}@h:080", "no number from 1 to 65535"),
        (f"http://u:{SECRET}@h:٣", "no number from 1 to 65535"),
        (f"http://u:{SECRET}@h:1/x", "path, query or fragment"),
        (f"http://u:{SECRET}@h:1?x", "path, query or fragment"),
        (f"http://u:{SECRET}@h:1#x", "path, query or fragment"),
        (f"http://u:{SECRET}/x@h:1", "write the other as %2F"),
        (f"http://u:{SECRET}%2@h:1", "not written %25"),
        (f"http://u:{SECRET}%zz@h:1", "not written %25"),
        (f"http://u:{SECRET}%ff@h:1", "not UTF-8 once decoded"),
        (f"http://u:{SECRET}%0d%0aX@h:1", "a character that is not seen"),
        (f"http://u:{SECRET}%00@h:1", "a character that is not seen"),
        (f"http://:{SECRET}@h:1", "a password and no user"),
        (f"http://u%3a:{SECRET}@h:1", "a user with a colon"),
        (f"https://u%3a:{SECRET}@h:1", "a user with a colon"),
        (f"http://u:{SECRET}@", "has no host"),
        (f"http://u:{SECRET}@:80", "has no host"),
        (f"http://u:{SECRET}@[::1:80", "begins no IPv6 address"),
        (f"http://u:{SECRET}@[::1]80", "begins no IPv6 address"),
        (f"http://u:{SECRET}@[::g]:80", "no IPv6 address"),
        (f"http://u:{SECRET}@[fe80::1%25eth0]:80", "with a zone"),
        (f"http://u:{SECRET}@[h]:80", "no IPv6 address"),
        (f"http://u:{SECRET}@::1:80", "has no host"),
        (f"http://u:{SECRET}@256.0.0.1:80", "no IPv4 address"),
        (f"http://u:{SECRET}@0x7f000001:80", "no IPv4 address"),
        (f"http://u:{SECRET}@2130706433:80", "no IPv4 address"),
        (f"http://u:{SECRET}@127.1:80", "no IPv4 address"),
        (f"http://u:{SECRET}@010.0.0.1:80", "no IPv4 address"),
        (f"http://u:{SECRET}@bücher.example:80", "its xn-- form"),
        (f"http://u:{SECRET}@a..b:80", "neither a name nor an IP address"),
        (f"http://u:{SECRET}@-a:80", "neither a name nor an IP address"),
        (f"http://u:{SECRET}@{'a' * 64}:80", "neither a name nor an IP address"),
        (f"http://u:{SECRET}@{'a.' * 127}a:80", "neither a name nor an IP address"),
        (f"http://u:{SECRET}@a b:80", "holds a space"),
        (f"http://u:{SECRET}@h:80 ", "holds a space"),
        (f"http://u:{SECRET}@h:\t80", "holds a control character"),
        (f"http://u:{SECRET}@h:80\n", "holds a control character"),
        (f"http://u:{SECRET}\u200b@h:80", "holds a control character"),
        (f"http://u:{SECRET}\ud800@h:80", "holds a control character"),
        (f"socks5://u:{'p' * 256}@h:80", "more than 255 bytes"),
        (f"socks5://{'u' * 256}:{SECRET}@h:80", "more than 255 bytes"),
        (f"http://u:{'p' * 2049}@h:80", "more than 2048 bytes"),
        (f"http://u:{'p' * 9000}@h:80", "more than 8192 characters"),
        ("h", "has no port"),
        ("h:", "has no port"),
        (f"h:0:u:{SECRET}", "no number from 1 to 65535"),
        (f"h:x:u:{SECRET}", "no number from 1 to 65535"),
        (f"a!b:80:u:{SECRET}", "neither a name nor an IP address"),
        ("h:80:u", "is none of host:port, host:port:user:password"),
        (f"h:80::{SECRET}", "a password and no user"),
        (f"[::1]80:u:{SECRET}", "begins no IPv6 address"),
        (f"u:{SECRET}@h", "has no port"),
        (f"u:{SECRET}@[::1:80", "begins no IPv6 address"),
        (f"u:{SECRET}@a!b:80", "neither a name nor an IP address"),
        (f":{SECRET}@h:80", "is none of host:port"),
        (f"a:1:u:{SECRET}@h:80", "can be read in two ways"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(text: str, why: str) -> None:
    """Every refusal has a reason, and none of them repeats the text."""
    said = refusal(text)

    assert why in said
    assert SECRET not in said
    assert not text or len(text) < 5 or text not in said


def test_a_line_needs_its_port() -> None:
    """Only a URL may leave out the port: a line without one is any word."""
    assert "has no port" in refusal("proxy.example", SOCKS5)


@given(st.text(max_size=60), st.sampled_from(ProxyType))
def test_no_text_makes_anything_but_a_value_error(text: str, plain_type: ProxyType) -> None:
    """Whatever is read is sound, and so is its name."""
    try:
        address = read_proxy(text, plain_type)
    except ValueError:
        return

    check_credentials(address)
    check_name(name_for(address))
    assert is_host(address.host)


@given(st.text("htp:/s5@[]%0123456789abu. ", max_size=40))
def test_no_text_that_is_nearly_right_does_either(text: str) -> None:
    """The same with the letters that matter."""
    try:
        read_proxy(text)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017 -- there may be none


# -- there and back --------------------------------------------------------------------------------
@given(ADDRESSES)
def test_a_url_says_all_of_an_address(address: ProxyAddress) -> None:
    """Written as a URL and read again it is the same."""
    user = f"{quote(address.username, safe='')}:{quote(address.password, safe='')}"
    text = f"{address.type}://{user}@{bracketed(address.host)}:{address.port}"

    assert read_proxy(text) == address


@given(ADDRESSES)
def test_a_line_says_all_but_the_type(address: ProxyAddress) -> None:
    """Written as a line and read again it is the same, or it could be read in two ways."""
    text = f"{bracketed(address.host)}:{address.port}:{address.username}:{address.password}"
    try:
        found = read_proxy(text, address.type)
    except ValueError as error:
        assert "two ways" in str(error)  # noqa: PT017 -- there may be none
        return

    assert found == address


@given(ADDRESSES)
def test_what_is_shown_can_be_read_but_has_no_secret(address: ProxyAddress) -> None:
    """The form for people names the same place."""
    found = read_proxy(address.shown)

    assert (found.type, found.host, found.port) == (address.type, address.host, address.port)
    assert (found.username, found.password) == ("***", "")


# -- fields ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "port", "expected"),
    [(HTTPS, "", 443), (SOCKS5, "", 1080), (HTTP, "8080", 8080), (SOCKS5, "9", 9)],
)
def test_a_port_may_be_left_out_where_there_is_a_usual_one(
    kind: ProxyType, port: str, expected: int
) -> None:
    """Proxies in plain text have none."""
    assert proxy_of(kind, "h", port).port == expected


def test_a_table_may_leave_out_the_brackets() -> None:
    """There a colon is no mark."""
    assert proxy_of(HTTP, "2001:db8::1", "1") == proxy_of(HTTP, "[2001:db8::1]", "1")


def test_types_have_names() -> None:
    """In any case, and socks5h is the same as socks5: names are never resolved here."""
    assert [type_of(word) for word in ("HTTP", "https", "Socks5", "socks5h")] == [
        HTTP,
        HTTPS,
        SOCKS5,
        SOCKS5,
    ]


# -- names -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a", "fra-1", "10.0.0.1-80", "A_b.c-d", "x" * 63, "directly"])
def test_names_that_may_be_given(name: str) -> None:
    """Letters, digits, dots, dashes and underscores."""
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a b", "a/b", "a:b", "ü", "x" * 64, "a\n", "direct", "DIRECT"]
)
def test_names_that_may_not(name: str) -> None:
    """All else, and the word for no proxy at all."""
    with pytest.raises(ValueError, match=r"has (a|the) name"):
        check_name(name)


@pytest.mark.parametrize(
    ("host", "number", "expected"),
    [
        ("10.0.0.1", 1, "10.0.0.1-80"),
        ("10.0.0.1", 2, "10.0.0.1-80-2"),
        ("2001:db8::1", 1, "2001-db8--1-80"),
        ("::", 1, "proxy-80"),
        ("_x.example", 1, "x.example-80"),
        ("a" * 63, 12, "a" * 57 + "-80-12"),
    ],
)
def test_names_are_made_of_host_and_port(host: str, number: int, expected: str) -> None:
    """Each is a name that may be given, however long the host is."""
    made = name_for(ProxyAddress(HTTP, host, 80), number)

    assert made == expected
    check_name(made)
