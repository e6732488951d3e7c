"""What may stand in an argument: never a secret, for everybody on the machine can read it."""

import re
import sys
from collections.abc import Sequence

from keymux.cli.saying import MISUSED, note
from keymux.core.secrets import shown

_VENDOR_STYLE = re.compile(r"(?:sk|km|rk|pk)-(?=\S*\d)[A-Za-z0-9_-]{13,}")
_RANDOM_STYLE = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[A-Za-z0-9_-]{32,}")
_OUR_ID = re.compile(r"[a-z]{2,10}_[0-9a-f]{1,40}|[0-9a-f]{24}")
_NAME_STYLE = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST_MENTION = 20


def looks_secret(argument: str) -> bool:
    """Whether an argument is written as keys are."""
    return bool(_VENDOR_STYLE.fullmatch(argument) or _RANDOM_STYLE.fullmatch(argument))


def refuse_secrets(arguments: Sequence[str]) -> None:
    """End the program if one of its arguments is a secret."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if looks_secret(value):
            explain_refusal(value)
            sys.exit(MISUSED)


def refuse_more(arguments: Sequence[str]) -> None:
    """End the program if there are more arguments where an operator may have put a secret."""
    if arguments:
        explain_refusal(arguments[0])
        sys.exit(MISUSED)


def explain_refusal(argument: str) -> None:
    """Say why a secret is not taken from an argument."""
    note(f"{shown(argument)} may be a key, and a key is never taken from an argument:")
    note("arguments stand in the process list and in the history of the shell.")
    note("Use --file or --stdin, or leave both out to be asked; name known keys by their id.")


def mention(argument: str) -> str:
    """An argument as a message may repeat it: whole, unless it could be a secret."""
    if len(argument) < _LONGEST_MENTION or _OUR_ID.fullmatch(argument):
        return repr(argument)
    return repr(shown(argument))


def mention_name(argument: str) -> str:
    """An argument that should be a name: what is none may be a URL, with a password in it."""
    if _NAME_STYLE.fullmatch(argument):
        return mention(argument)
    return "what stands there, which is no name,"
