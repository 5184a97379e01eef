"""What commands print: one JSON object on standard output, or text for people; progress on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


def show_json(result: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(result, default=str, ensure_ascii=False))


def note(message: str) -> None:
    """Say something to the person, beside the result."""
    click.echo(message, err=True)


def note_error(error: Exception | str) -> None:
    """Say what went wrong, and which command shows what there is, where the error knows one."""
    see = getattr(error, "see", "")
    note(f"lockhouse: {error}" + (f": `{see}` shows them" if see else ""))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """Print a plain table; `right` names the columns that are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    numeric = set(right)
    for name in columns:
        table.add_column(name, justify="right" if name in numeric else "left", no_wrap=name in numeric)
    for row in rows:
        table.add_row(*("" if cell is None else _shown(cell) for cell in row))
    console = Console(highlight=False)
    # A pipe has no width: give every row its line.
    console.width = console.width if console.is_terminal else max(console.width, 240)
    console.print(table)


def _shown(cell: object) -> str:
    from rich.markup import escape

    if isinstance(cell, list):
        return ", ".join(map(_shown, cell))
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else escape(str(cell))


def program() -> str:
    """Give the words that call this command line here: `lockhouse` where the shell finds it, else its path.

    What is suggested can then be copied and run, from a fresh clone as well.
    """
    if shutil.which("lockhouse"):
        return "lockhouse"
    script = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return str(script.relative_to(here)) if script.is_relative_to(here) else str(script)


@contextmanager
def working(message: str, enabled: bool = True) -> Iterator[None]:
    """Show that work goes on, with the time it takes, once it takes long and a person looks."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(message, total=None)
        yield


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Measure wall time; `seconds` is set when the block ends."""
    measured: dict[str, float] = {}
    start = time.perf_counter()
    yield measured
    measured["seconds"] = round(time.perf_counter() - start, 1)
