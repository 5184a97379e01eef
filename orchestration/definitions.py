"""The code location: everything that Dagster sees, put together."""

from functools import cache

import dagster as dg

import assets
from orchestration import aws
from orchestration.jobs import EXPORT_CAPTURE, INGEST, NIGHTLY, forget_validations, renew_tokens, upkeep
from orchestration.resources import Platform
from orchestration.sensors import (
    capture_requests,
    deleted_validations,
    forget_requests,
    landing_captures,
    landing_logins,
    landing_validations,
    run_failures,
)


@cache
def platform() -> Platform:
    """Give this process's platform; settings are read when a run first needs them."""
    return Platform()


def _store(name: str) -> dg.ResourceDefinition:
    """Make a plain object of the platform available to assets by its name, when a run asks for it."""
    return dg.ResourceDefinition(lambda _context: getattr(platform(), name))


STORES = (
    "intake",
    "captures",
    "kept_exports",
    "publishing",
    "outbox",
    "tables",
    "ledger",
    "flow",
    "landing",
    "marts",
    "audit",
    "access",
    "erasing",
    "maintenance",
    "capture_upkeep",
    "rotation",
    "uploads",
    "access_packages",
    "validation_upkeep",
    "lake_removal",
)

defs = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets, include_specs=True),
    jobs=[*INGEST.values(), EXPORT_CAPTURE, upkeep, renew_tokens, forget_validations],
    schedules=[NIGHTLY],
    sensors=[
        landing_logins,
        landing_captures,
        landing_validations,
        capture_requests,
        forget_requests,
        deleted_validations,
        run_failures,
    ],
    resources={
        **{name: _store(name) for name in STORES},
        "s3": dg.ResourceDefinition(lambda _context: aws.s3(platform().settings)),
        "secrets": dg.ResourceDefinition(lambda _context: aws.secrets(platform().settings)),
    },
    executor=dg.in_process_executor,
)
