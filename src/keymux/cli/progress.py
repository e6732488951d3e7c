"""A bar on the terminal for work that takes its time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far some work is; call what is given with how much was done.

    Only a terminal is told, on standard error, and the bar is gone when the work is done.
    """
    if not sys.stderr.isatty():
        yield lambda amount: None  # noqa: ARG005 -- nobody looks
        return
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)
