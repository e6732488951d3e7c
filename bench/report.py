"""What was found: lines of a table, and the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from measure import Spread
from rich.console import Console
from rich.table import Table

NOTHING = "-"
DISTURBED = 0.05


class Line(msgspec.Struct, frozen=True):
    """One thing that was measured.

    Attributes:
        what: it is.
        keymux: its figure, with unit,
        nginx: the floor's,
        litellm: and the peer's.
        compared: how they compare: median of the rounds, lowest and highest in brackets.
        target: what was hoped for.
        met: whether it was; None where there is no target.
        others: highest share of the core that other programs took meanwhile, if that matters.
        figures: the same as plain numbers.
    """

    what: str
    keymux: str
    nginx: str = NOTHING
    litellm: str = NOTHING
    compared: str = NOTHING
    target: str = NOTHING
    met: bool | None = None
    others: float | None = None
    figures: Mapping[str, float | Spread] = {}


class Report(msgspec.Struct, frozen=True):
    """A whole run.

    Attributes:
        machine: its class, without a name.
        lines: in order.
        problems: what could not be measured, and why.
    """

    machine: str
    lines: Sequence[Line]
    problems: Sequence[str]


def middle(value: Spread, form: str, unit: str = "") -> str:
    """The median of the rounds."""
    return f"{value.median:{form}}{unit}"


def spread(value: Spread, form: str, unit: str = "") -> str:
    """The median with the lowest and highest value of the rounds."""
    return f"{middle(value, form, unit)} ({value.low:{form}}..{value.high:{form}})"


def at_most(what: Line, value: float, limit: float, unit: str = "") -> Line:
    """A line with the target that a value stays below a limit."""
    return msgspec.structs.replace(what, target=f"<= {limit:g}{unit}", met=value <= limit)


def at_least(what: Line, value: float, limit: float, unit: str = "") -> Line:
    """A line with the target that a value reaches a limit."""
    return msgspec.structs.replace(what, target=f">= {limit:g}{unit}", met=value >= limit)


def show(report: Report, console: Console) -> None:
    """Print the table and what has to be known with it."""
    table = Table(title=f"keymux on one core of {report.machine}", title_justify="left")
    table.add_column("what")
    for name in ("keymux", "nginx", "LiteLLM", "compared", "target", "met", "others"):
        table.add_column(name, justify="right")
    for line in report.lines:
        cells = (line.what, line.keymux, line.nginx, line.litellm, line.compared, line.target)
        table.add_row(*cells, _verdict(line.met), _disturbance(line.others))
    console.print(table)
    console.print("compared: the median of the rounds, with the lowest and the highest")
    console.print("others: what other programs took of the core under test; measure again if > 5%")
    for problem in report.problems:
        console.print(f"[red]not measured:[/red] {problem}", highlight=False)


def _verdict(met: bool | None) -> str:  # noqa: FBT001 -- a verdict is nothing else
    if met is None:
        return NOTHING
    return "[green]yes[/green]" if met else "[red]no[/red]"


def _disturbance(others: float | None) -> str:
    if others is None:
        return NOTHING
    return f"{others:.0%}" if others < DISTURBED else f"[yellow]{others:.0%}[/yellow]"


def write(report: Report, path: Path) -> None:
    """Write it down for programs."""
    path.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")
