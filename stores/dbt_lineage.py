"""Which masked columns each column of a mart is made of, read from the models' own SQL.

Worked out once, when the manifest is built, and kept beside it: the catalog shows it without
parsing SQL at every start.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.dbt_runs import MANIFEST, compile_models, manifest_file, parse_manifest

LINEAGE = MANIFEST.with_name("lineage.json")

# Mart -> its column -> the masked columns, each as (table, column).
Lineage = dict[str, dict[str, list[tuple[str, str]]]]


def write_lineage() -> Path:
    """Work out the lineage of every mart and keep it beside the manifest."""
    with tempfile.TemporaryDirectory(dir=MANIFEST.parent) as folder:
        queries = compile_models(Path(folder))
    manifest = json.loads(MANIFEST.read_text())
    lineage = {name: _of_mart(name, queries, manifest) for name in _marts(manifest)}
    draft = LINEAGE.with_suffix(".new")
    draft.write_text(json.dumps(lineage, indent=1))
    draft.replace(LINEAGE)
    return LINEAGE


def load_lineage() -> Lineage:
    """Read the lineage, working it out where it is absent or older than the manifest."""
    manifest_file()
    if not LINEAGE.exists() or LINEAGE.stat().st_mtime_ns < MANIFEST.stat().st_mtime_ns:
        write_lineage()
    kept: dict[str, dict[str, list[list[str]]]] = json.loads(LINEAGE.read_text())
    return {
        mart: {column: [(table, name) for table, name in sources] for column, sources in columns.items()}
        for mart, columns in kept.items()
    }


def _marts(manifest: Mapping[str, Any]) -> list[str]:
    nodes = manifest["nodes"].values()
    return sorted(one["name"] for one in nodes if one["resource_type"] == "model" and "marts" in one["fqn"])


def _of_mart(mart: str, queries: Mapping[str, str], manifest: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    node = next(one for one in manifest["nodes"].values() if one["name"] == mart)
    tables = {one["name"]: list(one["columns"]) for one in manifest["sources"].values()}
    return {column: _of_column(column, mart, queries, tables) for column in node["columns"]}


def _of_column(
    column: str, mart: str, queries: Mapping[str, str], tables: Mapping[str, list[str]]
) -> list[list[str]]:
    """Follow a column through other marts and staging views to masked tables; a bare count has no source."""
    from sqlglot.lineage import lineage

    schema = {"memory": {"masked": {table: dict.fromkeys(names, "varchar") for table, names in tables.items()}}}
    inner = {
        f"memory.{'staging' if name.startswith('stg_') else 'curated'}.{name}": query
        for name, query in queries.items()
        if name != mart
    }
    root = lineage(column, queries[mart], schema=schema, sources=inner, dialect="duckdb")
    leaves = {tuple(leaf.name.split(".")) for leaf in root.walk() if not leaf.downstream}
    # A leaf that is no column of a table is the query itself: what a bare count is made of.
    return sorted([*leaf] for leaf in leaves if len(leaf) == 2 and leaf[1] in tables.get(leaf[0], ()))


if __name__ == "__main__":
    parse_manifest()
    write_lineage()
