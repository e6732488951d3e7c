"""The sandbox as a program: it listens until it is told to stop, or until its parent is gone."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from keymux.sandbox.asked import DIALECT_NAMES
from keymux.sandbox.behaviours import KEY_PREFIX, catalogue
from keymux.sandbox.server import Sandbox

LISTENS = "keymux sandbox listens on "
"""What the first line of output begins with; the base URL follows."""

_LOOK_EVERY_S = 0.2


def run(sandbox: Sandbox, say: Callable[[str], None], *, with_parent: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        sandbox: to open.
        say: told what it serves, at once.
        with_parent: also stop when the process that started this one has ended.

    Raises:
        OSError: when it cannot listen.
    """
    asyncio.run(_serve(sandbox, say, os.getppid() if with_parent else None))


async def _serve(sandbox: Sandbox, say: Callable[[str], None], parent: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with sandbox:
        say("\n".join(greeting(sandbox)))
        while not stop.is_set() and parent in {None, os.getppid()}:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if parent is None else _LOOK_EVERY_S):
                    await stop.wait()


def greeting(sandbox: Sandbox) -> Iterator[str]:
    """What it serves, and which keys make it misbehave."""
    yield LISTENS + sandbox.url()
    for dialect in DIALECT_NAMES:
        yield f"  {dialect}: {sandbox.url(dialect)}/v1/chat/completions and /v1/messages"
    yield f"It takes every key that begins with {KEY_PREFIX}; its name says how it is met:"
    entries = tuple(catalogue())
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        yield f"  {KEY_PREFIX}{entry.name.ljust(width)}  {entry.says}"
    yield (
        f"Figures and a sequence go into the name too: {KEY_PREFIX}throttled@7+ok-1 is throttled "
        "for 7 seconds and well afterwards."
    )


def _main(host: str, port: str, certificate: str = "") -> None:
    """For `keymux.sandbox.apart`, which starts this without the command line around it."""
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    run(Sandbox(host=host, port=int(port), tls=tls), print, with_parent=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
