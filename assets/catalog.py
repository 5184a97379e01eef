"""What the catalog shows of an asset: columns with their PII tags, lineage, counts, a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from stores.tables import TableInfo
from transforms.charts import bar_chart
from transforms.pii.contracts import Contract
from transforms.tables import Column, TableSpec


def contract_table(spec: TableSpec, contract: Contract, deps: Iterable[str] = ()) -> dg.AssetSpec:
    """Describe a table of a contract as an asset: `raw.logins` is `raw/logins`."""
    where = f"contracts/{contract.source}.yaml {contract.version}"
    return table_asset(spec, contract.source, deps).merge_attributes(
        metadata={"contract": dg.MetadataValue.text(where)}
    )


def table_asset(spec: TableSpec, group: str, deps: Iterable[str] = ()) -> dg.AssetSpec:
    """Describe a table as an asset of a group."""
    return dg.AssetSpec(
        key=spec.key.split("."),
        deps=[dg.AssetKey(dep.split(".")) for dep in deps],
        description=spec.description,
        group_name=group,
        owners=[f"team:{spec.owner}"],
        kinds={"deltalake", "polars"},
        tags={"layer": spec.zone, "pii": pii_level(spec)},
        metadata={
            "dagster/column_schema": column_schema(spec.columns),
            "dagster/table_name": spec.key,
        },
    )


def pii_level(spec: TableSpec) -> str:
    """Say in one word what a table holds of people: `sealed`, `pseudonymous` or `none`."""
    kinds = {one.pii for one in spec.columns} - {None}
    if not kinds:
        return "none"
    return "sealed" if kinds <= {"sealed", "pseudonym"} else "pseudonymous"


def column_schema(columns: Iterable[Column]) -> dg.TableSchema:
    """Give the column table of the catalog, personal columns tagged."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                one.name,
                type_name(one),
                description=one.description,
                constraints=dg.TableColumnConstraints(nullable=one.nullable),
                tags={"pii": one.pii} if one.pii else {},
            )
            for one in columns
        ]
    )


def type_name(column: Column) -> str:
    """Name a column's type as SQL would: `string`, `timestamp`, `date`, `integer`, ..."""
    kind = str(column.type).removeprefix("large_").partition("[")[0]
    return {"date32": "date", "bool": "boolean", "int32": "integer", "int64": "bigint"}.get(kind, kind)


def masked_lineage(contract: Contract, spec: TableSpec) -> dg.TableColumnLineage:
    """Say of which raw column each masked column is made: all of them of the sealed record."""
    raw = dg.AssetKey(["raw", contract.source])
    passed_on = {"event_id", "tenant", "received_at", "received_date", "batch_id", "chunk"}
    return dg.TableColumnLineage(
        {
            one.name: [dg.TableColumnDep(raw, one.name if one.name in passed_on else "record")]
            for one in spec.columns
        }
    )


def materialisation(
    key: str, rows: int, infos: Iterable[TableInfo], hours: Mapping[str, int] | None = None
) -> dict[str, dg.MetadataValue]:
    """Give the metadata of a write: rows that it wrote, and the table's size over all tenants."""
    tables = [info for info in infos if info.key == key]
    metadata: dict[str, dg.MetadataValue] = {
        "rows written": dg.MetadataValue.int(rows),
        "dagster/row_count": dg.MetadataValue.int(sum(info.rows for info in tables)),
        "bytes": dg.MetadataValue.int(sum(info.size_bytes for info in tables)),
        "files": dg.MetadataValue.int(sum(info.files for info in tables)),
        "versions": dg.MetadataValue.json({info.tenant: info.version for info in tables}),
    }
    if hours:
        metadata["rows per hour"] = dg.MetadataValue.md(bar_chart(hours))
    return metadata
