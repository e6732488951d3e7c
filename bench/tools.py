"""What the benchmark needs from the system, and how it is built from it."""

import os
import shutil
import subprocess
from pathlib import Path

from processes import CannotMeasure, tool

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
LOAD = BUILD / "load"
SOURCES = ("load.c", "upstream.c", "loop.c")
PACKAGES = {
    "wrk": "wrk",
    "nginx": "nginx",
    "microsocks": "microsocks",
    "gcc": "gcc libc6-dev",
    "taskset": "util-linux",
    "setpriv": "util-linux",
}


def missing() -> list[str]:
    """Debian packages that hold what is not installed, each once."""
    found = []
    for name, packages in PACKAGES.items():
        try:
            tool(name)
        except CannotMeasure:
            found += packages.split()
    return sorted(set(found))


def can_install() -> bool:
    """Whether packages can be installed from here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str]) -> None:
    """Install Debian packages."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run([tool("apt-get"), "-qq", *words], check=True, env=environment)


def build() -> None:
    """Compile the load and the mock upstream, if that is not done."""
    sources = [str(HERE / name) for name in SOURCES]
    BUILD.mkdir(exist_ok=True)
    newest = max(path.stat().st_mtime for path in HERE.glob("*.[ch]"))
    if LOAD.exists() and LOAD.stat().st_mtime > newest:
        return
    command = [tool("gcc"), "-O2", "-Wall", "-Wextra", "-o", str(LOAD), *sources, "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise CannotMeasure(f"the load does not compile:\n{made.stderr}")
