"""`user`, `client`, `role`, `grant`: who may come in, and what each may do."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path

import click

from lockhouse.capture import Moment
from lockhouse.main import caller_of, json_option, tenant_option
from lockhouse.output import note, program, show_json, show_table
from transforms.access import RIGHTS, Right, Role
from transforms.errors import UsageError

_ROLE = click.Choice([str(role) for role in Role])


@click.group("user", short_help="People who may sign in.")
def user_command() -> None:
    """People who may sign in at the page; what they may do there, roles and grants say."""


@user_command.command("add")
@click.argument("name")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The file with the password; without it one is made and shown once.",
)
@tenant_option
@json_option
@click.pass_obj
def user_add(home: Path | None, name: str, password_file: Path | None, tenant: str, as_json: bool) -> None:
    """Register a person; once more gives a new password and ends their sessions."""
    from lockhouse.access_operations import add_user
    from stores.keyring import read_passphrase

    given = read_passphrase(password_file).decode() if password_file else None
    password = given or secrets.token_urlsafe(18)
    created = add_user(caller_of(home, tenant), name, password)
    if as_json:
        show_json({"user": name, "created": created, "password": None if given else password})
        return
    note(f"{'Added' if created else 'Changed'} the user {name}")
    if given is None:
        note(f"Password     {password}   (shown once)")
    note(f"Next: {program()} role add {name} investigator")


@user_command.command("list")
@tenant_option
@json_option
@click.pass_obj
def user_list(home: Path | None, tenant: str, as_json: bool) -> None:
    """List the people, with their roles in the tenant."""
    from lockhouse.access_operations import list_users

    users = list_users(caller_of(home, tenant))
    if as_json:
        show_json({"users": users})
        return
    rows = [[one["user"], ", ".join(one["roles"]), one["created_at"], one["disabled_at"]] for one in users]
    show_table(["user", "roles", "since", "revoked"], rows)


@user_command.command("show")
@click.argument("name")
@tenant_option
@json_option
@click.pass_obj
def user_show(home: Path | None, name: str, tenant: str, as_json: bool) -> None:
    """Show a person: roles and grants in the tenant."""
    from lockhouse.access_operations import list_grants, list_users

    caller = caller_of(home, tenant)
    found = [one for one in list_users(caller) if one["user"] == name]
    if not found:
        raise UsageError("no such user", see="lockhouse user list")
    grants = [one for one in list_grants(caller) if one["principal"] == name]
    if as_json:
        show_json({**found[0], "grants": grants})
        return
    note(f"{name}: {', '.join(found[0]['roles']) or 'no role'} in {tenant}")
    _show_grants(grants)


@user_command.command("revoke")
@click.argument("name")
@tenant_option
@json_option
@click.pass_obj
def user_revoke(home: Path | None, name: str, tenant: str, as_json: bool) -> None:
    """Shut a person out now, sessions included."""
    from lockhouse.access_operations import revoke_user

    revoke_user(caller_of(home, tenant), name)
    _say_revoked(as_json, "user", name)


@click.group("client", short_help="Programs that may come in.")
def client_command() -> None:
    """Programs of a tenant: scopes bound what their tokens are good for."""


@client_command.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([str(right) for right in Right]),
    help="What it may ask for; can be given several times.",
)
@tenant_option
@json_option
@click.pass_obj
def client_add(home: Path | None, name: str, scopes: tuple[str, ...], tenant: str, as_json: bool) -> None:
    """Register a program and show its secret, once.

    A scope for captures lets it ask; whose packets it gets, a grant to client:NAME says.

    \b
    Examples:
      lockhouse client add gateway --scope events:write
      lockhouse client add lab --scope captures:read --tenant acme
    """
    from lockhouse.access_operations import add_client

    _, secret = add_client(caller_of(home, tenant), name, frozenset(Right(one) for one in scopes))
    _show_secret(as_json, name, secret)


@client_command.command("rotate")
@click.argument("name")
@tenant_option
@json_option
@click.pass_obj
def client_rotate(home: Path | None, name: str, tenant: str, as_json: bool) -> None:
    """Add a second secret; both count until the next rotation, which drops the older one."""
    from lockhouse.access_operations import rotate_client

    _show_secret(as_json, name, rotate_client(caller_of(home, tenant), name))


@client_command.command("list")
@tenant_option
@json_option
@click.pass_obj
def client_list(home: Path | None, tenant: str, as_json: bool) -> None:
    """List the programs of the tenant."""
    from lockhouse.access_operations import list_clients

    clients = list_clients(caller_of(home, tenant))
    if as_json:
        show_json({"clients": clients})
        return
    rows = [[one["client"], " ".join(one["scopes"]), len(one["secrets"]), one["revoked_at"]] for one in clients]
    show_table(["client", "scopes", "secrets", "revoked"], rows, right=["secrets"])


@client_command.command("show")
@click.argument("name")
@tenant_option
@json_option
@click.pass_obj
def client_show(home: Path | None, name: str, tenant: str, as_json: bool) -> None:
    """Show a program: its scopes, and how old its secrets are."""
    from lockhouse.access_operations import list_clients

    found = [one for one in list_clients(caller_of(home, tenant)) if one["client"] == name]
    if not found:
        raise UsageError("no such client", see="lockhouse client list")
    if as_json:
        show_json(found[0])
        return
    show_table(["what", "is"], [[key, value] for key, value in found[0].items()])


@client_command.command("revoke")
@click.argument("name")
@tenant_option
@json_option
@click.pass_obj
def client_revoke(home: Path | None, name: str, tenant: str, as_json: bool) -> None:
    """Cut a program off now: its secrets and the tokens that it holds."""
    from lockhouse.access_operations import revoke_client

    revoke_client(caller_of(home, tenant), name)
    _say_revoked(as_json, "client", name)


@click.group("role", short_help="Who holds which role.")
def role_command() -> None:
    """Roles: what somebody may do in a tenant."""


_everywhere = click.option("--everywhere", is_flag=True, help="In every tenant, those of tomorrow included.")


@role_command.command("add")
@click.argument("principal")
@click.argument("role", type=_ROLE)
@_everywhere
@tenant_option
@json_option
@click.pass_obj
def role_add(
    home: Path | None, principal: str, role: str, everywhere: bool, tenant: str, as_json: bool
) -> None:
    """Give PRINCIPAL a role: a user, client:NAME, or ISSUER:SUBJECT."""
    from lockhouse.access_operations import add_role

    created = add_role(caller_of(home, tenant), principal, Role(role), everywhere)
    if as_json:
        show_json({"principal": principal, "role": role, "created": created})
    else:
        note(f"{principal} {'is now' if created else 'was already'} {role} in {_where(everywhere, tenant)}")


@role_command.command("list")
@tenant_option
@json_option
@click.pass_obj
def role_list(home: Path | None, tenant: str, as_json: bool) -> None:
    """List who holds which role in the tenant."""
    from lockhouse.access_operations import list_roles

    roles = list_roles(caller_of(home, tenant))
    if as_json:
        show_json({"roles": roles})
    else:
        rows = [[one["principal"], one["role"], one["tenant"], one["created_at"]] for one in roles]
        show_table(["principal", "role", "tenant", "since"], rows)


@role_command.command("show")
@click.argument("role", type=_ROLE)
@json_option
def role_show(role: str, as_json: bool) -> None:
    """Show the rights of a role."""
    rights = sorted(RIGHTS[Role(role)])
    if as_json:
        show_json({"role": role, "rights": rights})
    else:
        show_table(["right"], [[right] for right in rights])


@role_command.command("revoke")
@click.argument("principal")
@click.argument("role", type=_ROLE)
@_everywhere
@tenant_option
@json_option
@click.pass_obj
def role_revoke(
    home: Path | None, principal: str, role: str, everywhere: bool, tenant: str, as_json: bool
) -> None:
    """Take a role away from PRINCIPAL."""
    from lockhouse.access_operations import revoke_role

    revoke_role(caller_of(home, tenant), principal, Role(role), everywhere)
    _say_revoked(as_json, "role", f"{role} of {principal} in {_where(everywhere, tenant)}")


@click.group("grant", short_help="Who may read which devices, until when.")
def grant_command() -> None:
    """Grants: a role over the devices of a group, for some time."""


@grant_command.command("group")
@click.argument("name")
@click.option("--add", "added", multiple=True, help="A device to put in; can be given several times.")
@click.option("--remove", "removed", multiple=True, help="A device to take out; can be given several times.")
@tenant_option
@json_option
@click.pass_obj
def grant_group(
    home: Path | None,
    name: str,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Fill the device group NAME, and show what is in it."""
    from lockhouse.access_operations import change_group

    devices = change_group(caller_of(home, tenant), name, added, removed)
    if as_json:
        show_json({"group": name, "devices": devices})
    else:
        show_table(["device"], [[one] for one in devices])


