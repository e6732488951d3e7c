"""A MongoDB-protocol server of our own, as a process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure

ANOTHER = "KEYMUX_TEST_MONGODB_URI"
_PROGRAM = Path(sys.executable).with_name("secantusd-py")
_START_S = 20
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 -- a file system, not a file


class Server:
    """The server: it can be killed and started again on the same port and folder.

    Args:
        folder: where it keeps its files.
        options: of the command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port()
        self.uri = f"mongodb://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, perhaps with more options, and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    _PROGRAM,
                    f"--port={self.port}",
                    f"--storage-path={self._folder / 'files'}",
                    "--sync-on-commit",
                    "--enable-test-commands",
                    "--cache-size=1G",
                    *self._options,
                    *options,
                ],
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        ends = time.monotonic() + _START_S
        with MongoClient[dict[str, Any]](self.uri, serverSelectionTimeoutMS=500) as client:
            while True:
                try:
                    client.admin.command("hello")
                except ConnectionFailure:
                    assert time.monotonic() < ends, "the server does not start"
                else:
                    return

    def kill(self) -> None:
        """End it without a chance to write anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def failing(uri: str, mode: object, commands: Sequence[str], **how: object) -> Iterator[None]:
    """A server that lets some commands fail for a while."""
    with MongoClient[dict[str, Any]](uri) as client:
        fail = {"configureFailPoint": "failCommand", "data": {"failCommands": commands, **how}}
        client.admin.command({**fail, "mode": mode})
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """A server, ended afterwards; its files are in memory where there is a folder for that."""
    home = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with TemporaryDirectory(prefix="keymux-", dir=home, ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def another_server() -> str:
    """The server that the tests are pointed at, if they are."""
    return os.environ.get(ANOTHER, "")


@contextmanager
def any_server() -> Iterator[str]:
    """The server that the tests are pointed at, or else one of our own."""
    if another := another_server():
        yield another
        return
    with running() as own:
        yield own.uri


@contextmanager
def database_on(server: str) -> Iterator[str]:
    """The address of a new database on a server, dropped afterwards."""
    name = f"keymux_test_{uuid4().hex[:12]}"
    parts = urlsplit(server)
    try:
        yield urlunsplit(parts._replace(path=f"/{name}"))
    finally:
        with MongoClient[dict[str, Any]](server) as client:
            client.drop_database(name)
