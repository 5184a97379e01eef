"""`ingest`: take files now, through the same assets as the sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lockhouse.main import QUARANTINED, json_option, tenant_option
from lockhouse.output import note, program, show_json, stopwatch, working

if TYPE_CHECKING:
    from orchestration.resources import Platform
    from stores.landing import Batch
    from stores.ledger import Counts


@click.command("ingest", short_help="Take files into the lake now.")
@click.argument("source")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--staged", is_flag=True, help="Take what lies in landing, such as segments of a queue.")
@click.option("--device", help="Whose captures they are; without it they are split by address.")
@tenant_option
@json_option
@click.pass_obj
def ingest_command(
    home: Path | None,
    source: str,
    paths: tuple[Path, ...],
    staged: bool,
    device: str | None,
    tenant: str,
    as_json: bool,
) -> int:
    """Take files of SOURCE into the lake. The originals are copied and stay; the copies are sealed and gone.

    SOURCE is captures, or the name of a contract, such as logins; PATHS are files, or folders of files. A
    file that was taken before changes nothing. Of validations, the files hold requests: they are submitted
    one by one. Exit code 4: done, but something is in quarantine.

    \b
    Examples:
      lockhouse ingest logins events.json.gz
      lockhouse ingest logins exports/ --tenant acme --json
      lockhouse ingest logins --staged
      lockhouse ingest captures router.pcapng.gz --device router-7
      lockhouse ingest validations requests.ndjson
    """
    if staged == bool(paths):
        raise click.UsageError("give PATHS, or --staged")
    with stopwatch() as watch, working(f"Taking {source} of {tenant}", not as_json):
        result = ingest_files(home, source, paths, tenant, device)
    if as_json:
        show_json({**result, "seconds": watch["seconds"]})
    else:
        _tell(result, source, device, tenant, watch["seconds"])
    return QUARANTINED if result["quarantined"] else 0


def ingest_files(
    home: Path | None, source: str, paths: Sequence[Path], tenant: str, device: str | None = None
) -> dict[str, Any]:
    """Land files, run the source's job on them and on whatever an interrupted run left behind.

    Without paths, what was dropped in landing for the tenant is claimed, as the sensor would.
    """
    from lockhouse.runs import materialise
    from lockhouse.setup import prepare_home
    from stores.devices import checked_device
    from stores.landing import OF_DEVICES, SHARED
    from stores.settings import local_user
    from stores.specs import quarantine_spec
    from transforms.access import Right

    quarantine_spec(source)
    if source == "validations":
        if device is not None:
            raise click.UsageError("requests for validation are of no device: leave --device out")
        return _ingest_requests(home, list(_files(paths)), tenant)
    if device is not None and source not in OF_DEVICES:
        raise click.UsageError(f"{source} are of no device: leave --device out")
    owner = checked_device(device) if device else SHARED
    platform, _ = prepare_home(home)
    platform.access.authorise(local_user(), Right.INGEST, tenant)
    platform.add_tenant(tenant, local_user())
    platform.landing.recover()
    left = platform.landing.open_batches(source)
    if paths:
        batches = platform.landing.copy_in(
            source, tenant, list(_files(paths)), owner if source in OF_DEVICES else None
        )
    else:
        batches = _claim_staged(platform, source, tenant)
    report = materialise(platform, source, [*left, *batches])
    counts = platform.ledger.counts([batch.id for batch in batches])
    return {**_summary(platform, tenant, batches, counts), "checks": report.checks, "resumed": len(left)}


def _ingest_requests(home: Path | None, paths: Sequence[Path], tenant: str) -> dict[str, Any]:
    """Submit requests, let the services decide, and take what they hand over, as it would go by itself.

    Where a worker runs already, it decides, and what it hands over is taken by `up`, or the next time.
    """
    from lockhouse.main import caller_of
    from lockhouse.runs import materialise
    from lockhouse.setup import prepare_home
    from lockhouse.validation_operations import ingest_requests, work_through
    from stores.contracts import load_contract
    from stores.settings import local_user
    from transforms.access import Right

    platform, _ = prepare_home(home)
    platform.access.authorise(local_user(), Right.SUBMIT_VALIDATIONS, tenant)
    platform.add_tenant(tenant, local_user())
    counts = ingest_requests(caller_of(home, tenant), paths)
    work_through(platform, note)
    batches = platform.landing.open_batches("validations")
    report = materialise(platform, "validations", batches)
    platform.lake_removal.forget_waiting(load_contract("validations"))
    tables = {info.key: info.rows for info in platform.tables.listing(tenant)}
    return {
        "files": len(paths),
        **asdict(counts),
        "decided": platform.ledger.counts([one.id for one in batches]).rows,
        "tables": tables,
        "checks": report.checks,
        "resumed": 0,
    }


def _claim_staged(platform: Platform, source: str, tenant: str) -> list[Batch]:
    """Claim dropped files whose size holds for a second: somebody may be writing one."""
    settled = platform.landing.settled([source], 1)
    return platform.landing.claim(source, tenant, settled.get((source, tenant), []))


def _files(paths: Sequence[Path]) -> list[Path]:
    """Give the files; of a folder all in it, hidden ones left out."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
        found += inside if path.is_dir() else [path]
    return found


def _summary(platform: Platform, tenant: str, batches: Sequence[Batch], counts: Counts) -> dict[str, Any]:
    return {
        "files": sum(len(batch.names) for batch in batches),
        "rows": counts.rows,
        "accepted": counts.accepted,
        "quarantined": counts.quarantined,
        "duplicates": counts.duplicates,
        "refused": counts.refused,
        "unknown": counts.unknown,
        "tables": {info.key: info.rows for info in platform.tables.listing(tenant)},
    }


def _tell(result: dict[str, Any], source: str, device: str | None, tenant: str, seconds: float) -> None:
    what = "packets" if source == "captures" else "records"
    note(
        f"{result['files']} file(s), {result['rows']:,} {what} in {seconds} s: "
        f"{result['accepted']:,} accepted, "
        f"{result['quarantined']:,} quarantined, {result['duplicates']:,} duplicates"
    )
    if result.get("decided"):
        note(f"{result['decided']:,} decisions are in the lake now")
    if result["resumed"]:
        note(f"{result['resumed']} batch(es) of an interrupted run were completed first")
    if result["unknown"]:
        note(f"{result['unknown']:,} records brought undeclared fields; they are sealed with the record")
    where = "" if tenant == "default" else f" --tenant {tenant}"
    if result["accepted"] and not result["tables"].get("curated.daily_logins", 1):
        note("curated.daily_logins is empty: no group has enough people to be shown (setting k_threshold)")
    if result["quarantined"]:
        note(f"Why: {program()} quarantine list{where}")
    note(f"Next: {program()} {_next_step(source, device)}{where}")


def _next_step(source: str, device: str | None) -> str:
    """Give a command to go on with."""
    if source != "captures":
        return f'sql "select * from masked.{source} limit 5"'  # noqa: S608 - a hint
    if device is None:
        return "device list"
    return 'sql "select * from curated.device_hours order by event_hour"'
