"""``keymux``: every command, each in the module of its name.

A module is imported when its command is called, so that ``keymux --help`` does not load a database
driver and an HTTP client to print thirty lines.
"""

import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from keymux.cli.arguments import refuse_secrets

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "serve": "Run the gateway until it is told to stop.",
        "check": "Say everything that is wrong with the config.",
        "schema": "Print the JSON Schema of the config, for editors.",
        "init-db": "Create what the store lacks; may be run again.",
        "seed": "Import the initial keys and backup keys from one file.",
        "keys": "Add, show, test and change upstream keys.",
        "keys test": "Ask whether the provider accepts its keys; free of charge.",
        "backup-keys": "Add, show and change backup keys.",
        "proxies": "Add, show, test and change egress proxies.",
        "proxies test": "Find out whether egress proxies lead to the providers.",
        "bindings": "Bind upstream keys to egress proxies.",
        "providers": "Show providers, or let one be asked again.",
        "clients": "Make, show and revoke client keys.",
        "usage": "Add up tokens and cost from the ledger.",
        "explain": "Say where a model goes, or what became of a request.",
        "audit": "Show who changed what, newest first.",
        "secrets": "Seal the secrets in the store, and look after the key ring.",
        "migrate": "Bring everything from one store to another.",
        "sandbox": "Run a scripted upstream, to try things without an account.",
    }
)
"""What there is, each with its first sentence; in the order of the overview."""


class Deferred(TyperCommand):
    """Stands in for a command until it is called."""

    def __init__(self, path: str, says: str) -> None:
        super().__init__(path.rsplit(maxsplit=1)[-1], help=says, rich_markup_mode=None)
        self._path = path

    def make_context(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 -- handed on as it is
        """The context of the real command."""
        return self.real().make_context(*args, **extra)

    def real(self) -> Any:  # noqa: ANN401 -- typer does not export the type of its commands
        """The command itself: the module's ``app``, or its function of that name."""
        name = self._path.replace(" ", "_").replace("-", "_")
        module = importlib.import_module(f"keymux.cli.{name}")
        app = getattr(module, "app", None)
        if not isinstance(app, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(self.name)(getattr(module, name))
        command = typer.main.get_command(app)
        if isinstance(command, TyperGroup):
            _defer(command, f"{self._path} ")
        return command


def _defer(group: TyperGroup, path: str) -> None:
    """Add the commands that stand right below a path."""
    for name, says in COMMANDS.items():
        if name.startswith(path) and " " not in name.removeprefix(path):
            group.add_command(Deferred(name, says))


root = typer.Typer(
    help="A self-hosted LLM gateway: pooled upstream keys, retries, failover, exact metering.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@root.callback()
def _root() -> None:
    """A self-hosted LLM gateway."""


def program() -> TyperGroup:
    """The whole command line."""
    group = typer.main.get_command(root)
    assert isinstance(group, TyperGroup)  # noqa: S101 -- for the type checker
    _defer(group, "")
    return group


def main() -> None:
    """Entry point of the program."""
    refuse_secrets(sys.argv[1:])
    program()(prog_name="keymux")
