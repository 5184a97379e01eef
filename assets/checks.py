"""Checks of masked tables: nothing readable, nothing lost. Both block what comes after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg
import polars as pl

from stores.canaries import canaries_of
from stores.intake import Intake
from stores.ledger import Counts
from transforms.pii.contracts import Contract
from transforms.pii.guard import Finding, find_readable
from transforms.tables import masked_table

NO_READABLE_PII = "no_readable_pii"
NOTHING_LOST = "nothing_lost"


def check_specs(contract: Contract) -> list[dg.AssetCheckSpec]:
    """Declare the checks of a contract's masked table."""
    asset = dg.AssetKey(["masked", contract.source])
    return [
        dg.AssetCheckSpec(
            NO_READABLE_PII,
            asset=asset,
            blocking=True,
            description="Every token bears a live key; no personal pattern or canary is readable.",
        ),
        dg.AssetCheckSpec(
            NOTHING_LOST,
            asset=asset,
            blocking=True,
            description="Records in = masked + quarantined + duplicates + refused.",
        ),
    ]


def check_readable(intake: Intake, contract: Contract, rows: pl.DataFrame) -> dg.AssetCheckResult:
    """Check masked rows, tenant by tenant, since each has keys and canaries of its own."""
    findings = [
        finding
        for (tenant,), part in rows.group_by("tenant")
        for finding in _findings(intake, contract, str(tenant), part)
    ]
    shown = [f"{finding.column}: {finding.kind}, {finding.rows} rows" for finding in findings]
    return _verdict(contract, NO_READABLE_PII, not findings, {"rows": rows.height, "findings": shown})


def _findings(intake: Intake, contract: Contract, tenant: str, rows: pl.DataFrame) -> Sequence[Finding]:
    keys = intake.sealer(tenant).keys
    live = {
        output.column(declared.name): set(keys.live_token_keys(str(declared.domain)))
        for declared in contract.fields
        for output in declared.outputs
        if output.strategy in ("token", "vault", "hash")
    }
    return find_readable(rows, masked_table(contract), live, canaries_of(keys, contract))


def check_nothing_lost(contract: Contract, counts: Counts, rows: int) -> dg.AssetCheckResult:
    """Check that every record that came in is accounted for, and that the masked rows are there."""
    passed = counts.balances and counts.accepted == rows
    numbers = {
        "records in": counts.rows,
        "accepted": counts.accepted,
        "masked rows": rows,
        "quarantined": counts.quarantined,
        "duplicates": counts.duplicates,
        "refused": counts.refused,
    }
    return _verdict(contract, NOTHING_LOST, passed, numbers)


def _verdict(
    contract: Contract, name: str, passed: bool, numbers: Mapping[str, int | list[str]]
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(["masked", contract.source]),
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            key: dg.MetadataValue.json(value) if isinstance(value, list) else dg.MetadataValue.int(value)
            for key, value in numbers.items()
        },
    )
