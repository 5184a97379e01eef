"""Delta tables as DuckDB sees them: SQL over the pinned list of files of one version.

DuckDB's own delta extension is not used: a list of files is as fast, needs no download, and is valid
because our tables have neither deletion vectors nor mapped columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.errors import TableError

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Delta's name of a primitive type -> DuckDB's, for partition columns: they are text in the path,
# and DuckDB would guess (a tenant called 007 becomes a number, a boolean stays text).
PARTITION_TYPES: Mapping[str, str] = {
    "string": "varchar",
    "date": "date",
    "boolean": "boolean",
    "timestamp": "timestamp with time zone",
    "integer": "integer",
    "long": "bigint",
}


def open_table(path: Path) -> DeltaTable | None:
    """Open the newest version; None where there is no table yet."""
    from deltalake import DeltaTable

    return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None


def pinned_files(table: DeltaTable) -> list[str]:
    """Return the files of the version that was opened; a later commit does not change the list."""
    return table.file_uris()


def quote_text(text: str) -> str:
    """Write text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Write a column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def select_nothing(columns: Mapping[str, str]) -> str:
    """Select no row of the declared columns (name -> DuckDB type)."""
    casts = (f"cast(null as {type_}) as {quote_name(name)}" for name, type_ in columns.items())
    return f"select {', '.join(casts)} where false"


def select_files(files: Iterable[str], partition_types: Mapping[str, str]) -> str:
    """Select all rows of Parquet files whose folders hold the partition values."""
    listed = ", ".join(quote_text(file) for file in files)
    options = "hive_partitioning = true, union_by_name = true"
    if partition_types:
        typed = ", ".join(f"{quote_text(name)}: {type_}" for name, type_ in partition_types.items())
        options += f", hive_types = {{{typed}}}"
    return f"select * from read_parquet([{listed}], {options})"  # noqa: S608 - every part is quoted


def select_table(table: DeltaTable | None, columns: Mapping[str, str]) -> str:
    """Select a table's rows; absent and empty tables, and columns no file has yet, as declared."""
    files = pinned_files(table) if table is not None else []
    if table is None or not files:
        return select_nothing(columns)
    selected = select_files(files, partition_types(table))
    if not columns:
        return selected
    return f"{selected} union all by name {select_nothing(columns)}"


def partition_types(table: DeltaTable) -> dict[str, str]:
    """Return the DuckDB type of each partition column.

    Raises: TableError for a column of a type that we never partition by.
    """
    names = set(table.metadata().partition_columns)
    types = {field.name: str(getattr(field.type, "type", "")) for field in table.schema().fields}
    for name in names - {name for name, type_ in types.items() if type_ in PARTITION_TYPES}:
        raise TableError(f"partition column {name}: met type {types.get(name)}; known: {[*PARTITION_TYPES]}")
    return {name: PARTITION_TYPES[types[name]] for name in sorted(names)}
