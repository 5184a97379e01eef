"""The curated marts: dbt models over the masked tables, each window of dates replaced as a whole."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg
import polars as pl
from dagster_dbt import DagsterDbtTranslator, DbtProject, dbt_assets

from assets.batches import FRESH, ONE_HOUR, RETRY, Batches, listing, masked_rows, scrubbed
from assets.catalog import materialisation
from assets.logins import CONTRACT
from assets.partitions import HOURS, hour_start
from assets.validations import CONTRACT as VALIDATIONS
from stores.captures import CaptureIntake
from stores.dbt_lineage import load_lineage
from stores.dbt_runs import DbtOutcome, ModelOutcome, TestOutcome, manifest_file
from stores.intake import Intake
from stores.ledger import Ledger
from stores.marts import Marts, marts_of
from stores.tables import Tables
from transforms.capture.tables import OWNER, SOURCE
from transforms.errors import TableError
from transforms.pii.contracts import Contract

Manifest = Mapping[str, Any]
LINEAGE = load_lineage()
# Who answers for the marts of a subject; a mart's subject is the folder that its model lies in.
OWNERS = {CONTRACT.source: CONTRACT.owner, SOURCE: OWNER, VALIDATIONS.source: VALIDATIONS.owner}


class MartTranslator(DagsterDbtTranslator):
    """Shows a mart as an asset of ours: keyed by zone, grouped by subject, fed by masked tables."""

    def get_asset_spec(self, manifest: Manifest, unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """Describe a mart; a source keeps the key that its table has, and a staging view is no asset."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] != "model" or "marts" not in node["fqn"]:
            return spec
        subject = node["fqn"][-2]
        tokens = {name for name, one in node["columns"].items() if _pii_of(one)}
        return spec.replace_attributes(
            key=["curated", node["name"]],
            deps=[dg.AssetKey(["masked", one]) for one in sorted(_sources_of(manifest, unique_id))],
            description=" ".join(node["description"].split()),
            group_name=subject,
            owners=[f"team:{OWNERS[subject]}"],
            kinds={"dbt", "duckdb", "deltalake"},
            tags={"layer": "curated", "pii": "pseudonymous" if tokens else "none"},
            freshness_policy=FRESH,
            metadata={
                **spec.metadata,
                "dagster/table_name": f"curated.{node['name']}",
                "dagster/column_schema": _column_schema(node),
                "dagster/column_lineage": _column_lineage(node["name"]),
            },
        )


def _sources_of(manifest: Manifest, unique_id: str) -> set[str]:
    """Follow a model to the masked tables that it is made of, through the staging views."""
    if unique_id in manifest["sources"]:
        return {manifest["sources"][unique_id]["name"]}
    parents = manifest["nodes"][unique_id]["depends_on"]["nodes"]
    return {source for parent in parents for source in _sources_of(manifest, parent)}


def _pii_of(column: Mapping[str, Any]) -> str | None:
    return (column.get("config") or {}).get("meta", {}).get("pii") or (column.get("meta") or {}).get("pii")


def _column_schema(node: Mapping[str, Any]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name,
                one["data_type"],
                description=one["description"],
                constraints=dg.TableColumnConstraints(
                    nullable=not any(rule["type"] == "not_null" for rule in one.get("constraints") or [])
                ),
                tags={"pii": str(_pii_of(one))} if _pii_of(one) else {},
            )
            for name, one in node["columns"].items()
        ]
    )


def _column_lineage(mart: str) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(["masked", table]), name) for table, name in sources]
            for column, sources in LINEAGE.get(mart, {}).items()
        }
    )


# What the marts of every subject share.
_BUILT: dict[str, Any] = {
    "manifest": manifest_file(),
    "partitions_def": HOURS,
    "dagster_dbt_translator": MartTranslator(),
    "retry_policy": RETRY,
    "backfill_policy": ONE_HOUR,
}


