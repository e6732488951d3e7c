"""Write the generated pages and tables of docs/ anew, or say which of them are out of date.

One function a page; `PAGES` names them all.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from keymux.cli.main import Deferred, program
from keymux.core.faults import ClientFault, Fault, UpstreamFault, leaves
from keymux.core.retrying import DECISIONS, Move, Row, surfaced
from keymux.settings import json_schema
from keymux.wire import anthropic_messages

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

**Passwords of egress proxies** are asked for, or read with `--password-stdin` or from a file. No
command shows user or password of a proxy. Proxies are named by their name or id; for bindings keys
may be named by their label, too.

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


# -- pages of which only parts are generated -------------------------------------------------------
def _filled(page: str, parts: Mapping[str, str]) -> str:
    """A page as it is, with the parts between its markers written anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, part in parts.items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition("<!-- end -->\n")
        if not closing:
            raise ValueError(f"{page} has no place for {name}")
        text = f"{before}{opening}\n{part}\n\n{closing}{after}"
    return text


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- docs/errors.md --------------------------------------------------------------------------------
NOBODY_HEARS = 499


def errors_page() -> str:
    """Every fault, and every line of the decision table."""
    upstream = leaves(UpstreamFault)
    unheard = [fault for fault in leaves() if fault.status == NOBODY_HEARS]
    client = [fault for fault in leaves(ClientFault) if fault not in unheard]
    gateway = [fault for fault in leaves() if fault not in {*upstream, *unheard, *client}]
    told = ("code", "status", "when", "message")
    heard = ("code", "when", "blame", "what the client hears")
    decided = ("code", "work done", "generation", "repeatable", "stateful", "health")
    return _filled(
        "docs/errors.md",
        {
            "client": _table(told, [_told(fault) for fault in client]),
            "gateway": _table(told, [_told(fault) for fault in gateway]),
            "unheard": _table(told, [_told(fault) for fault in unheard]),
            "upstream": _table(heard, [_heard(fault) for fault in DECISIONS]),
            "decisions": _table(decided, [_decided(*item) for item in DECISIONS.items()]),
        },
    )


def _told(fault: type[Fault]) -> tuple[str, str, str, str]:
    return f"`{fault.code}`", _status(fault), _summary(fault), f"`{fault.says}`"


def _status(fault: type[Fault]) -> str:
    anthropic = anthropic_messages.FORMAT.statuses.get(fault.status)
    return f"{fault.status} (Anthropic {anthropic})" if anthropic else f"{fault.status}"


def _summary(thing: type) -> str:
    return (thing.__doc__ or "").partition("\n")[0]


def _heard(fault: type[UpstreamFault]) -> tuple[str, str, str, str]:
    told = type(surfaced(fault(how="", seconds=0), model=""))
    heard = f"{_status(told)} `{told.code}`"
    if DECISIONS[fault].theirs:
        heard = f"the provider's own, else {heard}"
    return f"`{fault.code}`", _summary(fault), fault.blame, heard


def _decided(fault: type[UpstreamFault], row: Row) -> tuple[str, ...]:
    cells = (row.generation, row.repeatable, row.stateful)
    return f"`{fault.code}`", _work(row), *map(_moves, cells), row.effect


def _work(row: Row) -> str:
    return f"{row.work}, perhaps billed" if row.ambiguous else row.work


def _moves(cell: tuple[Move, ...]) -> str:
    return ", then ".join(cell) or "-"


# -- docs/configuration.md -------------------------------------------------------------------------
SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "": "At the top",
        "ProviderSettings": "providers.NAME",
        "ModelSettings": "models[]",
        "TargetSettings": "models[].route[]",
        "PriceSettings": "models[].price",
        "Timeouts": "timeouts",
        "Retry": "retry",
        "Cooldown": "cooldown",
        "EgressSettings": "egress",
        "Limits": "limits",
        "Log": "log",
        "Secrets": "secrets",
    }
)
"""The sections of the schema in the order of the page, and where they stand in a config."""

ENDLESS = 2**40
"""A limit that only keeps numbers sane is not worth a word."""


def configuration_page() -> str:
    """Every field of every section."""
    schema = json_schema()
    parts: list[str] = []
    for name, path in SECTIONS.items():
        section = schema["$defs"][name] if name else schema
        required = section.get("required", [])
        fields = [
            (f"`{field}`", _type(about), _default(about, needed=field in required), _meaning(about))
            for field, about in section["properties"].items()
        ]
        heading = f"## `{path}`" if name else f"## {path}"
        about = section["description"].replace("\n", " ")
        parts += [heading, about, _table(("field", "type", "default", "meaning"), fields)]
    return _filled("docs/configuration.md", {"fields": "\n\n".join(parts)})


def _type(about: Mapping[str, Any]) -> str:
    about = about["anyOf"][0] if "anyOf" in about else about
    if "$ref" in about:
        return "object"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if about["type"] == "array":
        return f"list: {_type(about['items'])}"
    return f"{about['type']}{_bounds(about)}"


def _bounds(about: Mapping[str, Any]) -> str:
    least, most = about.get("minimum"), about.get("maximum", ENDLESS)
    lower = f" from {least:g}" if least is not None else ""
    if "exclusiveMinimum" in about:
        lower = f" above {about['exclusiveMinimum']:g}"
    return lower + (f" to {most:.0f}" if most < ENDLESS else "")


def _default(about: Mapping[str, Any], *, needed: bool) -> str:
    if needed:
        return "required"
    value = about.get("default")
    if value is None or isinstance(value, dict):
        return "-"
    return f"`{json.dumps(value)}`"


def _meaning(about: Mapping[str, Any]) -> str:
    reference = str(about.get("$ref", "")).rpartition("/")[2]
    if reference:
        return f"See `{SECTIONS[reference]}`."
    return str(about["description"])


PAGES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "docs/cli.md": cli_page,
        "docs/configuration.md": configuration_page,
        "docs/errors.md": errors_page,
    }
)
"""Every page with something generated, and what writes it."""


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
