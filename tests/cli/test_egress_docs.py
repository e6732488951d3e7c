"""What docs/egress.md shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from keymux.cli.proxy_intake import read
from keymux.core.egress import ProxyAddress, ProxyStatus, ProxyType
from keymux.core.proxy_text import type_of
from tests.cli.program import CONFIG, Program

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "egress.md").read_text()
COMMANDS = re.findall(r"^\$ keymux (.+)$", PAGE, re.MULTILINE)
NOBODY = {"base_url": "https://127.0.0.1:9"}


def block(kind: str) -> str:
    """The one block of a kind."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def column(title: str) -> list[str]:
    """The first column of the table whose header begins so."""
    table = PAGE.partition(f"| {title} |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`(\w+)`", row)]


def test_the_commands_work(keymux: Program) -> None:
    """All of them in their order; only a test of a proxy that nobody has set up may fail."""
    providers = {"ohmygpt": {"kind": "ohmygpt", **NOBODY}}
    route = [{"provider": "ohmygpt", "model": "m"}]
    models = [{"id": "claude-sonnet-4-5", "route": route}]
    egress = {"connect_s": 0.5}
    keymux.configure(
        {"store": CONFIG["store"], "providers": providers, "models": models, "egress": egress}
    )
    (keymux.folder / "proxies.txt").write_text(block("csv"))
    given = "sk-one-0123456789\n"
    keymux.run("keys", "add", "ohmygpt", "--stdin", "--label", "team-a", given=given)
    for command in COMMANDS:
        words = shlex.split(command.partition(" <")[0])
        done = keymux.run(*words, given="s3cr3t\n" if "<" in command else "")

        assert done.code == 0 or words[:2] == ["proxies", "test"], (command, done.err)
        assert "Traceback" not in done.err
        assert "s3cr3t" not in done.out + done.err


def test_its_commands_are_tried() -> None:
    """The test above finds them: a change of the page must not empty it."""
    assert len(COMMANDS) >= 18


@pytest.mark.parametrize(("kind", "expected"), [("text", 4), ("csv", 2)])
def test_the_files_can_be_imported(kind: str, expected: int) -> None:
    """Without any objection."""
    intake = read(block(kind).encode())

    assert (len(intake.entries), intake.problems) == (expected, ())


def test_what_is_said_of_decoding_is_so() -> None:
    """A URL is decoded, a line is not."""
    first, _, third, _ = (entry.address for entry in read(block("text").encode()).entries)

    assert first == ProxyAddress(ProxyType.SOCKS5, "proxy.example", 1080, "user", "p@ss")
    assert third == ProxyAddress(ProxyType.HTTP, "192.0.2.8", 3128, "user", "password")


def test_every_status_is_explained() -> None:
    """And no other."""
    assert column("status") == [status.value for status in ProxyStatus]


def test_every_type_is_explained() -> None:
    """And no other."""
    assert {type_of(word) for word in column("type") if word != "socks5h"} == set(ProxyType)


def test_links_lead_somewhere() -> None:
    """Every page it points at is there."""
    links = re.findall(r"\]\(([^)]+)\)", PAGE)

    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)
