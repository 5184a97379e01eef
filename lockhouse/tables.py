"""`tables` and `sql`: what is in the lake, and questions to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, note_error, program, show_json, show_table
from transforms.errors import UsageError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

# A terminal shows no more rows than this; files and pipes get all of them.
_SHOWN_ROWS = 1000


@click.command("tables", short_help="What is in the lake.")
@tenant_option
@json_option
@click.pass_obj
def tables_command(home: Path | None, tenant: str, as_json: bool) -> None:
    """List every Delta table: zone, rows, version, files, bytes, columns made of personal data."""
    from lockhouse.operations import list_tables

    tables = list_tables(caller_of(home, tenant))
    if as_json:
        show_json({"tables": tables})
        return
    columns = ["table", "rows", "version", "files", "bytes", "personal columns"]
    rows = [
        [one["table"], one["rows"], one["version"], one["files"], one["bytes"], ", ".join(one["pii_columns"])]
        for one in tables
    ]
    show_table(columns, rows, right=columns[1:5])
    if not tables:
        note(f"No table yet: {program()} demo, or {program()} ingest logins FILE")


@click.command("sql", short_help="Ask the masked and curated tables.")
@click.argument("query", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    help="How the rows are printed; without it as a table.",
)
@tenant_option
@json_option
@click.pass_obj
def sql_command(home: Path | None, query: str | None, form: str | None, tenant: str, as_json: bool) -> None:
    """Ask the masked and curated tables with SQL (DuckDB's), reading only; without QUERY a shell.

    \b
    Examples:
      lockhouse sql "select device_type, count(*) from masked.logins group by all"
      lockhouse sql "from curated.daily_logins" --format csv > daily.csv
    """
    from lockhouse.operations import run_sql

    if as_json and form:
        raise UsageError("--json and --format exclude each other: --json is one object, its `rows` the answer")
    caller, form = caller_of(home, tenant), "object" if as_json else form or "table"
    if query is not None:
        _print(run_sql(caller, query, _SHOWN_ROWS + 1 if form == "table" else None), form)
        return
    _shell(caller, form)


def _shell(caller: Any, form: str) -> None:  # noqa: ANN401 - operations.Caller, imported late
    """Read queries from a terminal, a line each, or from standard input."""
    from lockhouse.operations import run_sql
    from transforms.errors import LockhouseError

    if sys.stdin.isatty():
        note("One query a line; an empty line ends. Tables: lockhouse tables")
    while True:
        if sys.stdin.isatty():
            click.echo("sql> ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            _print(run_sql(caller, line, _SHOWN_ROWS + 1 if form == "table" else None), form)
        except LockhouseError as error:
            note_error(error)


def _print(rows: pa.Table, form: str) -> None:
    import polars as pl

    from transforms.cells import plain_cell

    if form in ("json", "object"):
        plain = [plain_cell(row) for row in rows.to_pylist()]
        show_json(plain if form == "json" else {"rows": plain})
    elif form == "csv":
        frame = pl.DataFrame(rows)
        binary = [name for name, kind in frame.schema.items() if kind == pl.Binary]
        nested = [_as_json(frame[name]) for name, kind in frame.schema.items() if kind.is_nested()]
        flat = frame.with_columns(pl.col(binary).bin.encode("hex"), *nested)
        click.echo(flat.write_csv(), nl=False)
    else:
        shown = rows.slice(0, _SHOWN_ROWS).to_pylist()
        # A terminal has a form for numbers that JSON has not.
        cells = ([one if isinstance(one, float) else plain_cell(one) for one in row.values()] for row in shown)
        show_table(rows.column_names, cells)
        if rows.num_rows > _SHOWN_ROWS:
            note(f"only the first {_SHOWN_ROWS} rows are shown; --format csv gives all")


def _as_json(values: pl.Series) -> pl.Series:
    """Write lists and structures as JSON: a CSV cell holds text."""
    import json

    import polars as pl

    from transforms.cells import plain_cell

    texts = [None if one is None else json.dumps(plain_cell(one)) for one in values.to_list()]
    return pl.Series(values.name, texts, dtype=pl.String)
