"""The curated marts: dbt models over the masked tables, each window of dates replaced as a whole."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtProject, dbt_assets

from assets.batches import FRESH, ONE_HOUR, RETRY, Batches, listing, masked_rows, scrubbed
from assets.catalog import materialisation
from assets.logins import CONTRACT
from assets.partitions import HOURS
from stores.dbt_lineage import load_lineage
from stores.dbt_runs import DbtOutcome, ModelOutcome, TestOutcome, manifest_file
from stores.intake import Intake
from stores.ledger import Ledger
from stores.marts import Marts
from stores.tables import Tables
from transforms.errors import TableError

Manifest = Mapping[str, Any]
LINEAGE = load_lineage()


class MartTranslator(DagsterDbtTranslator):
    """Shows a mart as an asset of ours: keyed by zone, grouped by subject, fed by masked tables."""

    def get_asset_spec(self, manifest: Manifest, unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """Describe a model; a source keeps the key that its table has."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] != "model":
            return spec
        sources = sorted(_sources_of(manifest, unique_id))
        tokens = {name for name, one in node["columns"].items() if _pii_of(one)}
        return spec.replace_attributes(
            key=["curated", node["name"]],
            deps=[dg.AssetKey(["masked", source]) for source in sources],
            description=" ".join(node["description"].split()),
            group_name=sources[0],
            owners=[f"team:{CONTRACT.owner}"],
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


@dbt_assets(
    manifest=manifest_file(),
    name="curated_marts",
    select="fqn:lockhouse.marts.*",
    partitions_def=HOURS,
    dagster_dbt_translator=MartTranslator(),
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def curated_marts(
    context: dg.AssetExecutionContext,
    config: Batches,
    intake: dg.ResourceParam[Intake],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
    marts: dg.ResourceParam[Marts],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Rebuild, in every mart, the dates on which the arrived events happened."""
    with scrubbed():
        rows = masked_rows(tables, ledger, CONTRACT, config.batches, context.partition_key)
        outcomes = [
            marts.rebuild(str(tenant), part["event_hour"].dt.date().unique().to_list(), context.run.run_id)
            for (tenant,), part in rows.group_by("tenant", maintain_order=True)
        ]
        yield from results_of(outcomes, tables)
        for batch in config.batches:
            intake.finish_batch(batch)


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
