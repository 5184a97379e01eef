"""Operations on access: users, clients, roles, grants; each authorises, audits, then acts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lockhouse.operations import Caller, Given
from orchestration.resources import now
from stores.access import EVERY_TENANT
from stores.clients import Client, client_principal
from transforms.access import OF_DEVICES, RIGHTS, Right, Role
from transforms.audit import Action, Outcome
from transforms.credentials import checked_name, write_scopes
from transforms.errors import RefusedError, UsageError


def add_user(caller: Caller, name: str, password: str) -> bool:
    """Register a person, or give them a new password; give whether they are new."""
    with caller.permitted(Right.OPERATE, Action.USER_ADDED, name=checked_name(name)):
        # A person may hold roles anywhere: an operator of one tenant must not become them.
        _check_operates_everywhere(caller)
        return caller.platform.users.add(name, password)


def list_users(caller: Caller) -> list[dict[str, Any]]:
    """Give the people who can sign in, with the roles that they hold in the tenant."""
    with caller.permitted(Right.OPERATE, Action.ACCESS_LISTED, what="users"):
        access, tenant = caller.platform.access, caller.tenant
        return [
            {
                "user": one["principal"],
                "created_at": one["created_at"],
                "disabled_at": one["disabled_at"],
                "roles": access.roles(one["principal"], tenant),
            }
            for one in caller.platform.users.listing()
        ]


def revoke_user(caller: Caller, name: str) -> None:
    """Shut a person out of every tenant, from now on."""
    with caller.permitted(Right.OPERATE, Action.USER_REVOKED, name=checked_name(name)):
        _check_operates_everywhere(caller)
        caller.platform.users.revoke(name)


def add_client(caller: Caller, name: str, scopes: frozenset[Right]) -> tuple[Client, str]:
    """Register a program of the tenant; give it and its secret, which is shown once."""
    marks = {"name": checked_name(name), "scopes": write_scopes(scopes)}
    with caller.permitted(Right.OPERATE, Action.CLIENT_ADDED, **marks):
        return caller.platform.access.clients.add(name, caller.tenant, scopes)


def rotate_client(caller: Caller, name: str) -> str:
    """Add a secret to a program; the one in use goes on counting."""
    with caller.permitted(Right.OPERATE, Action.CLIENT_ROTATED, name=checked_name(name)):
        return caller.platform.access.clients.rotate(name, caller.tenant)


def revoke_client(caller: Caller, name: str) -> None:
    """Cut a program off, its tokens included, from now on."""
    with caller.permitted(Right.OPERATE, Action.CLIENT_REVOKED, name=checked_name(name)):
        caller.platform.access.clients.revoke(name, caller.tenant)


def list_clients(caller: Caller) -> list[dict[str, Any]]:
    """Give the tenant's programs; no secret is kept that could be shown."""
    with caller.permitted(Right.OPERATE, Action.ACCESS_LISTED, what="clients"):
        return caller.platform.access.clients.listing(caller.tenant)


def add_role(caller: Caller, principal: str, role: Role, everywhere: bool = False) -> bool:
    """Give a role in the tenant, or in every one; give whether that is new."""
    marks = {"name": _checked_principal(principal), "role": str(role), "everywhere": str(everywhere).lower()}
    with caller.permitted(Right.OPERATE, Action.ROLE_ASSIGNED, **_given(marks)):
        if everywhere:
            _check_operates_everywhere(caller)
        return caller.platform.access.assign(principal, role, EVERY_TENANT if everywhere else caller.tenant)


def revoke_role(caller: Caller, principal: str, role: Role, everywhere: bool = False) -> None:
    """Take a role away, from the next request on."""
    marks = {"name": _checked_principal(principal), "role": str(role), "everywhere": str(everywhere).lower()}
    with caller.permitted(Right.OPERATE, Action.ROLE_WITHDRAWN, **_given(marks)):
        if everywhere:
            _check_operates_everywhere(caller)
        where = EVERY_TENANT if everywhere else caller.tenant
        caller.platform.access.unassign(principal, role, where)


def list_roles(caller: Caller) -> list[dict[str, str]]:
    """Give who holds which role in the tenant."""
    with caller.permitted(Right.OPERATE, Action.ACCESS_LISTED, what="roles"):
        return caller.platform.access.assignments(caller.tenant)


def add_grant(
    caller: Caller, principal: str, role: Role, group: str, since: datetime | None, until: datetime
) -> str:
    """Grant a role over the devices of a group, from now on where no time is given; gives the grant's id.

    Raises: UsageError where the role has no right over devices: the grant would give nothing.
    """
    if not RIGHTS[role] & OF_DEVICES:
        raise UsageError(f"the role {role} has no right over devices: a grant of it gives nothing")
    since = since or now()
    marks = {
        "name": _checked_principal(principal),
        "granted": str(role),
        "group": checked_name(group),
        "since": since.isoformat(),
        "until": until.isoformat(),
    }
    with caller.permitted(Right.OPERATE, Action.GRANT_ADDED, **marks):
        grant = caller.platform.access.grants.add(
            caller.tenant, principal, role, group, since, until, caller.principal
        )
        caller.results["grant"] = grant
        return grant


