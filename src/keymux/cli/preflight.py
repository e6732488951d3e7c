"""Everything that can be found wrong before the server starts, in one go."""

import os
import socket
from collections.abc import Iterator

from keymux.settings import Settings


def problems(settings: Settings) -> list[str]:
    """What keeps the server from starting, each with its place in the config."""
    return [*_port_problems(settings), *_journal_problems(settings)]


def _port_problems(settings: Settings) -> Iterator[str]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            yield f"$.port: cannot listen on {where}: {error.strerror or error}"


def _journal_problems(settings: Settings) -> Iterator[str]:
    folder = settings.journal_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        yield f"$.journal: cannot make the folder {folder}: {error.strerror}"
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield f"$.journal: cannot write into the folder {folder}"
