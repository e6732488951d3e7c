"""Obtain keys from the operator: from a file, standard input, or a hidden prompt."""

import getpass
import sys
from pathlib import Path

from keymux.cli.saying import FAILED, MISUSED, fail, note

_MOST_BYTES = 64 * 2**20


def handed_over(file: Path | None, *, stdin: bool, what: str) -> bytes:
    """The bytes with the keys; the program ends here if there are none.

    Args:
        file: to read.
        stdin: to read standard input; with neither, the operator is asked.
        what: is asked for, such as ``upstream key``.
    """
    if file is not None and stdin:
        fail("give --file or --stdin, not both", code=MISUSED)
    if file is not None:
        return from_file(file)
    return from_stdin() if stdin else _from_prompts(what).encode()


def from_file(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        with path.open("rb") as source:
            data = source.read(_MOST_BYTES + 1)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", code=FAILED)
    return _not_too_much(data)


def from_stdin(instead: str = "leave --stdin out to be asked") -> bytes:
    """The bytes of standard input.

    Args:
        instead: what an operator may do who sits at a terminal.
    """
    if sys.stdin.isatty():
        fail(
            "standard input is this terminal, which would show the secrets:",
            f"{instead}, or send a file with <",
            code=MISUSED,
        )
    return _not_too_much(sys.stdin.buffer.read(_MOST_BYTES + 1))


def _not_too_much(data: bytes) -> bytes:
    if len(data) > _MOST_BYTES:
        fail(f"more than {_MOST_BYTES // 2**20} MiB were given; import them in parts")
    return data


def ask_hidden(question: str, instead: str = "use --file or --stdin") -> str:
    """An answer that is not shown; the program ends here without a terminal to ask on.

    Args:
        question: for a person.
        instead: what to do where there is nobody.
    """
    if not sys.stdin.isatty():
        fail(f"there is nobody to ask here: {instead}", code=MISUSED)
    try:
        return getpass.getpass(question, stream=sys.stderr)
    except EOFError:
        return ""


def _from_prompts(what: str) -> str:
    """One key after the other, until one is left empty."""
    answers: list[str] = []
    while answer := ask_hidden(f"{what} {len(answers) + 1} (hidden; empty to end): "):
        answers.append(answer)
    if not answers:
        note("nothing was given")
    return "\n".join(answers)
