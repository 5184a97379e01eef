"""`subject`: what a person may ask for: everything about them, and that it is gone for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lockhouse.main import FAILED, caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table, stopwatch, working

id_option = click.option("--id", "ids", multiple=True, required=True, help="An identifier; repeatable.")
domain_option = click.option("--domain", help="What the identifier is of, where it could be several.")


@click.group("subject", short_help="Requests of data subjects: access, erasure, proof.")
def subject_command() -> None:
    """Answer data subjects (GDPR, articles 15 and 17): access, erasure, and the proof of it."""


@subject_command.command("access")
@click.option("--id", "value", required=True, help="A person's id, or that of a device of nobody.")
@domain_option
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="A new folder for the answer.",
)
@click.option("--reason", default="access request", show_default=True, help="Kept in the audit trail.")
@tenant_option
@json_option
@click.pass_obj
def subject_access(
    home: Path | None, value: str, domain: str | None, folder: Path, reason: str, tenant: str, as_json: bool
) -> None:
    """Write everything about a data subject into a folder, in clear: JSON, a page to read, capture files.

    \b
    Example:
      lockhouse subject access --id 5082b1ae-6523-4e3b-a1d8-9750b4407ee8 -o answer/
    """
    from lockhouse.privacy_operations import answer_access

    with working("Gathering", not as_json):
        result = answer_access(caller_of(home, tenant), value, domain, reason, folder)
    if as_json:
        show_json(result)
    else:
        show_table(["source", "entries"], list(result["sources"].items()), right=["entries"])
        note(f"Open {folder / 'subject.html'}; it is readable: the files in {folder} are yours to guard")


@subject_command.command("erase")
@id_option
@domain_option
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--yes", is_flag=True, help="Do not ask again.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the certificate.")
@click.option("--reason", default="erasure request", show_default=True, help="Kept in the audit trail.")
@tenant_option
@json_option
@click.pass_obj
def subject_erase(
    home: Path | None,
    ids: tuple[str, ...],
    domain: str | None,
    dry_run: bool,
    yes: bool,
    wait: bool,
    reason: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Erase data subjects for good, and prove it with a signed certificate. There is no way back.

    Their keys are destroyed first, then rows, copies and old versions go. Late data of theirs are refused.
    A request that was interrupted is completed by the next erase or status.

    \b
    Examples:
      lockhouse subject erase --id 5082b1ae-6523-4e3b-a1d8-9750b4407ee8 --dry-run
      lockhouse subject erase --id 5082b1ae-6523-4e3b-a1d8-9750b4407ee8 --yes
    """
    from lockhouse.privacy_operations import preview_erasure, request_erasure
    from lockhouse.runs import forget_exports

    caller = caller_of(home, tenant)
    if dry_run:
        result = preview_erasure(caller, ids, domain)
        show_json(result) if as_json else _show_preview(result)
        return
    _confirm(yes, len(ids))
    with stopwatch() as watch, working("Erasing", not as_json):
        result = request_erasure(caller, ids, domain, reason, wait=wait)
        forget_exports(caller.platform)
    if as_json:
        show_json({**result, "seconds": watch["seconds"]})
    else:
        _show_requests([result])
        note(f"Next: {program()} subject verify {result['certificate'] or '…'}")


@subject_command.command("status")
@click.option("--id", "ids", multiple=True, help="Only requests about this identifier; repeatable.")
@domain_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Complete what was left open first.")
@tenant_option
@json_option
@click.pass_obj
def subject_status(
    home: Path | None, ids: tuple[str, ...], domain: str | None, wait: bool, tenant: str, as_json: bool
) -> None:
    """Show erasure requests with states and deadlines; what was left open is completed first."""
    from lockhouse.privacy_operations import list_erasures
    from lockhouse.runs import forget_exports

    caller = caller_of(home, tenant)
    with working("Completing open requests", wait and not as_json):
        requests = list_erasures(caller, ids, domain, resume=wait)
        forget_exports(caller.platform)
    show_json({"requests": requests}) if as_json else _show_requests(requests)


@subject_command.command("verify")
@click.argument("certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--public-key", help="The home's public key in hexadecimal; by default the one kept in the home.")
@json_option
@click.pass_obj
def subject_verify(home: Path | None, certificate: Path, public_key: str | None, as_json: bool) -> int:
    """Hold a certificate against a home, or a copy of one: no key and no network are needed.

    Every file that it names must be as it was or have left its table; none may hold a pseudonym of the
    subject; the audit trail must be whole and know the certificate. Exit code 1 where something fails.

    \b
    Example:
      lockhouse --home copy/ subject verify certificate.json --public-key 3f…
    """
    from stores.database import Database
    from stores.database_connections import read_database_address
    from stores.home import Home
    from stores.settings import load_settings
    from stores.verification import verify_certificate

    settings = load_settings(home)
    address = read_database_address(settings)
    with working("Verifying", not as_json):
        database = Database(address) if address else None
        verdict = verify_certificate(Home(settings.home), certificate, public_key, database)
    if as_json:
        show_json(verdict.as_record())
    else:
        for problem in verdict.problems:
            note(f"!! {problem}")
        note(f"{verdict.files} files looked at: the certificate {'holds' if verdict.ok else 'does NOT hold'}")
    return 0 if verdict.ok else FAILED


def _confirm(yes: bool, count: int) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("an erasure cannot be undone: give --yes, or look first with --dry-run")
    click.confirm(f"Erase {count} data subject(s) for good?", abort=True, err=True)


def _show_preview(result: dict[str, Any]) -> None:
    rows = [[one["table"], one["rows"], one["files"], one["bytes"], one["way"]] for one in result["tables"]]
    right = ["rows", "files", "bytes"]
    show_table(["table or copy", "rows", "files", "bytes", "found"], rows, right=right)
    note("Nothing was changed")


def _show_requests(requests: list[dict[str, Any]]) -> None:
    columns = ["request", "state", "deadline", "rows", "certificate"]
    rows = [
        [one["request"], one["state"], one["deadline"], sum(one["tables"].values()), one["certificate"]]
        for one in requests
    ]
    show_table(columns, rows, right=["rows"])
