"""`validation`: identity validations by hand: submit one, see what became of it, change it, delete it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table
from lockhouse.reveal import purpose_option

_key_option = click.option("--key", help="An idempotency key: the same again is the same request.")


@click.group("validation", short_help="Identity validations: submit, status, data, change, deletion.")
def validation_command() -> None:
    """Validate people's identities: requests are sealed as they come, then decided, and can be forgotten."""


@validation_command.command("submit")
@click.argument("file", type=click.File("rb"), default="-")
@_key_option
@tenant_option
@json_option
@click.pass_obj
def validation_submit(home: Path | None, file: BinaryIO, key: str | None, tenant: str, as_json: bool) -> None:
    """Submit a request: a JSON object in FILE, or on standard input. Personal data are never arguments.

    \b
    Examples:
      lockhouse validation submit request.json --key order-17
      lockhouse validation submit < request.json
    """
    from lockhouse.setup import prepare_home
    from lockhouse.validation_operations import submit_validation

    prepare_home(home)
    result = submit_validation(caller_of(home, tenant), file.read(), key)
    _show(result, as_json)
    if not as_json:
        note(f"Next: {program()} worker --until-idle 1, unless {program()} up runs")
        note(f"Then: {program()} validation status {result['validation']}")


@validation_command.command("status")
@click.argument("validation")
@tenant_option
@json_option
@click.pass_obj
def validation_status(home: Path | None, validation: str, tenant: str, as_json: bool) -> None:
    """Say how far a validation is, what was decided, and the codes of the reasons.

    \b
    Example:
      lockhouse validation status 01a1fec0-df13-775c-9309-0840fda3ec81
    """
    from lockhouse.validation_operations import read_status

    _show(read_status(caller_of(home, tenant), validation), as_json)


@validation_command.command("pii")
@click.argument("validation")
@click.option("--reason", default="", help="Why; kept in the audit trail.")
@purpose_option("subject-request")
@tenant_option
@json_option
@click.pass_obj
def validation_pii(
    home: Path | None, validation: str, reason: str, purpose: str, tenant: str, as_json: bool
) -> None:
    """Show the personal data of a validation, in clear. It is in the audit trail before it is opened.

    \b
    Example:
      lockhouse validation pii 01a1fec0-df13-775c-9309-0840fda3ec81 --reason "ticket 17"
    """
    from lockhouse.validation_operations import disclose_validation

    result = disclose_validation(caller_of(home, tenant), validation, reason, purpose)
    if as_json:
        show_json(result)
    else:
        show_table(["field", "value"], list(result["record"].items()))


@validation_command.command("update")
@click.argument("validation")
@click.argument("file", type=click.File("rb"), default="-")
@_key_option
@tenant_option
@json_option
@click.pass_obj
def validation_update(
    home: Path | None, validation: str, file: BinaryIO, key: str | None, tenant: str, as_json: bool
) -> None:
    """Change some fields: a JSON object of those alone, null to take one away. It is decided again.

    \b
    Example:
      echo '{"phone_number": "+12025550123"}' | lockhouse validation update 01a1fec0-df13-775c-9309-0840fda3ec81
    """
    from lockhouse.validation_operations import update_validation

    _show(update_validation(caller_of(home, tenant), validation, file.read(), key), as_json)


@validation_command.command("delete")
@click.argument("validation")
@click.option("--yes", is_flag=True, help="Do not ask again.")
@tenant_option
@json_option
@click.pass_obj
def validation_delete(home: Path | None, validation: str, yes: bool, tenant: str, as_json: bool) -> None:
    """Delete a validation for good: what remains is its id and when. A person is erased by `subject erase`."""
    from lockhouse.validation_operations import delete_validation

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("a deletion cannot be undone: give --yes")
        click.confirm("Delete the validation for good?", abort=True, err=True)
    _show(delete_validation(caller_of(home, tenant), validation), as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(result)
        return
    rows = [[name, ", ".join(one) if isinstance(one, list) else one] for name, one in result.items()]
    show_table(["validation", ""], rows)