@grant_command.command("add")
@click.argument("principal")
@click.argument("role", type=_ROLE)
@click.option("--group", required=True, help="The device group; `lockhouse grant group` fills it.")
@click.option("--from", "since", type=Moment(), help="When it begins; now without it.")
@click.option("--until", type=Moment(), required=True, help="When it ends: RFC 3339 or epoch seconds.")
@tenant_option
@json_option
@click.pass_obj
def grant_add(
    home: Path | None,
    principal: str,
    role: str,
    group: str,
    since: datetime | None,
    until: datetime,
    tenant: str,
    as_json: bool,
) -> None:
    """Grant PRINCIPAL a role over a group's devices, for some time.

    \b
    Examples:
      lockhouse grant group case-17 --add router-7
      lockhouse grant add iris investigator --group case-17 --until 2026-12-01T00:00:00Z
    """
    from lockhouse.access_operations import add_grant

    grant = add_grant(caller_of(home, tenant), principal, Role(role), group, since, until)
    if as_json:
        show_json({"grant": grant})
    else:
        note(f"Granted: {grant}; it ends by itself at {until:%Y-%m-%d %H:%M} UTC")


@grant_command.command("list")
@click.option("--device", help="Only those that cover this device.")
@tenant_option
@json_option
@click.pass_obj
def grant_list(home: Path | None, device: str | None, tenant: str, as_json: bool) -> None:
    """List the grants of the tenant."""
    from lockhouse.access_operations import list_grants

    grants = list_grants(caller_of(home, tenant), device)
    if as_json:
        show_json({"grants": grants})
    else:
        _show_grants(grants)


