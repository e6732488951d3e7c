"""What the README tells a newcomer to type works as it stands, and what it points at exists."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anthropic import Anthropic
from openai import OpenAI

from keymux.sandbox.apart import SandboxThread
from tests.scenarios.rig import CLIENT_KEY, GatewayProcess, Keys, config_of
from tests.scenarios.wire import ANTHROPIC_PATH, chat, post

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "README.md").read_text()
ADDRESS, KEY = "http://127.0.0.1:8005", "km-..."
LINKS = re.findall(r"\]\(([^)]+)\)", PAGE)
COMMANDS = [
    command
    for command in re.findall(r"`(?:\.venv/bin/)?(keymux [^`]+)`", PAGE)
    if "serve" not in command
]


def blocks(kind: str, holding: str) -> list[str]:
    """The fenced blocks of a kind that hold a text."""
    found = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return [block for block in found if holding in block]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with both providers, one exchange served."""
    folder = tmp_path_factory.mktemp("readme")
    with SandboxThread() as sandbox:
        urls = {name: sandbox.url(name) for name in ("ohmygpt", "openhands")}
        keys = {name: Keys([f"sk-sandbox-{name}"]) for name in urls}
        with GatewayProcess(folder, config_of(urls), keys) as running:
            (folder / "my.json").write_text(running.config_path.read_text())
            yield running


def _here(text: str, gateway: GatewayProcess) -> str:
    """A text with the address and the client key of this gateway."""
    assert KEY in text
    return text.replace(ADDRESS, gateway.url).replace(KEY, CLIENT_KEY)


def test_it_can_be_read_in_one_go() -> None:
    """At most 150 lines."""
    assert len(PAGE.splitlines()) <= 150


@pytest.mark.parametrize("link", LINKS)
def test_its_links_lead_somewhere(link: str) -> None:
    """Every page it points at is there."""
    assert (ROOT / link).is_file()


def test_the_curl_line_streams_an_answer(gateway: GatewayProcess) -> None:
    """The first thing a newcomer pastes."""
    (block,) = blocks("console", "curl -N")
    words = shlex.split(_here(block, gateway).removeprefix("$ ").replace("\\\n", " "))
    url = urlsplit(words[2])
    named = [words[at + 1].partition(": ") for at, word in enumerate(words) if word == "-H"]
    headers = {name: value for name, _, value in named}
    body = words[words.index("-d") + 1]
    response = post(gateway.port, url.path, body.encode(), headers)

    assert (url.port, words[:2]) == (gateway.port, ["curl", "-N"])
    assert response.status == 200
    assert b"event: message_stop" in response.body


def test_the_lines_for_the_sdks_work(gateway: GatewayProcess) -> None:
    """The clients they make get answers."""
    made: dict[str, Any] = {}
    for block in blocks("python", "base_url"):
        exec(_here(block, gateway), made)  # noqa: S102 -- our own page
        client, model = made["client"], "claude-sonnet-4-5"
        asked: list[Any] = [{"role": "user", "content": "Hello"}]
        if isinstance(client, OpenAI):
            answer = client.chat.completions.create(model=model, messages=asked)
            made["openai"] = answer.choices[0].message.content
        else:
            assert isinstance(client, Anthropic)
            said = client.messages.create(model=model, messages=asked, max_tokens=50)
            made["anthropic"] = said.content[0]

    assert made["openai"]
    assert made["anthropic"].text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_work(gateway: GatewayProcess, command: str) -> None:
    """Each does what its line says, beside the running server."""
    served = post(gateway.port, ANTHROPIC_PATH, chat()).headers["x-keymux-request-id"]
    gateway.row(served)
    made = json.loads(gateway.run("clients", "add", "--label", "bob", "--json").stdout)
    told = command.replace("req_...", served).replace(" ID", f" {made['id']}")
    words = shlex.split(told.replace("my.json", str(gateway.folder / "my.json")))[1:]
    secret = "sk-sandbox-new\n" if "--stdin" in words else ""
    done = gateway.run(*words, stdin=secret)

    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_its_table_of_commands_is_tried() -> None:
    """The test above finds them: a change of the page must not empty it."""
    assert len(COMMANDS) >= 8
