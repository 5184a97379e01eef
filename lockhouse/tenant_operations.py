"""Operations on tenants: each authorised, audited, then done."""

from __future__ import annotations

from typing import Any

from lockhouse.operations import Caller
from orchestration.resources import DEFAULT_TENANT
from stores.home import checked_tenant
from transforms.access import Right
from transforms.audit import Action
from transforms.errors import UsageError


def add_tenant(caller: Caller, name: str) -> bool:
    """Register a tenant and make its keys; give whether it is new."""
    with caller.permitted(Right.OPERATE, Action.TENANT_ADDED, name=checked_tenant(name)):
        return caller.platform.add_tenant(name, caller.principal)


def list_tenants(caller: Caller) -> list[dict[str, str | None]]:
    """Give all tenants, those that were off-boarded with the time of it."""
    with caller.permitted(Right.OPERATE, Action.TENANTS_LISTED):
        access = caller.platform.access
        ended = access.ended_tenants()
        live: dict[str, str | None] = dict.fromkeys(access.tenants())
        return [{"tenant": name, "ended_at": at} for name, at in sorted({**live, **ended}.items())]


def preview_offboarding(caller: Caller) -> list[dict[str, Any]]:
    """Tell what the end of the caller's tenant would take, table by table; nothing is changed."""
    with caller.permitted(Right.OPERATE, Action.TENANTS_LISTED, ends=caller.tenant):
        return caller.platform.offboarding(caller.tenant).preview()


def offboard_tenant(caller: Caller, reason: str) -> dict[str, Any]:
    """End the caller's tenant for good: keys first, then everything; give what was held and the certificate.

    One that was interrupted goes on; one that is done gives its certificate again. Raises: UsageError for
    the home's own tenant; ErasureError where something of it is still found.
    """
    if caller.tenant == DEFAULT_TENANT:
        raise UsageError("the home's own tenant stays, since its operators' entries are its: remove the home")
    with caller.permitted(Right.OPERATE, Action.TENANT_ENDED, reason=reason):
        path, held = caller.platform.offboarding(caller.tenant).complete(caller.principal)
        caller.results["rows"] = sum(one["rows"] for one in held["tables"])
    return {
        "tenant": caller.tenant,
        "ended_at": held["ended_at"],
        "certificate": str(path.absolute()),
        "tables": {one["table"]: one["rows"] for one in held["tables"]},
        "subject_keys": held["subject_keys"],
    }
