"""Login events: from landing to raw, quarantine and masked. The marts are in `curated.py`."""

from collections.abc import Callable, Iterator

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
from stores.contracts import load_contract
from stores.flow import Flow
from stores.intake import Intake
from stores.ledger import Ledger
from stores.tables import Tables
from transforms.tables import masked_table, quarantine_table, raw_table

CONTRACT = load_contract("logins")
MASKED = masked_table(CONTRACT)

landing_logins = dg.AssetSpec(
    ["landing", "logins"],
    description="Files of login events as they arrive: JSON lines, arrays or queue messages.",
    group_name="logins",
    kinds={"file", "json"},
    owners=[f"team:{CONTRACT.owner}"],
    tags={"layer": "landing", "pii": "readable"},
)


@dg.multi_asset(
    name="sealed_logins",
    specs=[
        contract_table(raw_table(CONTRACT), CONTRACT, ["landing.logins"]),
        contract_table(quarantine_table(CONTRACT), CONTRACT, ["landing.logins"]),
    ],
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def sealed_logins(
    context: dg.AssetExecutionContext,
    config: Batches,
    intake: dg.ResourceParam[Intake],
    tables: dg.ResourceParam[Tables],
) -> Iterator[dg.MaterializeResult[None]]:
    """Seal each record under its data subject's key; keep what is not accepted, with the reason."""
    with scrubbed():
        yield from seal_batches(intake, tables, CONTRACT, config.batches, context.partition_key)


@dg.multi_asset(
    name="masked_logins",
    specs=[
        contract_table(MASKED, CONTRACT, ["raw.logins"])
        .merge_attributes(metadata={"dagster/column_lineage": masked_lineage(CONTRACT, MASKED)})
        .replace_attributes(freshness_policy=FRESH)
    ],
    check_specs=check_specs(CONTRACT),
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def masked_logins(
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
        made = mask_batches(intake, tables, CONTRACT, config.batches, context.run.run_id, hour)
        rows = masked_rows(tables, ledger, CONTRACT, config.batches, hour)
        readable = check_readable(intake, CONTRACT, rows)
        yield dg.MaterializeResult(
            asset_key=["masked", "logins"],
            metadata=masked_result(tables, CONTRACT, made, rows) | flow_result(flow, ledger, config.batches),
        )
        yield readable
        yield check_nothing_lost(CONTRACT, counts_in(ledger, config.batches, made), rows.height)
