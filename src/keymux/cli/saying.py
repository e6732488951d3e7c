"""How commands speak: results on standard output, everything else on standard error."""

import re
from typing import NoReturn

import msgspec
import typer

FAILED = 1
MISUSED = 2
INTERRUPTED = 130

# Control characters, and those that hide or turn around what follows: an upstream's words and an
# operator's labels must not be able to write on the terminal.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def clean(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str = "") -> None:
    """A line of the result."""
    typer.echo(clean(text))


def note(text: str) -> None:
    """A line beside the result."""
    typer.echo(f"keymux: {clean(text)}", err=True)


def fail(*problems: str, code: int = FAILED) -> NoReturn:
    """Say what was wrong and what to do about it, and end.

    Args:
        problems: a line each.
        code: FAILED, or MISUSED when the command line itself was wrong.
    """
    for problem in problems:
        note(problem)
    raise typer.Exit(code)


def say_json(value: object) -> None:
    """The result for programs."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
