"""The command line as a whole."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from keymux.cli.main import COMMANDS, Deferred, program
from tests.cli.program import Program

HEAVY = ("granian", "pyreqwest", "pydantic", "keymux.stores", "rich.table", "structlog")


def test_the_overview_names_every_command(keymux: Program) -> None:
    """`keymux --help` shows all commands with their first sentence."""
    shown = keymux.good("--help").out

    assert all(
        name in shown and says in shown for name, says in COMMANDS.items() if " " not in name
    )


def test_no_arguments_show_the_overview(keymux: Program) -> None:
    """Somebody who types `keymux` learns what there is."""
    done = keymux.run()

    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(keymux: Program, name: str) -> None:
    """Each command answers --help, and says more than its line in the overview."""
    done = keymux.good(*name.split(), "--help")

    assert done.out.startswith(f"Usage: keymux {name}")


def examples(path: str, command: Any) -> Iterator[tuple[str, str]]:
    """The example of each command that is no group, by its path."""
    real = command.real() if isinstance(command, Deferred) else command
    children = getattr(real, "commands", {})
    if not children:
        yield path, real.epilog or ""
    for name, child in children.items():
        yield from examples(f"{path} {name}", child)


def test_every_command_has_an_example() -> None:
    """Help ends with an example that begins as the command does."""
    found = dict(examples("keymux", program()))
    ours = {path for path in found if path not in {"keymux serve", "keymux sandbox"}}

    assert len(ours) > 20
    assert {path for path in ours if not found[path].startswith(f"Example: {path}")} == set()


def test_the_overview_loads_nothing_heavy() -> None:
    """`keymux --help` imports neither the server, nor the store, nor the HTTP client."""
    code = f"import sys, keymux.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.strip() == "[]"


def test_the_module_is_the_program(keymux: Program) -> None:
    """`python -m keymux` does what `keymux` does."""
    done = subprocess.run(
        [sys.executable, "-m", "keymux", "--help"],
        cwd=keymux.folder,
        env=keymux.environment(),
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout == keymux.good("--help").out


def test_only_a_test_of_keys_loads_the_http_client() -> None:
    """The other commands start faster without it."""
    code = "import sys, keymux.cli.keys; print('pyreqwest' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.strip() == "False"


def test_an_unknown_command_is_a_wrong_command_line(keymux: Program) -> None:
    """A command that does not exist ends with 2."""
    assert keymux.run("keyz").code == 2


SECRETS = {
    "as vendors write them": "sk-or-v1-0123456789abcdef",
    "one of our client keys": "km-Abcdefghijklmnopqrstuvwxyz0123456789ABCD",
    "a long random text": "aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    "before",
    [
        pytest.param(["keys", "add", "alpha"], id="where keys are added"),
        pytest.param(["keys", "enable", "alpha"], id="where an id is wanted"),
        pytest.param(["clients", "add", "--label"], id="as the value of an option"),
        pytest.param(["explain"], id="where a model is wanted"),
    ],
)
def test_a_secret_is_never_an_argument(keymux: Program, before: list[str], secret: str) -> None:
    """Whatever looks like a key is refused with an explanation, and not repeated."""
    done = keymux.run(*before, secret)

    assert done.code == 2
    assert "never taken from an argument" in done.err
    assert secret not in done.out + done.err


def test_a_secret_behind_an_equals_sign_is_refused(keymux: Program) -> None:
    """`--label=sk-...` is an argument with a secret too."""
    done = keymux.run("keys", "add", "alpha", "--label=sk-or-v1-0123456789abcdef")

    assert done.code == 2
    assert "never taken from an argument" in done.err


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param("team-a", id="a label"),
        pytest.param("ops@example.com", id="an address"),
        pytest.param("sk-production.txt", id="a file named like a key"),
        pytest.param("claude-sonnet-4-5-20250929", id="a model"),
        pytest.param("9f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0", id="a UUID"),
    ],
)
def test_ordinary_words_are_no_secrets(keymux: Program, harmless: str) -> None:
    """Labels, files and models are taken as they are."""
    assert keymux.run("clients", "add", "--label", harmless).code == 0


def test_help_is_plain_text(keymux: Program) -> None:
    """Help has no frames and no colours, so that it can be compared and piped."""
    assert keymux.good("keys", "--help").out.isascii()
