"""`keymux clients`."""

import re

import pexpect
import pytest

from keymux.core.records import ClientKeyRecord
from keymux.core.secrets import hash_of
from tests.cli.program import MODEL, Program

BROUGHT = "brought-0123456789-abcdef"


def clients(keymux: Program) -> list[ClientKeyRecord]:
    """The stored client keys."""
    return keymux.store(lambda store: store.clients.load())


def test_a_client_key_is_printed_once_and_nothing_else(keymux: Program) -> None:
    """Standard output is the secret alone, so that a script can take it."""
    done = keymux.good("clients", "add", "--label", "laptop")

    secret = done.out.strip()
    record = clients(keymux)[0]
    assert re.fullmatch(r"km-[A-Za-z0-9]{40}", secret)
    assert (record.key_hash, record.label, record.models) == (hash_of(secret), "laptop", ())
    assert secret not in done.err
    assert f"{record.id} {record.shown} may use all models" in done.err


def test_only_the_hash_is_kept(keymux: Program) -> None:
    """The database has neither the secret nor most of it."""
    secret = keymux.good("clients", "add").out.strip()

    stored = b"".join(path.read_bytes() for path in keymux.folder.glob("keymux.db*"))

    assert secret.encode() not in stored
    assert secret[4:-5].encode() not in stored


def test_models_may_be_named_as_clients_do(keymux: Program) -> None:
    """Aliases stand for the model; what is stored is its id, once."""
    options = [
        word for name in ("claude-sonnet-4-5", MODEL, "free-model") for word in ("--model", name)
    ]

    keymux.good("clients", "add", *options)

    assert clients(keymux)[0].models == (MODEL, "free-model")


def test_unknown_models_are_refused(keymux: Program) -> None:
    """A typing mistake would lock the client out; the message names the models."""
    done = keymux.run("clients", "add", "--model", "free-model", "--model", "fee-model")

    assert done.code == 2
    assert f"no model is called 'fee-model'; the config has {MODEL}, free-model" in done.err


def test_programs_read_the_new_key(keymux: Program) -> None:
    """--json has the secret too, this once."""
    found = keymux.good("clients", "add", "--label", "ci", "--model", "free-model", "--json").json

    record = clients(keymux)[0]
    assert hash_of(found["secret"]) == record.key_hash
    assert found | {"secret": ""} == {
        "id": record.id,
        "shown": record.shown,
        "label": "ci",
        "models": ["free-model"],
        "secret": "",
    }


def test_a_secret_may_be_brought(keymux: Program) -> None:
    """It comes from standard input and is not printed."""
    done = keymux.good("clients", "add", "--secret-stdin", given=f"{BROUGHT}\n")

    assert clients(keymux)[0].key_hash == hash_of(BROUGHT)
    assert done.out == ""
    assert BROUGHT not in done.err


def test_a_brought_secret_is_asked_for_on_a_terminal(keymux: Program) -> None:
    """It is not shown while it is typed."""
    process = keymux.terminal("clients", "add", "--secret-stdin")
    process.expect("client key")
    process.sendline(BROUGHT)
    seen = process.read()
    process.close()

    assert process.exitstatus == 0
    assert BROUGHT not in seen
    assert clients(keymux)[0].key_hash == hash_of(BROUGHT)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param("short-0123456789-12", "has 19 characters and needs at least 20", id="short"),
        pytest.param("", "is empty", id="nothing"),
        pytest.param("with a space 0123456789", "holds a space", id="a space"),
        pytest.param("two\nlines-0123456789-12", "U+000A", id="two lines"),
        pytest.param(b"\xff" * 30, "U+FFFD", id="no text"),
    ],
)
def test_a_brought_secret_has_to_be_good(keymux: Program, given: str | bytes, why: str) -> None:
    """Weak or broken secrets are refused with the reason."""
    done = keymux.run("clients", "add", "--secret-stdin", given=given)

    assert done.code == 1
    assert why in done.err
    assert not (keymux.folder / "keymux.db").exists()


