"""`keymux proxies import`: many egress proxies from a file."""

import json
import time
from collections.abc import Iterator

import pytest

from keymux.core.egress import ProxyAddress, ProxyType
from tests.cli.program import CONFIG, Program
from tests.cli.test_proxies import assert_silent
from tests.scenarios.rig import IS_LONG
from tests.stores.mongo.server import any_server, database_on

HTTP, SOCKS5 = ProxyType.HTTP, ProxyType.SOCKS5
MANY = 100_000 if IS_LONG else 12_000
LINES = """\
# ours
socks5://us%40er:s3cr3t%3A%21@proxy.example:1080
10.0.0.1:3128:user:s3cr3t:with@signs

user:s3cr3t@[2001:db8::1]:3128
"""


def addresses(keymux: Program) -> dict[str, ProxyAddress]:
    """What is in the store, by name."""
    return {name: record.address for name, record in keymux.proxies().items()}


def test_lines_are_imported(keymux: Program) -> None:
    """Each once, named by host and port, oldest first; no password is printed or stored openly."""
    (keymux.folder / "proxies.txt").write_text(LINES)

    done = keymux.good("proxies", "import", "proxies.txt")

    assert done.out.splitlines()[:2] == [
        "3 added",
        "  proxy.example-1080  socks5://***@proxy.example:1080",
    ]
    assert addresses(keymux) == {
        "proxy.example-1080": ProxyAddress(SOCKS5, "proxy.example", 1080, "us@er", "s3cr3t:!"),
        "10.0.0.1-3128": ProxyAddress(HTTP, "10.0.0.1", 3128, "user", "s3cr3t:with@signs"),
        "2001-db8--1-3128": ProxyAddress(HTTP, "2001:db8::1", 3128, "user", "s3cr3t"),
    }
    assert "us@er" not in done.out
    assert_silent(keymux, done, "s3cr3t")


def test_lines_come_from_standard_input_with_a_type(keymux: Program) -> None:
    """--type is for those that do not say what they speak."""
    given = "h:1\nhttp://i:2\n"
    keymux.run("proxies", "import", "-", "--type", "socks5", given=given)

    assert {one.type for one in addresses(keymux).values()} == {SOCKS5, HTTP}


def test_a_table_brings_names(keymux: Program) -> None:
    """Columns in any order; who has no name is called by host and port."""
    given = "host,port,name,type\nh,1,fra-1,https\ni,2,,\n"
    done = keymux.run("proxies", "import", "-", "--json", given=given)

    assert [each["name"] for each in done.json["added"]] == ["fra-1", "i-2"]
    assert addresses(keymux)["fra-1"].type is ProxyType.HTTPS


def test_made_names_are_nobody_elses(keymux: Program) -> None:
    """Neither of the store nor of the file."""
    keymux.good("proxies", "add", "h-1", "socks5://other:9")
    given = "name,host,port,user\n,h,1,a\nh-1-2,h,1,b\n,h,1,c\n"

    done = keymux.run("proxies", "import", "-", given=given)

    assert done.code == 0
    assert {name: one.username for name, one in addresses(keymux).items()} == {
        "h-1": "",
        "h-1-3": "a",
        "h-1-2": "b",
        "h-1-4": "c",
    }


def test_bad_lines_are_named_and_nothing_is_written(keymux: Program) -> None:
    """By number with the reason, never with what stands there."""
    given = "h:1:u:s3cr3t\nftp://u:s3cr3t@h:2\nh:99999:u:s3cr3t\n"
    done = keymux.run("proxies", "import", "-", given=given)

    assert done.code == 1
    assert "line 2: has an unknown scheme" in done.err
    assert "line 3: has a port that is no number" in done.err
    assert "nothing was imported" in done.err
    assert "s3cr3t" not in done.err + done.out
    assert not (keymux.folder / "keymux.db").exists()


def test_good_lines_may_be_imported_beside_bad_ones(keymux: Program) -> None:
    """With --skip-bad; it still ends with 1."""
    done = keymux.run("proxies", "import", "-", "--skip-bad", given="h:1\nh:x\ni:1\n")

    assert done.code == 1
    assert done.out.startswith("2 added, 1 bad\n")
    assert list(addresses(keymux)) == ["h-1", "i-1"]


def test_what_is_known_is_left_alone(keymux: Program) -> None:
    """So an import may be run again; a password that differs is said and stays."""
    keymux.run("proxies", "import", "-", given="h:1:u:s3cr3t\n")

    again = keymux.run("proxies", "import", "-", given="h:1:u:s3cr3t\nh:1:u:s3cr3t\n")
    other = keymux.run("proxies", "import", "-", "--json", given="h:1:u:t0p\n")

    assert (again.code, again.out) == (0, "0 added, 1 known already, 1 repeated\n")
    assert "line 1: is known already as h-1\n" in again.err
    assert "line 2: the same as line 1\n" in again.err
    assert "with another password, which stays" in other.err
    assert other.json["known"] == [{"where": "line 1", "name": "h-1", "samePassword": False}]
    assert addresses(keymux)["h-1"].password == "s3cr3t"