def list_grants(caller: Caller, device: str | None = None) -> list[dict[str, Any]]:
    """Give the tenant's grants, or those that cover a device."""
    marks = {"what": "grants", **({"device": device_ref(caller, device)} if device else {})}
    with caller.permitted(Right.OPERATE, Action.ACCESS_LISTED, **marks):
        return caller.platform.access.grants.listing(caller.tenant, marks.get("device"))


def revoke_grant(caller: Caller, grant: str) -> None:
    """End a grant now."""
    with caller.permitted(Right.OPERATE, Action.GRANT_REVOKED, grant=Given(grant)):
        caller.platform.access.grants.revoke(caller.tenant, grant)


def change_group(caller: Caller, group: str, added: Sequence[str], removed: Sequence[str]) -> list[str]:
    """Put registered devices into a group, take others out; give the ids of those that are in it."""
    checked_name(group)
    devices = caller.platform.devices(caller.known_tenant())
    with caller.permitted(
        Right.OPERATE, Action.GROUP_CHANGED, group=group, added=len(added), removed=len(removed)
    ):
        grants = caller.platform.access.grants
        come, gone = [devices.find(one).ref for one in added], [devices.ref(one) for one in removed]
        grants.change_group(caller.tenant, group, come, gone)
        return [one.id for one in devices.listing(grants.members(caller.tenant, group))]


def who_reads(caller: Caller, device: str) -> list[dict[str, Any]]:
    """Say who can read a device's packets now, by which role or grant, and with payload or without."""
    ref = device_ref(caller, device)
    with caller.permitted(Right.OPERATE, Action.ACCESS_LISTED, what="readers", device=ref):
        caller.platform.devices(caller.tenant).find(device)
        access = caller.platform.access
        held = [
            {"principal": one["principal"], "role": one["role"], "by": "role", "until": None}
            for one in access.assignments(caller.tenant)
        ]
        granted = [
            {
                "principal": one["principal"],
                "role": one["role"],
                "by": f"grant:{one['id']}",
                "until": one["until"],
            }
            for one in access.grants.listing(caller.tenant, ref)
            if one["is_live"]
        ]
        return [
            {**one, "payload": Right.READ_PAYLOAD in RIGHTS[Role(str(one["role"]))]}
            for one in [*held, *granted]
            if RIGHTS[Role(str(one["role"]))] & OF_DEVICES
        ]


def follow_roles(caller: Caller, roles: frozenset[Role], governed: frozenset[Role]) -> None:
    """Give and take the roles that a provider governs, as its claims say; other roles stay as they are.

    The caller is who has just signed in; the provider's word, checked before, is what allows it.
    """
    access, tenant = caller.platform.access, caller.known_tenant()
    held = {
        Role(one["role"])
        for one in access.assignments(tenant)
        if (one["principal"], one["tenant"]) == (caller.principal, tenant)
    }
    for role in sorted(roles - held):
        caller.record(Action.ROLE_ASSIGNED, Outcome.DONE, name=caller.principal, given=str(role), by="sign-in")
        access.assign(caller.principal, role, tenant)
    for role in sorted((held & governed) - roles):
        caller.record(Action.ROLE_WITHDRAWN, Outcome.DONE, name=caller.principal, given=str(role), by="sign-in")
        access.unassign(caller.principal, role, tenant)


def device_ref(caller: Caller, device: str) -> str:
    """Give the pseudonym of a device of the tenant."""
    return caller.platform.devices(caller.known_tenant()).ref(device)


def _given(marks: dict[str, str]) -> dict[str, str]:
    """Say `given` for the role that is spoken of: `role` is the one that allowed it."""
    return {("given" if name == "role" else name): value for name, value in marks.items()}


def _check_operates_everywhere(caller: Caller) -> None:
    """Refuse an operator of one tenant, who gives nobody power over the others.

    Raises: RefusedError.
    """
    held = {
        one["tenant"]
        for one in caller.platform.access.assignments(caller.tenant)
        if one["principal"] == caller.principal and one["role"] == Role.OPERATOR
    }
    if EVERY_TENANT not in held:
        raise RefusedError("only an operator of every tenant changes users, and roles in every tenant")


def _checked_principal(principal: str) -> str:
    """Give a principal back: a user, `client:<name>`, or `<issuer>:<subject>`.

    Raises: UsageError where it could not be one.
    """
    kind, _, name = principal.partition(":")
    if name and kind == "client":
        return client_principal(checked_name(name))
    if not (principal.isprintable() and 0 < len(principal) <= 128):
        raise UsageError("a principal is a user, client:<name>, or <issuer>:<subject>")
    return principal
