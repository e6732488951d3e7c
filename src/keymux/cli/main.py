"""``keymux``: every command and where it lives."""

import typer

from keymux.cli import serve

app = typer.Typer(
    help="A self-hosted LLM gateway: pooled upstream keys, retries, failover, exact metering.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)


@app.callback()
def _root() -> None:
    """A self-hosted LLM gateway."""


def main() -> None:
    """Entry point of the program."""
    app()
