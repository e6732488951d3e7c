"""Starts programs on a core of their own, reads what they use, and ends them again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

CPU_CLOCK = 2
START_S = 60.0
STOP_S = 10.0
LOG_TAIL = 2000
MEBI = 2**20


class CannotMeasure(Exception):  # noqa: N818 -- names what follows from it
    """Something that has to run does not; says what, and what it wrote last."""


class Cores(Struct, frozen=True):
    """Which core does what.

    Attributes:
        tested: the program under test, and nothing else.
        load: load, upstreams and everything that only looks on.
    """

    tested: int
    load: int


def two_cores() -> Cores:
    """The first two cores that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:  # noqa: PLR2004 -- the name says it
        raise CannotMeasure(
            "two cores are needed: one for the program under test, one for the load"
        )
    return Cores(usable[0], usable[1])


def pause(seconds: float) -> None:
    """Let other processes work."""
    time.sleep(seconds)  # noqa: TID251 -- what is measured here happens in other processes


def until(is_so: Callable[[], bool], what: str, *, seconds: float, every: float = 0.02) -> None:
    """Wait for something; fail with its name if it does not come."""
    give_up = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > give_up:
            raise CannotMeasure(f"{what}: not within {seconds:g} s")
        pause(every)


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A running program with everything it started.

    Args:
        name: for messages.
        process: its first process.
        log: where it writes.
    """

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def pids(self) -> list[int]:
        """All its processes that live, the first one first."""
        found, open_ends = [], [self.process.pid]
        while open_ends:
            pid = open_ends.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                open_ends += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """User and system time of all its processes so far, in seconds.

        The clock of a process is exact to the nanosecond, where the ticks in ``/proc`` are not. Its
        number is made from the process id as ``clock_getcpuclockid`` makes it.
        """
        return sum(time.clock_gettime(~pid << 3 | CPU_CLOCK) for pid in self.pids())

    def rss_mib(self) -> list[float]:
        """Resident memory of each of its processes."""
        page = os.sysconf("SC_PAGE_SIZE")
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()]
        return [count * page / MEBI for count in pages]

    def wait_for(self, is_ready: Callable[[], bool], *, every: float = 0.02) -> None:
        """Return when it is ready; fail with what it wrote last if it ends or takes too long."""

        def settled() -> bool:
            return self.process.poll() is not None or is_ready()

        try:
            until(settled, f"{self.name} starts", seconds=START_S, every=every)
        except CannotMeasure as problem:
            raise CannotMeasure(f"{problem}\n{self._last_words()}") from None
        if self.process.poll() is not None:
            raise CannotMeasure(f"{self.name} ended by itself:\n{self._last_words()}")

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    def stop(self) -> None:
        """End it, and whatever of it is left."""
        try:
            self.process.terminate()
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill_group(self.process)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    core: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Run a program on one core for as long as the context is open.

    It is a session of its own, so that Ctrl-C reaches this process alone and everything is ended in
    order; and the kernel ends it if this process is killed.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*pinned(core), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    program = Program(name, process, log)
    try:
        yield program
    finally:
        program.stop()


def pinned(core: int) -> list[str]:
    """What stands before a command to run it on one core, and never without us."""
    return [tool("taskset"), "-c", str(core), tool("setpriv"), "--pdeathsig", "KILL"]


def tool(name: str) -> str:
    """Where an installed program is; some are in folders that only root searches."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise CannotMeasure(f"{name} is not installed")
    return found


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int, path: str) -> bool:
    """Whether a page is answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request.encode())
            return b" 200 " in connection.recv(100)
    except OSError:
        return False
