"""`tenant`: who shares a home without sharing anything in it; adding them, and their end."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lockhouse.main import caller_of, json_option
from lockhouse.output import note, program, show_json, show_table, working


@click.group("tenant", short_help="Add, list and off-board tenants.")
def tenant_command() -> None:
    """Tenants: each has keys, tables and an audit trail of its own."""


@tenant_command.command("add")
@click.argument("name")
@json_option
@click.pass_obj
def tenant_add(home: Path | None, name: str, as_json: bool) -> None:
    """Register a tenant and make its keys."""
    from lockhouse.tenant_operations import add_tenant

    created = add_tenant(caller_of(home, "default"), name)
    if as_json:
        show_json({"tenant": name, "created": created})
    else:
        note(f"{'Added' if created else 'Found'} the tenant {name}")
        note(f"Next: {program()} ingest logins FILE --tenant {name}")


@tenant_command.command("list")
@json_option
@click.pass_obj
def tenant_list(home: Path | None, as_json: bool) -> None:
    """List the tenants, those that were off-boarded as well."""
    from lockhouse.tenant_operations import list_tenants

    found = list_tenants(caller_of(home, "default"))
    if as_json:
        live = [one["tenant"] for one in found if not one["ended_at"]]
        show_json(
            {"tenants": live, "ended": {one["tenant"]: one["ended_at"] for one in found if one["ended_at"]}}
        )
    else:
        show_table(["tenant", "off-boarded"], [[one["tenant"], one["ended_at"]] for one in found])


@tenant_command.command("revoke")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--yes", is_flag=True, help="Do not ask again.")
@click.option("--reason", default="off-boarding", show_default=True, help="Kept in the audit trail.")
@json_option
@click.pass_obj
def tenant_revoke(home: Path | None, name: str, dry_run: bool, yes: bool, reason: str, as_json: bool) -> None:
    """Off-board a tenant for good, and prove it with a signed certificate. There is no way back.

    Its root keys are destroyed first, so that no copy of its files can be read any more; then tables,
    deliveries, served rows, programs and grants go. Its audit trail and certificates stay, and its name
    is not given again. One that was interrupted is completed by the same command.

    \b
    Examples:
      lockhouse tenant revoke acme --dry-run
      lockhouse tenant revoke acme --yes
      lockhouse subject verify .lockhouse/certificates/acme/offboarding-acme.json
    """
    from lockhouse.runs import forget_exports
    from lockhouse.tenant_operations import offboard_tenant, preview_offboarding

    caller = caller_of(home, name)
    if dry_run:
        tables = preview_offboarding(caller)
        show_json({"tenant": name, "tables": tables}) if as_json else _show_preview(tables)
        return
    _confirm(yes, name)
    with working("Off-boarding", not as_json):
        result = offboard_tenant(caller, reason)
        forget_exports(caller.platform)
    if as_json:
        show_json(result)
        return
    show_table(["table", "rows that went"], list(result["tables"].items()), right=["rows that went"])
    note(f"The tenant {name} is gone: its roots and {result['subject_keys']} subject keys are destroyed")
    note(f"Next: {program()} subject verify {result['certificate']}")


def _confirm(yes: bool, name: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("an off-boarding cannot be undone: give --yes, or look first with --dry-run")
    if click.prompt(f"Destroy everything of the tenant {name}? Type its name", err=True) != name:
        raise click.Abort


def _show_preview(tables: list[dict[str, object]]) -> None:
    rows = [[one["table"], one["rows"], one["files"], one["bytes"]] for one in tables]
    show_table(["table", "rows", "files", "bytes"], rows, right=["rows", "files", "bytes"])
    note("Nothing was changed")