@grant_command.command("show")
@click.argument("grant")
@tenant_option
@json_option
@click.pass_obj
def grant_show(home: Path | None, grant: str, tenant: str, as_json: bool) -> None:
    """Show one grant by its id."""
    from lockhouse.access_operations import list_grants

    found = [one for one in list_grants(caller_of(home, tenant)) if one["id"] == grant]
    if not found:
        raise UsageError("no such grant", see="lockhouse grant list")
    if as_json:
        show_json(found[0])
    else:
        _show_grants(found)


@grant_command.command("revoke")
@click.argument("grant")
@tenant_option
@json_option
@click.pass_obj
def grant_revoke(home: Path | None, grant: str, tenant: str, as_json: bool) -> None:
    """End a grant now, by its id."""
    from lockhouse.access_operations import revoke_grant

    revoke_grant(caller_of(home, tenant), grant)
    _say_revoked(as_json, "grant", grant)


def _show_grants(grants: list[dict[str, object]]) -> None:
    names = ["id", "principal", "role", "device_group", "since", "until"]
    rows = [[*(one[name] for name in names), "yes" if one["is_live"] else "no"] for one in grants]
    show_table([*names, "counts now"], rows)


def _show_secret(as_json: bool, name: str, secret: str) -> None:
    if as_json:
        show_json({"client": name, "client_secret": secret})
        return
    note(f"Client       {name}")
    note(f"Secret       {secret}   (shown once)")


def _say_revoked(as_json: bool, what: str, name: str) -> None:
    if as_json:
        show_json({"revoked": name})
    else:
        note(f"Revoked the {what} {name}")


def _where(everywhere: bool, tenant: str) -> str:
    return "every tenant" if everywhere else tenant
