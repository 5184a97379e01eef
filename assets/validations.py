"""Identity validations, once decided: from landing to raw, quarantine and masked. Marts are in `curated.py`."""

from collections.abc import Iterator

import dagster as dg

from assets.batches import (
    FRESH,
    ONE_HOUR,
    RETRY,
    Batches,
    counts_in,
    mask_batches,
    masked_result,
    masked_rows,
    scrubbed,
    seal_batches,
)
from assets.catalog import contract_table, masked_lineage
from assets.checks import check_nothing_lost, check_readable, check_specs
from assets.partitions import HOURS
from stores.contracts import load_contract
from stores.intake import Intake
from stores.ledger import Ledger
from stores.tables import Tables
from stores.validations.analytics import SOURCE
from transforms.tables import masked_table, quarantine_table, raw_table

CONTRACT = load_contract(SOURCE)
MASKED = masked_table(CONTRACT)

landing_validations = dg.AssetSpec(
    ["landing", SOURCE],
    description="Decided validations as analytics hands them over: readable until they are sealed.",
    group_name=SOURCE,
    kinds={"file", "json"},
    owners=[f"team:{CONTRACT.owner}"],
    tags={"layer": "landing", "pii": "readable"},
)


@dg.multi_asset(
    name="sealed_validations",
    specs=[
        contract_table(raw_table(CONTRACT), CONTRACT, ["landing.validations"]),
        contract_table(quarantine_table(CONTRACT), CONTRACT, ["landing.validations"]),
    ],
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def sealed_validations(
    context: dg.AssetExecutionContext,
    config: Batches,
    intake: dg.ResourceParam[Intake],
    tables: dg.ResourceParam[Tables],
) -> Iterator[dg.MaterializeResult[None]]:
    """Seal each decided validation under its data subject's key."""
    with scrubbed():
        yield from seal_batches(intake, tables, CONTRACT, config.batches, context.partition_key)


@dg.multi_asset(
    name="masked_validations",
    specs=[
        contract_table(MASKED, CONTRACT, ["raw.validations"])
        .merge_attributes(metadata={"dagster/column_lineage": masked_lineage(CONTRACT, MASKED)})
        .replace_attributes(freshness_policy=FRESH)
    ],
    check_specs=check_specs(CONTRACT),
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def masked_validations(
    context: dg.AssetExecutionContext,
    config: Batches,
    intake: dg.ResourceParam[Intake],
    tables: dg.ResourceParam[Tables],
    ledger: dg.ResourceParam[Ledger],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Replace personal values by tokens and coarse forms; check that none is readable and none lost."""
    hour = context.partition_key
    with scrubbed():
        made = mask_batches(intake, tables, CONTRACT, config.batches, context.run.run_id, hour)
        rows = masked_rows(tables, ledger, CONTRACT, config.batches, hour)
        readable = check_readable(intake, CONTRACT, rows)
        described = masked_result(tables, CONTRACT, made, rows)
        yield dg.MaterializeResult(asset_key=["masked", SOURCE], metadata=described)
        yield readable
        yield check_nothing_lost(CONTRACT, counts_in(ledger, config.batches, made), rows.height)
