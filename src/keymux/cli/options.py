"""Options and arguments that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("config/config-failover.json")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The config file.", envvar="KEYMUX_CONFIG")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Provider = Annotated[
    str, typer.Argument(metavar="PROVIDER", help="Name of a provider of the config.")
]
KeyIds = Annotated[
    list[str],
    typer.Argument(
        metavar="ID",
        help="Ids, the beginning of one, or the last four characters of a key.",
    ),
]
ProxyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of an egress proxy.")]
ProxyNames = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Names or ids of egress proxies.")
]
KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="A key by its id, the beginning of it, its label, or its last four characters.",
    ),
]
BoundTo = Annotated[
    str, typer.Argument(metavar="PROXY", help="Name or id of the egress proxy it is bound to.")
]
Reason = Annotated[str, typer.Option(help="Why, for the audit.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
File = Annotated[Path | None, typer.Option(help="Read from this file.", show_default=False)]
Stdin = Annotated[bool, typer.Option("--stdin", help="Read from standard input.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Import the good entries although others are bad.")
]


TAKES_MORE = {"allow_extra_args": True}
"""For commands that explain themselves why they take no more arguments."""


def command() -> typer.Typer:
    """A command that stands alone."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def group(says: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=says, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
