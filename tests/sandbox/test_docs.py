"""The documentation of the sandbox is true: its table is the code's, its examples run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keymux.sandbox.apart import SandboxThread
from keymux.sandbox.asked import Endpoint
from keymux.sandbox.behaviours import catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = [body for kind, body in _BLOCK.findall(PAGE) if kind == "python"]


def _console() -> Iterator[tuple[str, str]]:
    """Every command of the page and the line it answers."""
    for kind, body in _BLOCK.findall(PAGE):
        if kind == "console":
            lines = body.splitlines()
            yield from zip(lines[::2], lines[1::2], strict=True)


def test_the_table_lists_every_behaviour() -> None:
    """Name, figures and meaning are those of the code, in its order."""
    rows = [
        f"| `{entry.name}` | {'<br>'.join(f'`{figure}`' for figure in entry.figures)} "
        f"| {entry.says} |".replace("|  |", "| |")
        for entry in catalogue()
    ]

    table = PAGE.partition("| name | figures")[2].partition("\n\n")[0]

    assert table.splitlines()[2:] == rows


@pytest.mark.parametrize("program", _PYTHON, ids=["scripts", "records"])
def test_python_examples_run(program: str) -> None:
    """As they stand on the page, assertions included."""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_every_endpoint_is_named() -> None:
    """Those that a script can be for."""
    assert all(f"`{endpoint}`" in PAGE for endpoint in set(Endpoint) - {Endpoint.OTHER})


@pytest.mark.parametrize(("command", "expected"), list(_console()))
def test_console_examples_answer_what_they_say(
    sandbox: SandboxThread, command: str, expected: str
) -> None:
    """The answer is the very line on the page."""
    words = shlex.split(command.removeprefix("$ curl -s "))
    options = list(pairwise(words))
    headers = dict(value.split(": ", 1) for option, value in options if option == "-H")
    method = next((value for option, value in options if option == "-X"), "POST")
    body = next((value for option, value in options if option == "-d"), "")
    url = next(urlsplit(f"http://{word}") for word in words if word.startswith("localhost:8105"))
    connection = HTTPConnection(urlsplit(sandbox.url()).netloc, timeout=5)
    connection.request(method, url.path, body, headers)
    answer = connection.getresponse().read().decode()
    connection.close()

    assert json.loads(answer) == json.loads(expected)
    assert answer == expected
