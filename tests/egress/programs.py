"""Real proxies: microsocks and tinyproxy, each with a source address of its own.

Their outgoing connections are bound to a loopback address that nobody else uses, so that the
upstream tells by the source of a request through which of them it came.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

import pytest

from keymux.core.egress import ProxyAddress, ProxyType
from tests.scenarios.rig import pause

HERE = "127.0.0.1"
_START_S = 10.0
_FIRST_PORT, _PORTS_EACH, _RUNNERS = 20_000, 1_500, 8


def _ports() -> Iterator[int]:
    """Below those that the kernel gives to clients: they would take that of a proxy that is down.

    Each runner of tests has its own, and goes round.
    """
    runner = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _RUNNERS
    first = _FIRST_PORT + runner * _PORTS_EACH
    begin = os.getpid() % _PORTS_EACH  # so that runs side by side seldom meet
    return (first + number % _PORTS_EACH for number in count(begin))


_free_ports = _ports()


class PackageMissing(UserWarning):
    """A Debian package that tests need is not installed."""


def found(program: str, package: str) -> str:
    """The path of a program; without it the test is skipped loudly, or fails where CI is set."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = (
        f"{program} is not installed (Debian package {package}): run scripts/install-test-packages"
    )
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(reason)
    with warnings.catch_warnings():  # elsewhere a warning is an error
        warnings.simplefilter("always")
        warnings.warn(reason, PackageMissing, stacklevel=2)
    pytest.skip(reason)


def lasting_port() -> int:
    """A TCP port that nobody uses now, nor takes while it is free for a while."""
    for port in _free_ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HERE, port))
            return port
    raise AssertionError("it goes round")


class Program:
    """A proxy that runs while its context is open, on a port that it keeps when restarted.

    Args:
        bind_to: address from which it connects to upstreams.
        port: to listen on, 0 for a free one.
        user: whom it lets in; empty for everybody.
        password: of the user.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    speaks: ClassVar[ProxyType]

    def __init__(
        self, bind_to: str = "127.0.0.2", port: int = 0, user: str = "", password: str = ""
    ) -> None:
        self.source = bind_to
        self.port = port or lasting_port()
        self.user, self.password = user, password
        self._path = found(self.name, self.package)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, path: str) -> Sequence[str]:
        """How it is started."""
        raise NotImplementedError

    @property
    def address(self) -> ProxyAddress:
        """Where it is, with the right credentials."""
        return ProxyAddress(self.speaks, HERE, self.port, self.user, self.password)

    @property
    def url(self) -> str:
        """The same as a URL."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        return f"{self.speaks}://{login}{HERE}:{self.port}"

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            self.command(self._path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + _START_S
        while not self._listens():
            assert self._process.poll() is None, f"{self.name} has ended"
            assert time.monotonic() < give_up, f"{self.name} does not listen"
            pause(0.01)
        return self

    def _listens(self) -> bool:
        try:
            socket.create_connection((HERE, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """``kill -9``; its connections are gone with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start it again on the same port."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class MicroSocks(Program):
    """SOCKS5."""

    name, package, speaks = "microsocks", "microsocks", ProxyType.SOCKS5

    def command(self, path: str) -> Sequence[str]:
        """How it is started."""
        login = ["-u", self.user, "-P", self.password] if self.user else []
        return [path, "-i", HERE, "-p", str(self.port), "-b", self.source, *login]


class TinyProxy(Program):
    """HTTP CONNECT.

    Args:
        bind_to: address from which it connects to upstreams.
        basic_auth: user and password whom it lets in; None for everybody.
        connect_ports: the only ports of upstreams that it allows; empty for all.
    """

    name, package, speaks = "tinyproxy", "tinyproxy-bin", ProxyType.HTTP

    def __init__(
        self,
        bind_to: str = "127.0.0.3",
        *,
        basic_auth: tuple[str, str] | None = None,
        connect_ports: Sequence[int] = (),
    ) -> None:
        user, password = basic_auth or ("", "")
        super().__init__(bind_to, user=user, password=password)
        self._connect_ports = connect_ports
        self._folder = tempfile.TemporaryDirectory(prefix="tinyproxy-")

    def command(self, path: str) -> Sequence[str]:
        """How it is started."""
        lines = [
            f"Port {self.port}",
            f"Listen {HERE}",
            f"Bind {self.source}",
            "Timeout 600",
            "MaxClients 2000",
            "LogLevel Critical",
            *([f"BasicAuth {self.user} {self.password}"] if self.user else []),
            *(f"ConnectPort {port}" for port in self._connect_ports),
        ]
        config = Path(self._folder.name, "tinyproxy.conf")
        config.write_text("\n".join([*lines, ""]))
        return [path, "-d", "-c", str(config)]

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