def test_a_name_that_is_taken_is_a_mistake(keymux: Program) -> None:
    """Another proxy has it; nothing is written unless the others are wished for."""
    keymux.good("proxies", "add", "fra-1", "http://h:1")
    given = "name,host,port\nfra-1,i,1\nfra-2,j,1\n"

    refused = keymux.run("proxies", "import", "-", given=given)
    skipped = keymux.run("proxies", "import", "-", "--skip-bad", given=given)

    assert refused.code == skipped.code == 1
    assert "line 2: has a name that another egress proxy in the store has" in refused.err
    assert refused.out.startswith("0 added, 1 bad")
    assert skipped.out.startswith("1 added, 1 bad")
    assert list(addresses(keymux)) == ["fra-1", "fra-2"]


def test_columns_that_mean_nothing_are_mentioned(keymux: Program) -> None:
    """With those that mean something."""
    done = keymux.run("proxies", "import", "-", given="host,port,city\nh,1,Rome\n")

    assert "1 column of the header was left aside" in done.err
    assert "name, type, host, port, username, password" in done.err


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "no egress proxies were found"),
        (b"# nothing\n\n", "no egress proxies were found"),
        ("h:1:u:s3cr3t\nh:2:\u00fc:x\n".encode("latin-1"), "line 2: is not UTF-8"),
        ("h:1:u:s3cr3t\n".encode("utf-16-le"), "holds zero bytes"),
    ],
)
def test_input_without_proxies_is_refused(keymux: Program, given: bytes, why: str) -> None:
    """With what is wrong about it."""
    done = keymux.run("proxies", "import", "-", given=given)

    assert (done.code, done.out.startswith(("0 added", ""))) == (1, True)
    assert why in done.err
    assert "s3cr3t" not in done.err


def test_a_file_that_is_not_there_is_named(keymux: Program) -> None:
    """With the reason."""
    done = keymux.run("proxies", "import", "nowhere.txt")

    assert done.code == 1
    assert "cannot read nowhere.txt: No such file" in done.err


def test_standard_input_is_no_terminal(keymux: Program) -> None:
    """It would show the passwords."""
    process = keymux.terminal("proxies", "import", "-")
    process.expect("name a file, or send a file with <")


def test_many_remarks_are_counted(keymux: Program) -> None:
    """Twenty are shown."""
    given = "".join(f"h:{number}:\n" for number in range(1, 31))
    done = keymux.run("proxies", "import", "-", given=given)

    assert done.err.count("line ") == 20
    assert "and 10 more bad entries" in done.err


@pytest.mark.slow
def test_very_many_are_imported(keymux: Program) -> None:
    """A large file is no special case, and a terminal shows how far it is."""
    lines = "".join(f"gw.example:7000:user-{number}:s3cr3t\n" for number in range(MANY))
    (keymux.folder / "many.txt").write_text(lines)
    begun = time.monotonic()
    process = keymux.terminal("proxies", "import", "many.txt")
    process.timeout = 55
    process.expect("importing")
    process.expect(f"{MANY} added")
    took = time.monotonic() - begun

    assert took < 55
    assert len(keymux.proxies()) == MANY


# -- the other store -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A MongoDB-protocol server, or the one that the tests are pointed at."""
    with any_server() as found:
        yield found


def test_the_same_on_mongodb(keymux: Program, server: str) -> None:
    """Imported, known, listed, bound, disabled and removed."""
    with database_on(server) as uri:
        keymux.configure({**CONFIG, "store": uri})
        keymux.run("keys", "add", "alpha", "--stdin", "--label", "k", given="sk-one-0123456789\n")
        first = keymux.run("proxies", "import", "-", given=LINES)
        again = keymux.run("proxies", "import", "-", given=LINES)
        keymux.good("bindings", "auto", "alpha", "--include-unknown", "--yes")
        bound = keymux.good("bindings", "list", "alpha").rows
        keymux.good("proxies", "disable", bound[0]["proxy"])
        listed = keymux.good("proxies", "list").rows
        refused = keymux.run("proxies", "remove", bound[0]["proxy"], "--yes")
        keymux.good("proxies", "remove", bound[0]["proxy"], "--with-bindings", "--yes")
        left = keymux.good("proxies", "list", "--json")

    assert (first.code, again.out) == (0, "0 added, 3 known already\n")
    assert [row["label"] for row in bound] == ["k"]
    assert [row["isActive"] for row in listed].count("") == 1
    assert "is what 1 key of alpha must use" in refused.err
    assert len(left.json) == 2
    assert "s3cr3t" not in json.dumps(left.json)
