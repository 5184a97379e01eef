"""Captures: from landing to files, blocks and packets. The marts are in `curated.py`."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
import polars as pl

from assets.batches import FRESH, ONE_HOUR, RETRY, Batches, listing, rows_of_hour, scrubbed
from assets.catalog import materialisation, table_asset
from assets.partitions import DEVICE_HOURS, HOURS, device_hour_of, hour_start
from stores.captures import CaptureIntake
from stores.kept_exports import KeptExports
from stores.ledger import Counts
from stores.outbox import Outbox
from stores.tables import Commit, Tables
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, OWNER, PACKETS, QUARANTINE, SOURCE
from transforms.charts import bar_chart
from transforms.tables import TableSpec

SEALED = (CAPTURE_FILES, CAPTURE_BLOCKS, QUARANTINE)
PACKETS_BALANCE = "packets_balance"
TOKENS_LIVE = "no_readable_pii"

landing_captures = dg.AssetSpec(
    ["landing", "captures"],
    description="Capture files as they arrive, a folder for each device: pcap or pcapng, plain, gzip or zstd.",
    group_name=SOURCE,
    kinds={"file", "pcap"},
    owners=[f"team:{OWNER}"],
    tags={"layer": "landing", "pii": "readable"},
)


@dg.multi_asset(
    name="sealed_captures",
    specs=[
        table_asset(spec, SOURCE, ["landing.captures"]) for spec in (CAPTURE_FILES, CAPTURE_BLOCKS, QUARANTINE)
    ],
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def sealed_captures(
    context: dg.AssetExecutionContext,
    config: Batches,
    captures: dg.ResourceParam[CaptureIntake],
    tables: dg.ResourceParam[Tables],
) -> Iterator[dg.MaterializeResult[None]]:
    """Seal packets in blocks, under the key of each device's ownership; keep what cannot be read."""
    with scrubbed():
        counts = sum((captures.seal_batch(batch) for batch in config.batches), Counts())
        for spec in SEALED:
            yield _sealed_result(tables, spec, counts, config.batches, context.partition_key)


def _sealed_result(
    tables: Tables, spec: TableSpec, counts: Counts, batches: Sequence[str], hour: str
) -> dg.MaterializeResult[None]:
    rows = _rows_of_batches(tables, spec, batches) if batches else rows_of_hour(tables, spec, hour)
    packets = {
        "in": counts.rows - counts.quarantined,
        "accepted": counts.accepted,
        "duplicates": counts.duplicates,
        "refused": counts.refused,
    }
    metadata = {**materialisation(spec.key, rows, listing(tables)), "packets": dg.MetadataValue.json(packets)}
    return dg.MaterializeResult(asset_key=spec.key.split("."), metadata=metadata)


@dg.multi_asset(
    name="masked_packets",
    specs=[
        table_asset(PACKETS, SOURCE, ["raw.capture_blocks"]).replace_attributes(freshness_policy=FRESH),
    ],
    check_specs=[
        dg.AssetCheckSpec(
            PACKETS_BALANCE,
            asset=dg.AssetKey(["masked", "packets"]),
            blocking=True,
            description="Packets stored by the files = packets in blocks = rows; read = stored or refused.",
        ),
        dg.AssetCheckSpec(
            TOKENS_LIVE,
            asset=dg.AssetKey(["masked", "packets"]),
            blocking=True,
            description="Every address and name is a token of a live key.",
        ),
    ],
    partitions_def=HOURS,
    retry_policy=RETRY,
    backfill_policy=ONE_HOUR,
)
def masked_packets(
    context: dg.AssetExecutionContext,
    config: Batches,
    captures: dg.ResourceParam[CaptureIntake],
    tables: dg.ResourceParam[Tables],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Write a row for each packet: headers, addresses as tokens, no payload; check that none is lost."""
    with scrubbed():
        made = _mask(captures, tables, config.batches, context)
        totals = captures.totals(tables.tenants(), config.batches, hour_start(context.partition_key))
        yield dg.MaterializeResult(
            asset_key=["masked", "packets"],
            metadata=materialisation(PACKETS.key, made, listing(tables), dict(sorted(totals.hours.items()))),
        )
        yield _verdict(PACKETS_BALANCE, totals.balances, totals.numbers())
        yield _verdict(TOKENS_LIVE, not totals.unreadable, {"columns": ", ".join(totals.unreadable)})


class KeptExport(dg.Config):
    """Which tenant asked, and as which request; device and hour are the partition."""

    tenant: str
    request: str


@dg.asset(
    key=["captures", "pcap"],
    deps=[dg.AssetKey(["raw", "capture_blocks"])],
    description="The capture file of a device and hour, sealed, kept for 7 days; made when it is asked for.",
    group_name=SOURCE,
    kinds={"pcap"},
    owners=[f"team:{OWNER}"],
    tags={"layer": "captures", "pii": "sealed"},
    partitions_def=DEVICE_HOURS,
    retry_policy=RETRY,
)
def captures_pcap(
    context: dg.AssetExecutionContext,
    config: KeptExport,
    kept_exports: dg.ResourceParam[Callable[[str], KeptExports]],
    outbox: dg.ResourceParam[Outbox],
) -> dg.MaterializeResult[None]:
    """Export the packets of a device and hour from the blocks, seal the file, describe it."""
    device_ref, hour = device_hour_of(context.partition_key)
    with scrubbed():
        kept = kept_exports(config.tenant).keep(device_ref, hour)
        outbox.close(config.request)
    minutes = {f"{at // 60 % 24:02}:{at % 60:02}": count for at, count in kept.minutes.items()}
    sources = [{name: str(one[name]) for name in ("file_id", "received_at", "status")} for one in kept.files]
    return dg.MaterializeResult(
        metadata={
            "packets": dg.MetadataValue.int(kept.packets),
            "bytes": dg.MetadataValue.int(kept.size_bytes),
            "format": dg.MetadataValue.text(kept.format),
            "digest": dg.MetadataValue.text(kept.digest),
            "packets per minute": dg.MetadataValue.md(bar_chart(minutes, most_bars=60)),
            "sources": dg.MetadataValue.json(sources),
            "expires": dg.MetadataValue.timestamp(kept.expires_at),
        }
    )


def _mask(
    captures: CaptureIntake, tables: Tables, batches: Sequence[str], context: dg.AssetExecutionContext
) -> int:
    """Mask sealed batches, or make an arrival hour anew where none are named; give how many rows."""
    if batches:
        return sum(captures.mask_batch(batch) for batch in batches)
    start = hour_start(context.partition_key)
    run = context.run.run_id
    commit = Commit(f"remask/{run}", int(start.timestamp() * 1000), {"run": run})
    tenants = [tenant for tenant in tables.tenants() if tables.exists(tenant, CAPTURE_BLOCKS.key)]
    return sum(captures.remask(tenant, start, commit) for tenant in tenants)


def _rows_of_batches(tables: Tables, spec: TableSpec, batches: Sequence[str]) -> int:
    rows = 0
    for tenant in tables.tenants():
        if tables.exists(tenant, spec.key):
            with tables.reading(tenant, spec.key) as table:
                wanted = table.filter(pl.col("batch_id").is_in(list(batches)))
                rows += int(wanted.select(pl.len()).collect().item())
    return rows


def _verdict(name: str, passed: bool, metadata: dict[str, int | str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(["masked", "packets"]),
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=metadata,
    )
