"""Egress proxies that an operator hands over are checked before anything is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymux.cli.proxy_intake import ProxyIntake, read
from keymux.core.egress import ProxyAddress, ProxyType

HTTP, SOCKS5 = ProxyType.HTTP, ProxyType.SOCKS5
SECRET = "s3cr3t"


def addresses(intake: ProxyIntake) -> list[ProxyAddress]:
    """What was read, in order."""
    return [entry.address for entry in intake.entries]


def problems(text: str) -> list[str]:
    """What is wrong with a text."""
    return [str(problem) for problem in read(text.encode()).problems]


def test_every_way_to_write_a_line_may_be_mixed() -> None:
    """URLs and lines beside each other; remarks and empty lines are passed over."""
    text = "# ours\n\nsocks5://u:p%40@h:1\r\nh:2:u:p:w\r  u:p@h:3\t\n   # more\nh:4"

    intake = read(text.encode(), SOCKS5)

    assert addresses(intake) == [
        ProxyAddress(SOCKS5, "h", 1, "u", "p@"),
        ProxyAddress(SOCKS5, "h", 2, "u", "p:w"),
        ProxyAddress(SOCKS5, "h", 3, "u", "p"),
        ProxyAddress(SOCKS5, "h", 4),
    ]
    assert [entry.where for entry in intake.entries] == ["line 3", "line 4", "line 5", "line 7"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("name,type,host,port,username,password\nfra,socks5,h,1,u,p\n", id="in order"),
        pytest.param("password,username,port,host,name,type\np,u,1,h,fra,SOCKS5", id="in another"),
        pytest.param("# x\n\nNAME;Type;HOST;Port;User;Pass\nfra;socks5h;h;1;u;p", id="semicolons"),
        pytest.param('name\ttype\thost\tport\tuser\tpass\nfra\tsocks5\t"h"\t1\tu\t"p"', id="tabs"),
        pytest.param("host,name,type,port,user,pass,city\nh,fra,socks5,1,u,p,Rome", id="one more"),
    ],
)
def test_tables_are_read(text: str) -> None:
    """The header says which column is which."""
    intake = read(text.encode())

    assert intake.problems == ()
    assert addresses(intake) == [ProxyAddress(SOCKS5, "h", 1, "u", "p")]
    assert [entry.name for entry in intake.entries] == ["fra"]


def test_a_table_may_be_short() -> None:
    """Only the host is needed where the type has a usual port; the type may be given for all."""
    assert addresses(read(b"host\nh1\nh2\n", SOCKS5)) == [
        ProxyAddress(SOCKS5, "h1", 1080),
        ProxyAddress(SOCKS5, "h2", 1080),
    ]


def test_passwords_of_a_table_are_taken_as_they_stand() -> None:
    """Quotes are those of CSV, and nothing is decoded."""
    text = 'host,port,username,password\nh,1,us er,"a,""b"":%41@#é"\n'

    assert addresses(read(text.encode()))[0].password == 'a,"b":%41@#é'


def test_a_password_that_begins_with_a_mark_is_no_remark() -> None:
    """In its own column it is what it is."""
    intake = read(b"password,username,host,port\n#p,u,h,1\n")

    assert addresses(intake) == [ProxyAddress(HTTP, "h", 1, "u", "#p")]


def test_remarks_in_a_table_are_passed_over() -> None:
    """As they are among lines."""
    assert len(read(b"host,port\n# the old ones,x\nh,1\n").entries) == 1


def test_columns_that_mean_nothing_are_counted() -> None:
    """They are not named: what looks like a header could be a proxy with a password."""
    assert read(b"host,port,city,zip\nh,1,Rome,x").ignored == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://u:s3cr3t@h:1\nh:x:u:s3cr3t", ["line 1: has an unknown", "line 2: has a port"]),
        ("host,port\nh,1,2", ["line 2: has 3 fields, the header has 2"]),
        ("host,host\nh,1", ["line 1: names a column twice"]),
        ("host,port,user,username\nh,1,a,b", ["line 1: names a column twice"]),
        ('host,port\nh,"1', ["is no CSV"]),
        ("host,port\nh,", ["line 2: has no port"]),
        ("host,type,port\nh,gopher,1", ["line 2: has an unknown scheme"]),
        ("host,port,name\nh,1,a b", ["line 2: has a name that is none"]),
        ("host,port,name\nh,1,direct", ["line 2: has the name direct"]),
        ("host,port,name\nh,1,a\ni,1,a", ["line 3: has the name of line 2"]),
        ("host,port,password\nh,1,s3cr3t", ["line 2: has a password and no user"]),
        ("h:1:u:s3cr3t\nh:1:u:s3cr3t2", ["line 2: has the address and user of line 1"]),
        ("host,port,name\nh,1,a\nh,1,b", ["line 3: has the address and user of line 2"]),
        ("h:1:u:a\u0000b", ["holds zero bytes"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, expected: list[str]) -> None:
    """Each bad line by its number, with the reason and nothing of what stands there."""
    found = problems(text)

    assert len(found) == len(expected)
    assert all(words in problem for words, problem in zip(expected, found, strict=True))
    assert SECRET not in " ".join(found)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param("h:1:u:é".encode("latin-1"), "not UTF-8", id="Latin-1"),
        pytest.param("h:1".encode("utf-16-le"), "zero bytes", id="UTF-16 without a mark"),
    ],
)
def test_wrong_encodings_are_named(data: bytes, why: str) -> None:
    """The file as a whole is refused."""
    (problem,) = read(data).problems

    assert why in str(problem)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_are_read(encoding: str) -> None:
    """As spreadsheets write them."""
    assert addresses(read("host,port\nh,1\n".encode(encoding))) == [ProxyAddress(HTTP, "h", 1)]


def test_what_stands_there_twice_is_taken_once() -> None:
    """It is no mistake, but it is told with where it stood first."""
    intake = read(b"h:1:u:p\nh:2\nhttp://u:p@H:1\n")

    assert len(intake.entries) == 2
    assert intake.repeated == (("line 3", "line 1"),)


def test_users_of_one_address_are_apart() -> None:
    """Gateways tell their clients apart by the user."""
    assert len(read(b"h:1:u1:p\nh:1:u2:p\nsocks5://u1:p@h:1\n").entries) == 3


def test_no_password_shows_in_a_traceback() -> None:
    """What is printed of entries by accident has no secret in it."""
    assert SECRET not in repr(read(b"h:1:u:s3cr3t\nh:x:u:s3cr3t\n"))


def test_a_hundred_thousand_lines_are_read() -> None:
    """A large file is no special case."""
    text = "\n".join(f"gw.example:7000:user-{number}:p" for number in range(100_000))

    assert len(read(text.encode()).entries) == 100_000


@given(st.binary(max_size=200), st.sampled_from(ProxyType))
def test_no_bytes_make_it_fail(data: bytes, plain_type: ProxyType) -> None:
    """Any input gives proxies or problems, never an exception."""
    read(data, plain_type)


@given(st.lists(st.text(max_size=20), max_size=12), st.sampled_from([",", ";", "\t"]))
def test_no_table_makes_it_fail(cells: list[str], delimiter: str) -> None:
    """The same below a header."""
    header = delimiter.join(["host", "port", "name", "type", "username", "password"])

    read(f"{header}\n{delimiter.join(cells)}\n".encode(errors="replace"))