def _marts_of_records(name: str, contract: Contract) -> dg.AssetsDefinition:
    """Give the asset that keeps the marts of a row-shaped source."""

    @dbt_assets(name=name, select=marts_of(contract.source), **_BUILT)
    def rebuilt(
        context: dg.AssetExecutionContext,
        config: Batches,
        intake: dg.ResourceParam[Intake],
        tables: dg.ResourceParam[Tables],
        ledger: dg.ResourceParam[Ledger],
        marts: dg.ResourceParam[Marts],
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        """Rebuild, in every mart of the source, the dates on which the arrived events happened."""
        with scrubbed():
            rows = masked_rows(tables, ledger, contract, config.batches, context.partition_key)
            yield from _rebuild(marts, tables, contract.source, _dates_of(rows), context.run.run_id)
            for batch in config.batches:
                intake.finish_batch(batch)

    return rebuilt


curated_marts = _marts_of_records("curated_marts", CONTRACT)
curated_validations = _marts_of_records("curated_validations", VALIDATIONS)


@dbt_assets(name="curated_captures", select=marts_of(SOURCE), **_BUILT)
def curated_captures(
    context: dg.AssetExecutionContext,
    config: Batches,
    captures: dg.ResourceParam[CaptureIntake],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    marts: dg.ResourceParam[Marts],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Rebuild, in every mart of captures, the dates of the arrived packets."""
    with scrubbed():
        named = {row["tenant"] for row in ledger.named(config.batches)}
        hour = hour_start(context.partition_key)
        touched = [
            (tenant, marts.packet_dates(tenant, config.batches, hour))
            for tenant in (sorted(named) if config.batches else tables.tenants())
        ]
        yield from _rebuild(marts, tables, SOURCE, touched, context.run.run_id)
        for batch in config.batches:
            captures.finish_batch(batch)


def _dates_of(rows: pl.DataFrame) -> list[tuple[str, list[date]]]:
    """Give the dates on which masked rows happened, tenant by tenant."""
    return [
        (str(tenant), part["event_hour"].dt.date().unique().to_list())
        for (tenant,), part in rows.group_by("tenant", maintain_order=True)
    ]


def _rebuild(
    marts: Marts, tables: Tables, subject: str, touched: Iterable[tuple[str, list[date]]], mark: str
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    # Without a date dbt would build all of them: a tenant that nothing arrived for is passed over.
    outcomes = [marts.rebuild(tenant, subject, dates, mark) for tenant, dates in touched if dates]
    yield from results_of(outcomes, tables)


def results_of(
    outcomes: list[DbtOutcome], tables: Tables
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Turn what dbt did for each tenant into results: a mart's rows added up, a test passed by all."""
    models: dict[str, list[ModelOutcome]] = {}
    tests: dict[str, list[TestOutcome]] = {}
    for outcome in outcomes:
        for model in outcome.models:
            models.setdefault(model.name, []).append(model)
        for test in outcome.tests:
            tests.setdefault(test.unique_id, []).append(test)
    infos = listing(tables)
    failed = [outcome.message or ", ".join(outcome.failed()) for outcome in outcomes if not outcome.succeeded]
    for name, written in models.items():
        if all(model.version is not None for model in written):
            metadata = materialisation(f"curated.{name}", sum(model.rows or 0 for model in written), infos)
            seconds = dg.MetadataValue.float(sum(model.seconds for model in written))
            yield dg.MaterializeResult(asset_key=["curated", name], metadata={**metadata, "seconds": seconds})
    for found in tests.values():
        yield _check_result(found)
    if failed:
        raise TableError(f"dbt did not build every mart: {'; '.join(failed)}")


def _check_result(found: list[TestOutcome]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(["curated", found[0].model]),
        check_name=found[0].name,
        passed=all(test.status == "pass" for test in found),
        metadata={"rows that fail": sum(test.failures for test in found)},
    )
