"""`served/user_logins`: masked logins in PostgreSQL, published with the batch that brought them."""

from collections.abc import Iterator

import dagster as dg

from assets.batches import ONE_HOUR, RETRY, Batches, scrubbed
from assets.logins import CONTRACT
from assets.partitions import HOURS, hour_start
from stores.ledger import Ledger
from stores.publishing import Comparison, Published, Publishing
from transforms.user_logins import COLUMNS, describe_columns

KEY = dg.AssetKey(["served", "user_logins"])
EQUAL = "equal_to_delta"


def _column_schema() -> dg.TableSchema:
    meanings = describe_columns(CONTRACT)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                one.name,
                one.type,
                description=meanings[one.name],
                constraints=dg.TableColumnConstraints(nullable=one.is_nullable),
            )
            for one in COLUMNS
        ]
    )


@dg.multi_asset(
    name="served_user_logins",
    specs=[
        dg.AssetSpec(
            KEY,
            deps=[dg.AssetKey(["masked", CONTRACT.source])],
            description="Masked logins as rows of PostgreSQL; nothing happens where postgres_url is not set.",
            group_name=CONTRACT.source,
            owners=[f"team:{CONTRACT.owner}"],
            kinds={"postgres"},
            tags={"layer": "served", "pii": "pseudonymous"},
            skippable=True,
            metadata={"dagster/column_schema": _column_schema(), "dagster/table_name": "user_logins"},
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(
            EQUAL, asset=KEY, description="The rows that were published: counts and digests are those of Delta."
        )
    ],
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
    # Before the marts, which take longer and which nobody waits for by the second.
    op_tags={"dagster/priority": "1"},
    # Without an address neither the asset nor its check comes of it; only so is a check not required.
    can_subset=True,
)
def served_user_logins(
    context: dg.AssetExecutionContext,
    config: Batches,
    publishing: dg.ResourceParam[Publishing],
    ledger: dg.ResourceParam[Ledger],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Publish the batches and what runs before left; an hour without batches is made equal to Delta."""
    if not publishing.is_on:
        context.log.info("Nothing is served: postgres_url is not set")
        return
    hour = hour_start(context.partition_key)
    with scrubbed():
        if config.batches:
            done = publishing.publish_batches(config.batches)
            compared = publishing.compare_batches(config.batches)
        else:
            done = Published(publishing.equalise_hour(hour), 0, 0)
            compared = publishing.compare_hour(hour)
        yield dg.MaterializeResult(asset_key=KEY, metadata=_told(done, ledger, config.batches))
        yield _verdict(compared)


def _told(done: Published, ledger: Ledger, batches: list[str]) -> dict[str, dg.MetadataValue]:
    """Describe a publishing: rows, batches that came late, the lag from sent to queryable."""
    told: dict[str, dg.MetadataValue] = {
        "dagster/partition_row_count": dg.MetadataValue.int(done.rows),
        "batches": dg.MetadataValue.int(done.batches),
        "batches left by earlier runs": dg.MetadataValue.int(done.late),
    }
    lag = ledger.lag(batches)
    if lag is not None:
        told["seconds from sent to queryable"] = dg.MetadataValue.float(lag)
    return told


def _verdict(compared: list[Comparison]) -> dg.AssetCheckResult:
    unequal = [one.tenant for one in compared if not one.is_equal]
    return dg.AssetCheckResult(
        asset_key=KEY,
        check_name=EQUAL,
        passed=not unequal,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "rows in Delta": sum(one.lake.rows for one in compared),
            "rows in PostgreSQL": sum(one.served.rows for one in compared),
            "tenants that differ": ", ".join(unequal) or "none",
        },
    )
