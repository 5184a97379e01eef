"""The assets of a row-shaped source, from landing to raw, quarantine and masked: made from its contract."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from assets.batches import (
    FRESH,
    ONE_HOUR,
    RETRY,
    Batches,
    counts_in,
    flow_result,
    mask_batches,
    masked_result,
    masked_rows,
    scrubbed,
    seal_batches,
)
from assets.catalog import contract_table, masked_lineage
from assets.checks import check_nothing_lost, check_readable, check_specs
from assets.partitions import HOURS
from stores.flow import Flow
from stores.intake import Intake
from stores.ledger import Ledger
from stores.tables import Tables
from transforms.pii.contracts import Contract
from transforms.tables import masked_table, quarantine_table, raw_table

# What the assets of every source share.
_MADE: dict[str, Any] = {"partitions_def": HOURS, "retry_policy": RETRY, "backfill_policy": ONE_HOUR}


def landing_asset(contract: Contract, description: str) -> dg.AssetSpec:
    """Describe what lies in landing: nothing of ours makes it."""
    return dg.AssetSpec(
        ["landing", contract.source],
        description=description,
        group_name=contract.source,
        kinds={"file", "json"},
        owners=[f"team:{contract.owner}"],
        tags={"layer": "landing", "pii": "readable"},
    )


def sealed_asset(contract: Contract) -> dg.AssetsDefinition:
    """Give the asset `sealed_<source>`, which writes raw and quarantine."""
    came_from = [f"landing.{contract.source}"]
    written = (raw_table(contract), quarantine_table(contract))

    @dg.multi_asset(
        name=f"sealed_{contract.source}",
        specs=[contract_table(spec, contract, came_from) for spec in written],
        **_MADE,
    )
    def sealed(
        context: dg.AssetExecutionContext,
        config: Batches,
        intake: dg.ResourceParam[Intake],
        tables: dg.ResourceParam[Tables],
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Seal each record under its data subject's key; keep what is not accepted, with the reason."""
        with scrubbed():
            yield from seal_batches(intake, tables, contract, config.batches, context.partition_key)

    return sealed


def masked_asset(contract: Contract) -> dg.AssetsDefinition:
    """Give the asset `masked_<source>`, which writes masked and checks it."""
    spec = masked_table(contract)
    described = contract_table(spec, contract, [f"raw.{contract.source}"])
    lineage = {"dagster/column_lineage": masked_lineage(contract, spec)}

    @dg.multi_asset(
        name=f"masked_{contract.source}",
        specs=[described.merge_attributes(metadata=lineage).replace_attributes(freshness_policy=FRESH)],
        check_specs=check_specs(contract),
        **_MADE,
    )
    def masked(
        context: dg.AssetExecutionContext,
        config: Batches,
        intake: dg.ResourceParam[Intake],
        tables: dg.ResourceParam[Tables],
        ledger: dg.ResourceParam[Ledger],
        flow: dg.ResourceParam[Callable[[str, str], Flow]],
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        """Replace personal values by tokens and coarse forms; check that none is readable and none lost."""
        hour = context.partition_key
        with scrubbed():
            made = mask_batches(intake, tables, contract, config.batches, context.run.run_id, hour)
            rows = masked_rows(tables, ledger, contract, config.batches, hour)
            readable = check_readable(intake, contract, rows)
            told = masked_result(tables, contract, made, rows) | flow_result(flow, ledger, config.batches)
            yield dg.MaterializeResult(asset_key=spec.key.split("."), metadata=told)
            yield readable
            yield check_nothing_lost(contract, counts_in(ledger, config.batches, made), rows.height)

    return masked
