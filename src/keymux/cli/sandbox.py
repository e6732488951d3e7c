"""``keymux sandbox``: the scripted upstream as a program."""

import errno
from typing import Annotated

import typer

from keymux.sandbox.program import run
from keymux.sandbox.server import Sandbox

_REMEMBERED = 500


def sandbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes any free one.")] = 8105,
    *,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Stop when the process that started it ends.")
    ] = False,
) -> None:
    """Run a scripted upstream: believable answers without an account, and every fault on request.

    Keys name their own fault: sk-sandbox-throttled@7-1 is over its rate limit for 7 seconds. It
    stops on SIGTERM and Ctrl-C.
    """
    upstream = Sandbox(host=host, port=port, remember=_REMEMBERED)
    try:
        run(upstream, typer.echo, with_parent=with_parent)
    except OSError as error:
        typer.echo(f"keymux: cannot listen on {host}:{port}: {_reason(error)}", err=True)
        raise typer.Exit(1) from None


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop what listens there, or choose another --port."
    return f"{error.strerror or error}."
