"""Reference pages of tables and contracts, and dbt's sources: from the contracts and dbt's descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import yaml

from lockhouse.reference_text import CONTRACTS, TABLES_INTRODUCTION, code, codes, page, table, yes
from stores.contracts import load_contracts
from stores.specs import every_table
from transforms.pii import contracts as format_of
from transforms.pii.categories import CATEGORIES
from transforms.pii.contract_documents import FIELD_NAME
from transforms.pii.contracts import Contract
from transforms.tables import Column, TableSpec

_MARTS = Path(__file__).resolve().parent.parent / "dbt_project" / "models" / "marts"


@dataclass(frozen=True)
class Mart:
    """A curated mart as dbt's own description has it."""

    name: str
    description: str
    grain: str
    tags: tuple[str, ...]
    columns: tuple[Column, ...]


def tables_page() -> str:
    """Describe every table: grain, partitions, columns with what they hold of people."""
    return page(
        "Tables",
        "`contracts/` and `dbt_project/models/marts/`",
        TABLES_INTRODUCTION,
        *(_spec_part(spec) for spec in every_table()),
        *(_mart_part(mart) for mart in read_marts()),
    )


def _spec_part(spec: TableSpec) -> str:
    grain = _GRAINS.get(spec.key) or _GRAINS[spec.zone]
    facts = f"Grain: {grain}. Partitions: {codes(spec.partition_by)}. Owner: {spec.owner}."
    return f"## `{spec.key}`\n\n{spec.description}\n\n{facts}\n\n{_column_table(spec.columns)}"


def _mart_part(mart: Mart) -> str:
    facts = f"Grain: {mart.grain}. Partitions: `event_date`."
    if mart.tags:
        facts += f" Tags: {codes(mart.tags)}."
    return f"## `curated.{mart.name}`\n\n{mart.description}\n\n{facts}\n\n{_column_table(mart.columns)}"


def _column_table(columns: Iterable[Column]) -> str:
    rows = [
        (
            code(one.name),
            duckdb_type(one.type),
            yes(one.nullable),
            one.pii or "",
            yes(one.in_statistics and one.pii is None),
            one.description,
        )
        for one in columns
    ]
    return table(["column", "type", "nullable", "PII", "in statistics", "meaning"], rows)


_DUCKDB_TYPES: dict[pa.DataType, str] = {
    pa.large_string(): "varchar",
    pa.large_binary(): "blob",
    pa.timestamp("us", tz="UTC"): "timestamp with time zone",
    pa.date32(): "date",
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.large_list(pa.int32()): "integer[]",
}


def duckdb_type(kind: pa.DataType) -> str:
    """Name a column's type as DuckDB, and so SQL and dbt, call it; KeyError for one that no table has."""
    return _DUCKDB_TYPES[kind]


def read_marts(folder: Path = _MARTS) -> list[Mart]:
    """Read dbt's descriptions of the marts, in the order of their names."""
    files = (
        yaml.safe_load(path.read_text()) for path in sorted(folder.rglob("*.yml"), key=lambda one: one.name)
    )
    return [_mart(model) for file in files for model in file["models"]]


def _mart(model: dict[str, Any]) -> Mart:
    config = model.get("config") or {}
    counted = set(config["meta"]["delta"]["stats_columns"])
    rules = [rule["one_row_a_grain"] for rule in model["data_tests"] if "one_row_a_grain" in rule]
    return Mart(
        model["name"],
        " ".join(model["description"].split()),
        "one row for each " + codes(rules[0]["arguments"]["columns"]),
        tuple(config.get("tags") or ()),
        tuple(_mart_column(one, counted) for one in model["columns"]),
    )


def _mart_column(declared: dict[str, Any], counted: set[str]) -> Column:
    types = {name: kind for kind, name in _DUCKDB_TYPES.items()}
    required = any(rule["type"] == "not_null" for rule in declared.get("constraints") or [])
    return Column(
        declared["name"],
        types[declared["data_type"]],
        declared["description"],
        pii=(declared.get("config") or {}).get("meta", {}).get("pii"),
        nullable=not required,
        in_statistics=declared["name"] in counted,
    )


_GRAINS = {
    "raw": "one accepted record",
    "vault": "one row for each data subject, join domain and value",
    "quarantine": "one part (at most 16 MiB) of something that was not accepted",
    "masked": "one accepted record",
    "raw.capture_files": "one delivered file",
    "raw.capture_blocks": "one block of packets (about 1 MiB)",
    "masked.packets": "one stored packet",
    "vault.token_map": "one token that was replaced",
}


def _coarse_forms(details: Iterable[str]) -> str:
    return "; ".join(f"{code(one)} of {' or '.join(format_of.COARSE_OF[one])}" for one in details)


def contracts_page() -> str:
    """Describe the contract format, with every word that it allows."""
    rows = [
        ("`logicalType`", codes(format_of.LOGICAL_TYPES)),
        ("`logicalTypeOptions.format`", codes(format_of.FORMATS)),
        ("`classification` without `pii`", codes(format_of.PUBLIC_CLASSES)),
        ("strategies", codes(format_of.PLAIN_STRATEGIES)),
        ("`{truncate: …}`", _coarse_forms(format_of.TRUNCATIONS)),
        ("`{generalise: …}`", _coarse_forms(format_of.GENERALISATIONS)),
        ("`derive`", codes(format_of.DERIVATIONS)),
        ("`unknownFields`", codes(format_of.UNKNOWN_FATES)),
        ("reserved field names", codes(format_of.RESERVED)),
        ("field names", code(FIELD_NAME.pattern)),
    ]
    text = Template(CONTRACTS).substitute(
        words=table(["where", "allowed"], rows),
        categories="\n".join(f"- `{name}`" for name in sorted(CATEGORIES)),
        sources="\n\n".join(_contract_part(one) for one in load_contracts().values()),
    )
    return page("Contracts", "`transforms/pii/contracts.py` and `contracts/`", text)


def _contract_part(contract: Contract) -> str:
    rows = [
        (
            code(one.name),
            one.logical_type,
            yes(one.required),
            one.category or one.classification,
            code(one.domain or ""),
            codes(out.column(one.name) for out in one.outputs if out.strategy != "drop"),
        )
        for one in contract.fields
    ]
    columns = ["field", "type", "required", "category or class", "join domain", "columns"]
    kept = ", ".join(f"{table} {days} days" for table, days in contract.retention_days.items())
    title = f"### `{contract.source}` {contract.version}"
    return f"{title}\n\n{contract.description}\n\nRetention: {kept}.\n\n{table(columns, rows)}"


def sources_yaml() -> str:
    """Describe the masked tables to dbt. No tests: a source's test would couple runs to each other."""
    tables = [_source_table(spec) for spec in every_table() if spec.zone == "masked"]
    source = {
        "name": "masked",
        "schema": "masked",
        "description": "The masked zone of one tenant: personal values are tokens and coarse forms here.",
        "tables": tables,
    }
    text = yaml.safe_dump({"sources": [source]}, sort_keys=False, allow_unicode=True, width=112)
    return f"# Generated by `make docs` from contracts/ and transforms/capture/tables.py; do not edit.\n{text}"


def _source_table(spec: TableSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "description": spec.description,
        "config": {"meta": {"dagster": {"asset_key": spec.key.split(".")}}},
        "columns": [_source_column(one) for one in spec.columns],
    }


def _source_column(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": column.name,
        "data_type": duckdb_type(column.type),
        "description": column.description,
    }
    return {**described, "config": {"meta": {"pii": column.pii}}} if column.pii else described
