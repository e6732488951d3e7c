"""Rows for people, for pipes and for programs.

On a terminal: a table that fits 80 columns. In a pipe: a line of tab-separated values for each row,
whole and without colour. With ``--json``: the rows as they are.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keymux.cli.saying import clean, say, say_json

Row = Mapping[str, object]

_THOUSAND = 1000
_ROUNDS_UP = 999.5
_STYLES = {
    "healthy": "green",
    "rate_limited": "yellow",
    "error": "yellow",
    "exhausted": "red",
    "quarantined": "bold red",
    "disabled": "dim",
    "unknown": "dim",
    "unhealthy": "yellow",
    "misconfigured": "bold red",
    "blocked": "bold red",
}


def plain(value: object) -> str:
    """A value in full."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case list() | tuple():
            return ", ".join(plain(item) for item in value)
        case datetime():
            return value.isoformat(timespec="seconds").replace("+00:00", "Z")
        case _:
            return str(value)


def compact(value: object) -> str:
    """A count in at most four digits and a letter."""
    number = float(plain(value) or 0)
    for unit in ("", "k", "M", "G"):
        if number < _ROUNDS_UP:
            return f"{number:.3g}{unit}" if unit else f"{number:.0f}"
        number /= _THOUSAND
    return f"{number:.0f}T"


class Column(Struct, frozen=True):
    """One field of the rows, and how a table shows it.

    Attributes:
        field: its name in the rows, in pipes and in JSON.
        title: its name in a table; empty for a field that stands below the one before it.
        brief: the value as a table shows it.
        right: flush right, for figures.
        whole: never broken into two lines.
    """

    field: str
    title: str = ""
    brief: Callable[[object], str] = plain
    right: bool = False
    whole: bool = False


def listing(
    rows: Sequence[Row], columns: Sequence[Column], *, as_json: bool, nothing: str = "none"
) -> None:
    """Print rows in the way that suits whoever reads.

    Args:
        rows: each has all fields of the columns.
        columns: in order.
        as_json: for programs.
        nothing: said on a terminal when there are no rows.
    """
    if as_json:
        say_json(rows)
    elif not sys.stdout.isatty():
        say_values([column.field for column in columns], "\t")
        for row in rows:
            say_values([plain(row[column.field]) for column in columns], "\t")
    elif rows:
        Console().print(_table(rows, columns))
    else:
        say(nothing)


def say_values(values: Sequence[str], separator: str) -> None:
    """One line of a pipe."""
    sys.stdout.write(separator.join(clean(value) for value in values) + "\n")


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    stacks: list[list[Column]] = []
    for column in columns:
        if not column.title:
            stacks[-1].append(column)
            continue
        stacks.append([column])
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            width=_width(rows, column) if column.whole else None,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_cell(row, stack) for stack in stacks))
    return table


def _width(rows: Sequence[Row], column: Column) -> int:
    """Of a column that is never broken; what stands below its values is broken instead."""
    widest = max(len(clean(column.brief(row[column.field]))) for row in rows)
    return max(widest, len(column.title))


def _cell(row: Row, stack: Sequence[Column]) -> Text:
    cell = Text()
    for column in stack:
        words = clean(column.brief(row[column.field]))
        if not words:
            continue
        if cell:
            cell.append("\n")
        cell.append(words, style=_STYLES.get(words, "dim" if not column.title else ""))
    return cell
