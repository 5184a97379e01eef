"""`reveal` and `token`: from tokens to values and back. Both are audited before they happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, show_json
from transforms.access import PURPOSES


def purpose_option(default: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Give the option that says what values are opened for."""
    told = "What for; kept in the audit trail."
    return click.option("--purpose", type=click.Choice(PURPOSES), default=default, show_default=True, help=told)


@click.command("reveal", short_help="Open tokens: break glass, with a reason.")
@click.option("--table", help="The table, such as masked.logins.")
@click.option("--column", help="Its token column, such as ip_token.")
@click.option("--where", default="", help="Which rows, as an SQL condition.")
@click.option(
    "--token", "tokens", multiple=True, help="A token from elsewhere, instead of --table; repeatable."
)
@click.option("--domain", help="The join domain of --token, such as ip.")
@click.option("--reason", required=True, help="Why; kept in the audit trail.")
@purpose_option("incident")
@tenant_option
@json_option
@click.pass_obj
def reveal_command(
    home: Path | None,
    table: str | None,
    column: str | None,
    where: str,
    tokens: tuple[str, ...],
    domain: str | None,
    reason: str,
    purpose: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Open tokens: break glass, with a reason.

    Where the tenant's policy asks for a second person, the first attempt asks, and the same command works
    once somebody else has granted it (`lockhouse approval`).

    \b
    Examples:
      lockhouse reveal --table masked.logins --column ip_token --where "event_id = '…'" --reason "ticket 17"
      lockhouse reveal --token AfQ… --domain ip --reason "ticket 17"
    """
    from lockhouse.reveal_operations import reveal, reveal_tokens

    caller = caller_of(home, tenant)
    if tokens and domain and not table:
        values = reveal_tokens(caller, domain, tokens, reason, purpose)
    elif table and column and not tokens:
        values = reveal(caller, table, column, where, reason, purpose)
    else:
        raise click.UsageError("give --table with --column, or --token with --domain")
    if as_json:
        show_json({"values": values})
    else:
        for value in values:
            click.echo("" if value is None else value)
        note(f"{len(values)} value(s) in clear; the reveal is in the audit trail")


@click.command("token", short_help="Make the token of a value.")
@click.argument("value")
@click.option("--domain", required=True, help="The join domain, such as ip, user or device.")
@tenant_option
@json_option
@click.pass_obj
def token_command(home: Path | None, value: str, domain: str, tenant: str, as_json: bool) -> None:
    """Make the token of a value, to look for it in masked tables. Needs the right to reveal.

    \b
    Example:
      lockhouse sql "select * from masked.logins where ip_token = '$(lockhouse token 1.2.3.4 --domain ip)'"
    """
    from lockhouse.operations import token

    made = token(caller_of(home, tenant), value, domain)
    show_json({"token": made}) if as_json else click.echo(made)
