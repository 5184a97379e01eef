"""Jobs: what the sensor and the command line start."""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from assets.batches import scrubbed
from stores.access import Access
from stores.access_packages import AccessPackages
from stores.capture_upkeep import CaptureUpkeep
from stores.contracts import load_contract, load_contracts
from stores.dbt_lineage import load_lineage
from stores.erasing import Erasing
from stores.maintenance import Maintenance, Upkeep
from stores.rotation import Rotation
from stores.specs import every_table
from stores.uploads import Uploads
from stores.validations.analytics import SOURCE
from stores.validations.lake_removal import LakeRemoval
from stores.validations.request_upkeep import RequestUpkeep

INGEST_LOGINS = dg.define_asset_job(
    "ingest_logins",
    selection=dg.AssetSelection.groups("logins").materializable(),
    description="Landed batches of login events: sealed, masked, and into the marts.",
)

# Never `captures/pcap`: an export is asked for by somebody (decision 8).
_CAPTURES = dg.AssetSelection.groups("captures") - dg.AssetSelection.key_prefixes("captures")

INGEST_CAPTURES = dg.define_asset_job(
    "ingest_captures",
    selection=(
        dg.AssetSelection.groups("captures") - dg.AssetSelection.key_prefixes("captures")
    ).materializable(),
    description="Landed batches of captures: sealed in blocks, masked, and into the marts.",
)

EXPORT_CAPTURE = dg.define_asset_job(
    "export_capture",
    selection=dg.AssetSelection.assets(["captures", "pcap"]),
    description="The sealed capture file of a device and hour, for a granted request.",
)

INGEST_VALIDATIONS = dg.define_asset_job(
    "ingest_validations",
    selection=dg.AssetSelection.groups("validations").materializable(),
    description="Decided validations: sealed, masked, and into the marts.",
)

INGEST = {"logins": INGEST_LOGINS, "captures": INGEST_CAPTURES, "validations": INGEST_VALIDATIONS}

# The steps of a job that take the batches, by the name of their op.
STEPS = {
    "logins": ("sealed_logins", "masked_logins", "served_user_logins", "curated_marts"),
    "captures": ("sealed_captures", "masked_packets", "curated_captures"),
    "validations": ("sealed_validations", "masked_validations", "curated_validations"),
}


def batches_config(source: str, batches: list[str]) -> dict[str, object]:
    """Give the run configuration that hands batches to a source's job."""
    return {"ops": {step: {"config": {"batches": batches}} for step in STEPS[source]}}


@dg.op(description="Orders what is closed, deletes what is past its retention, removes debris.")
def keep_up(
    context: dg.OpExecutionContext,
    maintenance: dg.ResourceParam[Maintenance],
    capture_upkeep: dg.ResourceParam[CaptureUpkeep],
    access: dg.ResourceParam[Access],
    erasing: dg.ResourceParam[Callable[[str], Erasing]],
    uploads: dg.ResourceParam[Callable[[str], Uploads]],
    access_packages: dg.ResourceParam[Callable[[str], AccessPackages]],
    validation_upkeep: dg.ResourceParam[RequestUpkeep],
) -> None:
    """Complete the erasures that were left open, then do the upkeep of every source."""
    with scrubbed():
        expired = validation_upkeep.keep_up(access.tenants(), datetime.now(UTC))
        context.log.info("validations: %d requests past their retention are deleted", expired)
        for tenant in access.tenants():
            # Parts of an upload are readable: nobody may forget them there.
            uploads(tenant).sweep()
            access_packages(tenant).expire()
            done = erasing(tenant).resume()
            context.log.info("%s: %d erasures completed", tenant, len(done))
        today = datetime.now(UTC).date()
        for contract in load_contracts().values():
            _log_upkeep(context, maintenance.keep_up(contract, today))
        _log_upkeep(context, capture_upkeep.keep_up())


def _log_upkeep(context: dg.OpExecutionContext, tables: list[Upkeep]) -> None:
    for done in tables:
        context.log.info(
            "%s: %d partitions ordered, %s expired, %d files removed",
            done.table,
            done.partitions_ordered,
            "some rows" if done.rows_expired else "nothing",
            done.files_removed,
        )


@dg.op(description="Takes deleted validations out of the lake.")
def forget_deleted(context: dg.OpExecutionContext, lake_removal: dg.ResourceParam[LakeRemoval]) -> None:
    """Forget what analytics asked for, where nothing of the tenant is on its way."""
    with scrubbed():
        rows = lake_removal.forget_waiting(load_contract(SOURCE))
        context.log.info("validations: %d masked rows of deleted validations went", rows)


@dg.job(description="Deleted validations leave raw, masked and the marts.")
def forget_validations() -> None:
    """Run the removal."""
    forget_deleted()


@dg.job(description="The lake's nightly upkeep.")
def upkeep() -> None:
    """Run the upkeep."""
    keep_up()


def _tables_with_tokens() -> list[str]:
    masked = [spec.key for spec in every_table() if spec.zone == "masked"]
    marts = load_lineage().items()
    return [*masked, *(f"curated.{name}" for name, columns in marts if any(map(_is_token, columns)))]


def _is_token(column: str) -> bool:
    return column.endswith("_token")


RENEWED = dg.StaticPartitionsDefinition(_tables_with_tokens())


@dg.op(description="Makes the tokens of a table anew where a rotation of keys is on its way.")
def renew_table(
    context: dg.OpExecutionContext,
    access: dg.ResourceParam[Access],
    rotation: dg.ResourceParam[Callable[[str], Rotation]],
) -> None:
    """Renew a table of every tenant whose rotation is on its way; what is renewed already stays."""
    with scrubbed():
        for tenant in access.tenants():
            epochs = rotation(tenant)
            if epochs.is_running() and context.partition_key in epochs.table_keys():
                epochs.map_tokens(context.partition_key)
                done = epochs.renew_table(context.partition_key)
                context.log.info("%s of %s: %d files, %d rows", done.table, tenant, done.files, done.rows)


@dg.job(
    partitions_def=RENEWED,
    description="Goes on with a rotation of token keys, a table at a time; `lockhouse keys rotate` ends it.",
)
def renew_tokens() -> None:
    """Run a table's renewal."""
    renew_table()


NIGHTLY = dg.ScheduleDefinition(
    name="nightly_upkeep",
    job=upkeep,
    cron_schedule="30 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a night: closed days ordered, retention kept, debris removed.",
)
