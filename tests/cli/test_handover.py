"""How keys are obtained: file, standard input, hidden prompt."""

import pexpect
import pytest

from tests.cli.program import Program

ONE, TWO = "sk-one-0123456789", "sk-two-0123456789"


def test_keys_are_asked_for_one_after_the_other_and_not_shown(keymux: Program) -> None:
    """Without --file and --stdin the operator types keys that the terminal does not show."""
    process = keymux.terminal("keys", "add", "alpha")
    for answer in (ONE, TWO, ""):
        process.expect("hidden; empty to end")
        process.sendline(answer)
    seen = process.read()
    process.close()

    assert process.exitstatus == 0
    assert list(keymux.pool()) == [ONE, TWO]
    assert ONE not in seen
    assert TWO not in seen


def test_an_end_of_input_ends_the_questions(keymux: Program) -> None:
    """Ctrl-D does what an empty line does."""
    process = keymux.terminal("keys", "add", "alpha")
    process.expect("upstream key 1")
    process.sendline(ONE)
    process.expect("upstream key 2")
    process.sendeof()
    process.expect(pexpect.EOF)
    process.close()

    assert list(keymux.pool()) == [ONE]


def test_nothing_typed_is_nothing_changed(keymux: Program) -> None:
    """An operator who gives no key is told that there was none."""
    process = keymux.terminal("keys", "add", "alpha")
    process.expect("upstream key 1")
    process.sendline("")
    process.expect("nothing was given")
    process.expect(pexpect.EOF)
    process.close()

    assert process.exitstatus == 1


def test_an_interrupt_leaves_no_trace(keymux: Program) -> None:
    """Ctrl-C while keys are asked for changes nothing and prints no traceback."""
    process = keymux.terminal("keys", "add", "alpha")
    process.expect("upstream key 1")
    process.sendline(ONE)
    process.expect("upstream key 2")
    process.sendintr()
    seen = process.read()
    process.close()

    assert process.exitstatus == 130
    assert "Traceback" not in seen
    assert not (keymux.folder / "keymux.db").exists()


def test_standard_input_is_not_read_from_a_terminal(keymux: Program) -> None:
    """--stdin on a terminal would show the secrets, so it is refused."""
    process = keymux.terminal("keys", "add", "alpha", "--stdin")
    process.expect("would show the secrets")
    process.expect(pexpect.EOF)
    process.close()

    assert process.exitstatus == 2


def test_nobody_is_asked_where_nobody_is(keymux: Program) -> None:
    """In a pipe without --stdin the command says what to use."""
    done = keymux.run("keys", "add", "alpha", given=ONE)

    assert done.code == 2
    assert "use --file or --stdin" in done.err


def test_file_and_standard_input_exclude_each_other(keymux: Program) -> None:
    """It is not guessed which of the two was meant."""
    done = keymux.run("keys", "add", "alpha", "--file", "x", "--stdin", given=ONE)

    assert done.code == 2
    assert "not both" in done.err


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_named(keymux: Program, name: str) -> None:
    """A missing file or a folder is a plain message."""
    done = keymux.run("keys", "add", "alpha", "--file", name)

    assert done.code == 1
    assert f"cannot read {name}" in done.err


def test_input_without_an_end_is_cut_off(keymux: Program) -> None:
    """More than 64 MiB are never keys."""
    done = keymux.run("keys", "add", "alpha", "--file", "/dev/zero")

    assert done.code == 1
    assert "more than 64 MiB" in done.err


def test_a_bar_shows_on_a_terminal(keymux: Program) -> None:
    """Whoever imports at a terminal sees how far it is."""
    given = "\n".join(f"sk-many-{number:09d}" for number in range(3_000))
    (keymux.folder / "many.txt").write_text(given)

    seen = keymux.screen("keys", "add", "alpha", "--file", "many.txt")

    assert any("importing" in line and "/3000" in line for line in seen)
