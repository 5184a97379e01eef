"""Who may do what: roles of principals, scopes of clients, grants over devices. Denied unless granted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from stores.clients import Clients
from stores.database import PRINCIPALS, ROLE_ASSIGNMENTS, TENANTS, Database
from stores.grants import Grants, covering, moment_text
from transforms.access import OF_DEVICES, Right, Role, allows
from transforms.errors import RefusedError, UsageError

EVERY_TENANT = "*"


class Access:
    """The access tables of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock
        self.clients, self.grants = Clients(database, clock), Grants(database, clock)
        self._tenant = database.prepare(
            sa.select(TENANTS.c.ended_at).where(TENANTS.c.name == sa.bindparam("tenant"))
        )
        roles = sa.select(ROLE_ASSIGNMENTS.c.role, sa.null()).where(
            ROLE_ASSIGNMENTS.c.principal == sa.bindparam("principal"),
            sa.or_(
                ROLE_ASSIGNMENTS.c.tenant == sa.bindparam("tenant"), ROLE_ASSIGNMENTS.c.tenant == EVERY_TENANT
            ),
        )
        # Together: a transaction costs more than either of them finds.
        self._held = database.prepare(sa.union_all(roles, covering()))

    def add_tenant(self, tenant: str) -> bool:
        """Register a tenant; give whether it is new.

        Raises: UsageError where one of that name was off-boarded: its trail and certificate bear the name.
        """
        if self.ended_at(tenant):
            raise UsageError(f"the tenant {tenant} was off-boarded for good: take another name")
        return self._insert_once(TENANTS, {"name": tenant, "created_at": self._now()}, {"name": tenant})

    def tenants(self) -> list[str]:
        """Give the registered tenants, sorted; those that were off-boarded are none."""
        chosen = sa.select(TENANTS.c.name).where(TENANTS.c.ended_at.is_(None))
        return [row["name"] for row in self._database.rows(chosen.order_by(TENANTS.c.name))]

    def ended_tenants(self) -> dict[str, str]:
        """Give the tenants that were off-boarded, each with the time of it."""
        chosen = sa.select(TENANTS.c.name, TENANTS.c.ended_at).where(TENANTS.c.ended_at.is_not(None))
        return {row["name"]: row["ended_at"] for row in self._database.rows(chosen.order_by(TENANTS.c.name))}

    def has_tenant(self, tenant: str) -> bool:
        """Whether a tenant is registered, and was not off-boarded."""
        return self._tenant(tenant=tenant) == [(None,)]

    def ended_at(self, tenant: str) -> str | None:
        """Give when a tenant was off-boarded, None for one that was not and for one that never was."""
        return next((ended_at for (ended_at,) in self._tenant(tenant=tenant)), None)

    def assign(self, principal: str, role: Role, tenant: str = EVERY_TENANT) -> bool:
        """Give a principal a role in a tenant; give whether that is new."""
        row = {"id": principal, "kind": "person", "created_at": self._now()}
        self._insert_once(PRINCIPALS, row, {"id": principal})
        held = {"principal": principal, "role": str(role), "tenant": tenant}
        return self._insert_once(ROLE_ASSIGNMENTS, {**held, "created_at": self._now()}, held)

    def is_unclaimed(self) -> bool:
        """Whether nobody holds a role yet, as in a home that is being made."""
        return not self._database.rows(sa.select(ROLE_ASSIGNMENTS.c.role).limit(1))

    def roles(self, principal: str, tenant: str) -> list[str]:
        """Give the roles that a principal holds in a tenant."""
        return [role for role, _ in self._roles_and_grants(principal, tenant, None)]

    def assignments(self, tenant: str) -> list[dict[str, str]]:
        """Give who holds which role in a tenant, those that hold it in every tenant included."""
        chosen = ROLE_ASSIGNMENTS.c.tenant.in_([tenant, EVERY_TENANT])
        query = sa.select(ROLE_ASSIGNMENTS).where(chosen)
        return self._database.rows(query.order_by(ROLE_ASSIGNMENTS.c.principal, ROLE_ASSIGNMENTS.c.role))

    def unassign(self, principal: str, role: Role, tenant: str) -> None:
        """Take a role away, from the next request on.

        Raises: UsageError where the principal does not hold it there, or is the last operator of all.
        """
        with self._database.begin() as connection:
            held = {"principal": principal, "role": str(role), "tenant": tenant}
            chosen = sa.and_(*(ROLE_ASSIGNMENTS.c[name] == value for name, value in held.items()))
            if not connection.execute(sa.select(sa.literal(1)).where(chosen)).first():
                raise UsageError("that role is not held there: `lockhouse role list` shows who holds what")
            connection.execute(sa.delete(ROLE_ASSIGNMENTS).where(chosen))
            operators = ROLE_ASSIGNMENTS.c.role == str(Role.OPERATOR)
            everywhere = sa.and_(operators, ROLE_ASSIGNMENTS.c.tenant == EVERY_TENANT)
            if not connection.execute(sa.select(sa.literal(1)).where(everywhere)).first():
                raise UsageError("that is the last operator: give the role to somebody else first")

    def authorise(self, principal: str, right: Right, tenant: str, device_ref: str | None = None) -> str:
        """Give what allows it: a role, `scope` of a client, or `grant:<id>` for a device.

        Raises: RefusedError where nothing does.
        """
        held = self._roles_and_grants(principal, tenant, device_ref if right in OF_DEVICES else None)
        for role, grant in held:
            if allows(role, right):
                return role if grant is None else f"grant:{grant}"
        # A scope says what a program may ask for; whose packets it gets, only a grant says.
        client = self.clients.find(principal) if right not in OF_DEVICES else None
        if client is not None and client.tenant == tenant and right in client.scopes and not client.revoked_at:
            return "scope"
        raise RefusedError(f"{principal} holds no role with the right {right} in tenant {tenant}")

    def _roles_and_grants(
        self, principal: str, tenant: str, device_ref: str | None
    ) -> list[tuple[str, str | None]]:
        """Give the roles that are held, and those of grants that cover the device now with the grant's id."""
        now = moment_text(self._clock())
        found = self._held(principal=principal, tenant=tenant, device_ref=device_ref, now=now)
        return [(role, grant) for role, grant in found if role]

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")

    def _insert_once(self, table: sa.Table, row: dict[str, str], key: dict[str, str]) -> bool:
        with self._database.begin() as connection:
            found = sa.and_(*(table.c[name] == value for name, value in key.items()))
            if connection.execute(sa.select(sa.literal(1)).where(found)).first():
                return False
            connection.execute(table.insert().values(**row))
            return True
