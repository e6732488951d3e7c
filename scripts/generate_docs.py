"""Write the generated pages of docs/ anew, or say which of them are out of date.

One function a page; `PAGES` names them all.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from keymux.cli.main import Deferred, program

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 78  # what the program uses on a terminal of 80 columns


# -- docs/cli.md -----------------------------------------------------------------------------------
CLI_INTRODUCTION = """\
# The command line

<!-- Written by `make docs` from the help texts; change those. -->

`keymux` runs the gateway and is the operator's way to its store. Every command below answers
`--help`.

**The config.** Commands read the file that `--config` names, else `KEYMUX_CONFIG`, else
`config/config-failover.json`. A relative path of the store counts from the folder you are in, so
run commands where the gateway runs.

**While the server runs.** All commands may be used then. The server reads what was changed within a
second.

**Keys are never arguments.** Arguments stand in the process list and in the shell's history. Hand
keys over in a file (`--file`), on standard input (`--stdin`), or at a hidden prompt (neither).
Known keys are named by their id, by an unambiguous beginning of it, or by the last four characters
of the secret. Secrets are shown as their first 3 and last 4 characters; only a new client key is
printed whole, once.

**Layouts of keys.** The layout is recognised by itself, in UTF-8 or in UTF-16 with its mark:

| layout | looks like |
|---|---|
| lines | one key a line; empty lines and lines that begin with `#` are passed over |
| CSV | a header with `apiKey` or `key`, perhaps `label` and `group`; `,` `;` or tabs |
| JSON | a list of keys, or of objects with `apiKey` or `key`, perhaps `label`, `group` |
| JSON, both kinds | `{"keys": [...], "backupKeys": [...]}` |
| JSON lines | an object on each line, as database exports are written |

One bad entry and nothing is imported; every bad entry is named with its line. `--skip-bad` imports
the good ones and still ends with 1. A secret that is known already is left alone, so an import may
be run again.

**Output.** Tables on a terminal, tab-separated lines with a header in a pipe, JSON with `--json`.
Results go to standard output, everything else to standard error. Times are UTC.

**Exit status.** 0: done. 1: it failed, and standard error says what was wrong and what to do.
2: the command line itself was wrong.

**Audit.** Every change is written down with the actor `cli:<your login>`; `keymux audit` shows it.
"""


def cli_page() -> str:
    """Every command's help text."""
    parts = [CLI_INTRODUCTION]
    for name, command in program().commands.items():
        for path, text in _helps(f"keymux {name}", command):
            level = "#" * path.count(" ") + "#"
            parts.append(f"{level} {path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _helps(path: str, command: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 -- typer's own type
    if isinstance(command, Deferred):
        command = command.real()
    context = typer.Context(command, info_name=path, terminal_width=WIDTH)
    lines = command.get_help(context).splitlines()
    yield path, "\n".join(line.rstrip() for line in lines)
    for name, child in getattr(command, "commands", {}).items():
        yield from _helps(f"{path} {name}", child)


PAGES: Mapping[str, Callable[[], str]] = MappingProxyType({"docs/cli.md": cli_page})
"""Every generated page, and what writes it."""


def main(arguments: list[str]) -> int:
    """Write pages, or with --check only compare them.

    Args:
        arguments: --check, and the pages; all of them when none is named.

    Returns:
        1 when a page is out of date.
    """
    only_check = "--check" in arguments
    named = [name for name in arguments if name != "--check"]
    stale = [name for name in named or PAGES if not _is_current(name)]
    for name in stale:
        if only_check:
            print(f"{name} is out of date; run `make docs`")
        else:
            (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
            print(f"written: {name}")
    return int(only_check and bool(stale))


def _is_current(name: str) -> bool:
    path = ROOT / name
    return path.exists() and path.read_text(encoding="utf-8") == PAGES[name]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
