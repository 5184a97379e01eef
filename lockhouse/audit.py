"""`audit`: the trail of who did what, and the proof that it is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lockhouse.main import FAILED, caller_of, json_option, tenant_option
from lockhouse.output import note, show_json, show_table


@click.group("audit", short_help="Who did what, and the proof that it is whole.")
def audit_command() -> None:
    """Read and verify the audit trail: one hash chain a tenant, its heads signed."""


@audit_command.command("list")
@click.option("--limit", default=50, show_default=True, help="How many of the latest entries.")
@tenant_option
@json_option
@click.pass_obj
def audit_list(home: Path | None, limit: int, tenant: str, as_json: bool) -> None:
    """List the latest entries, oldest first."""
    from lockhouse.operations import read_audit

    entries = read_audit(caller_of(home, tenant), limit)
    if as_json:
        show_json({"entries": [asdict(entry) for entry in entries]})
        return
    rows = [[one.seq, one.at[:19], one.principal, one.action, one.outcome, one.parameters] for one in entries]
    show_table(["entry", "at (UTC)", "who", "action", "outcome", "parameters"], rows, right=["entry"])


@audit_command.command("export")
@click.option(
    "--format", "form", type=click.Choice(["ocsf", "delta"]), default="ocsf", show_default=True, help="As what."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The file, or the table's folder."
)
@tenant_option
@json_option
@click.pass_obj
def audit_export(home: Path | None, form: str, output: Path, tenant: str, as_json: bool) -> None:
    """Write the whole trail as OCSF API Activity in JSON lines, or as a Delta table.

    \b
    Examples:
      lockhouse audit export -o trail.jsonl
      lockhouse audit export --format delta -o trail
    """
    from lockhouse.operations import export_audit

    rows = export_audit(caller_of(home, tenant), form, output)
    if as_json:
        show_json({"tenant": tenant, "format": form, "rows": rows, "output": str(output.absolute())})
    else:
        note(f"Wrote {rows:,} entries of {tenant} to {output}")


@audit_command.command("verify")
@tenant_option
@json_option
@click.pass_obj
def audit_verify(home: Path | None, tenant: str, as_json: bool) -> int:
    """Verify every entry and every signed head; exit code 1 where something does not hold."""
    from lockhouse.operations import verify_audit

    verdict = verify_audit(caller_of(home, tenant))
    if as_json:
        show_json({"tenant": tenant, **asdict(verdict)})
    elif verdict.ok:
        note(f"The trail of {tenant} is whole: {verdict.rows} entries, {verdict.checkpoints} signed heads")
    else:
        note(f"The trail of {tenant} does NOT hold from entry {verdict.first_bad}: {verdict.problem}")
    return 0 if verdict.ok else FAILED
