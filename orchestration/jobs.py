"""Jobs: what the sensor and the command line start."""

from __future__ import annotations

import dagster as dg

INGEST_LOGINS = dg.define_asset_job(
    "ingest_logins",
    selection=dg.AssetSelection.groups("logins").materializable(),
    description="Landed batches of login events: sealed, masked, and into the marts.",
)

INGEST = {"logins": INGEST_LOGINS}

# The steps of a job that take the batches, by the name of their op.
STEPS = {"logins": ("sealed_logins", "masked_logins", "curated_marts")}


def batches_config(source: str, batches: list[str]) -> dict[str, object]:
    """Give the run configuration that hands batches to a source's job."""
    return {"ops": {step: {"config": {"batches": batches}} for step in STEPS[source]}}
