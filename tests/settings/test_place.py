"""Addresses of stores."""

import pytest

from keymux.settings.place import check_server, database_name, is_server, shown
from tests.settings.configs import config, problems, read

SECRET = "s3cret-pass"


@pytest.mark.parametrize(
    ("store", "expected", "name"),
    [
        pytest.param("mongodb://h", "mongodb://h/keymux", "keymux", id="a host alone"),
        pytest.param("mongodb://h/", "mongodb://h/keymux", "keymux", id="no name"),
        pytest.param("mongodb://h:1/a-b_2", "mongodb://h:1/a-b_2", "a-b_2", id="a port and a name"),
        pytest.param(
            f"mongodb://me:{SECRET}@a:1,b:2/x?replicaSet=r&authSource=admin",
            "mongodb://a:1,b:2/x",
            "x",
            id="several hosts, credentials and options",
        ),
        pytest.param(
            f"mongodb+srv://me:{SECRET}@c.example.com/?tls=true",
            "mongodb+srv://c.example.com/keymux",
            "keymux",
            id="a name that stands for many hosts",
        ),
        pytest.param("mongodb://[::1]:27017/x", "mongodb://[::1]:27017/x", "x", id="IPv6"),
    ],
)
def test_a_server_is_shown_without_its_secrets(store: str, expected: str, name: str) -> None:
    """Neither user nor password nor options; the database has a name in any case."""
    check_server(store)

    assert is_server(store)
    assert (shown(store), database_name(store)) == (expected, name)


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("mongodb://", id="no host"),
        pytest.param("mongodb:///x", id="a name alone"),
        pytest.param(f"mongodb://me:{SECRET}@/x", id="credentials and no host"),
        pytest.param(f"mongodb://me:{SECRET}/more@h/x", id="a slash in the password"),
        pytest.param(f"mongodb://me:{SECRET}@more@h/x", id="an @ in the password"),
        pytest.param(f"mongodb://me:{SECRET}?more@h/x", id="a question mark in the password"),
        pytest.param(f"mongodb://me:{SECRET}ä@h/x", id="an odd letter in the password"),
        pytest.param(f"mongodb://me:{SECRET}\n@h/x", id="a newline in the password"),
        pytest.param("mongodb://h/a.b", id="a dot in the name"),
        pytest.param("mongodb://h/a/b", id="two names"),
        pytest.param("mongodb://h/" + "n" * 64, id="a name that is too long"),
        pytest.param("mongodb://h h/x", id="a space"),
    ],
)
def test_an_address_that_is_none(store: str) -> None:
    """It is refused at its place, and nothing of it is repeated."""
    found = problems(config(store=store))

    assert [line.partition(":")[0] for line in found] == ["$.store"]
    assert SECRET not in str(found)


def test_settings_do_not_show_the_password() -> None:
    """Whatever prints them; the journal has a folder of its own."""
    settings = read(config(store=f"mongodb://me:{SECRET}@h/pool"))

    assert settings.database is None
    assert settings.store_shown == "mongodb://h/pool"
    assert str(settings.journal_folder) == "pool.mongodb.journal"
    assert SECRET not in repr(settings) + str(settings)