def test_twenty_characters_are_enough(keymux: Program) -> None:
    """The shortest secret that is taken."""
    keymux.good("clients", "add", "--secret-stdin", given="x" * 20)

    assert len(clients(keymux)) == 1


def test_the_same_secret_is_not_taken_twice(keymux: Program) -> None:
    """Two callers with one secret could not be told apart."""
    keymux.good("clients", "add", "--secret-stdin", given=BROUGHT)

    done = keymux.run("clients", "add", "--secret-stdin", given=BROUGHT)

    assert done.code == 1
    assert "is a client key already" in done.err


def test_a_secret_is_no_argument(keymux: Program) -> None:
    """What stands behind the command may be a secret."""
    done = keymux.run("clients", "add", "oddsecret")

    assert done.code == 2
    assert "never taken from an argument" in done.err


def test_a_list_has_those_that_were_revoked(keymux: Program) -> None:
    """Whose key it was can be found out later."""
    keymux.good("clients", "add", "--label", "old")
    keymux.good("clients", "add", "--label", "new", "--model", "free-model")
    old = clients(keymux)[0]
    keymux.good("clients", "revoke", old.id)

    rows = keymux.good("clients", "list").rows

    assert [(row["label"], row["models"], bool(row["revokedAt"])) for row in rows] == [
        ("old", "", True),
        ("new", "free-model", False),
    ]


def test_a_list_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns nothing is cut off, and no models means all."""
    keymux.good("clients", "add", "--label", "a label of quite some length for one client")
    keymux.good("clients", "add", "--model", MODEL, "--model", "free-model")

    lines = keymux.screen("clients", "list")

    assert max(map(len, lines)) <= 80
    assert any(clients(keymux)[0].id in line and " all " in line for line in lines)


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """--json has the same fields and no hash."""
    secret = keymux.good("clients", "add", "--label", "ci").out.strip()

    done = keymux.good("clients", "list", "--json")

    assert [(row["label"], row["models"]) for row in done.json] == [("ci", [])]
    assert hash_of(secret) not in done.out


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(lambda record: record.id, id="its id"),
        pytest.param(lambda record: record.id[:-1], id="the beginning of its id"),
        pytest.param(lambda record: record.shown[-4:], id="its last four characters"),
    ],
)
def test_a_client_key_is_revoked(keymux: Program, named: "type[str]") -> None:
    """It is known by several names, and the audit knows who did it."""
    keymux.good("clients", "add")
    record = clients(keymux)[0]

    done = keymux.good("clients", "revoke", named(record))

    assert done.out == f"{record.id}: revoked\n"
    assert clients(keymux)[0].revoked_at is not None
    assert keymux.good("audit").rows[0]["action"] == "client.revoke"


def test_revoking_twice_keeps_the_first_time(keymux: Program) -> None:
    """The second time nothing is changed, and it is said."""
    keymux.good("clients", "add")
    record = clients(keymux)[0]
    keymux.good("clients", "revoke", record.id)
    revoked = clients(keymux)

    done = keymux.good("clients", "revoke", record.id, "--json")

    assert done.json == [{"id": record.id, "done": "revoked already"}]
    assert clients(keymux) == revoked


def test_a_name_that_fits_nothing_says_where_to_look(keymux: Program) -> None:
    """The message names the command that lists what there is."""
    keymux.good("init-db")

    done = keymux.run("clients", "revoke", "client_nope")

    assert done.code == 1
    assert "no client key fits 'client_nope'; `keymux clients list` shows them" in done.err


def test_an_interrupt_at_the_prompt_changes_nothing(keymux: Program) -> None:
    """Ctrl-C while the secret is asked for leaves no client key."""
    process = keymux.terminal("clients", "add", "--secret-stdin")
    process.expect("client key")
    process.sendintr()
    process.expect(pexpect.EOF)
    process.close()

    assert process.exitstatus == 130
    assert not (keymux.folder / "keymux.db").exists()
