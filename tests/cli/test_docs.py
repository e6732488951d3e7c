"""The page of the command line."""

import subprocess
import sys
from pathlib import Path

from tests.cli.program import Program

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cli.md"


def test_the_page_is_what_the_program_says() -> None:
    """docs/cli.md is up to date with the help texts."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check", "docs/cli.md"],
        capture_output=True,
        check=False,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_the_page_has_the_help_as_the_program_prints_it(keymux: Program) -> None:
    """What stands on the page is what `--help` prints on 80 columns."""
    printed = keymux.run("keys", "add", "--help", COLUMNS="80").out

    assert "\n".join(line.rstrip() for line in printed.splitlines()) in PAGE.read_text()
