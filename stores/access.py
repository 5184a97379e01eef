"""Principals and their roles: who holds which right in which tenant. Denied unless granted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from stores.database import PRINCIPALS, ROLE_ASSIGNMENTS, TENANTS, Database
from transforms.access import Right, Role, allows
from transforms.errors import RefusedError

EVERY_TENANT = "*"


class Access:
    """The access tables of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock

    def add_tenant(self, tenant: str) -> bool:
        """Register a tenant; give whether it is new."""
        return self._insert_once(TENANTS, {"name": tenant, "created_at": self._now()}, {"name": tenant})

    def tenants(self) -> list[str]:
        """Give the registered tenants, sorted."""
        return [row["name"] for row in self._database.rows(sa.select(TENANTS.c.name).order_by(TENANTS.c.name))]

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
        query = sa.select(ROLE_ASSIGNMENTS.c.role).where(
            ROLE_ASSIGNMENTS.c.principal == principal,
            ROLE_ASSIGNMENTS.c.tenant.in_([tenant, EVERY_TENANT]),
        )
        return [row["role"] for row in self._database.rows(query)]

    def authorise(self, principal: str, right: Right, tenant: str) -> str:
        """Give the role that allows it.

        Raises: RefusedError where none does.
        """
        for role in self.roles(principal, tenant):
            if allows(role, right):
                return role
        raise RefusedError(f"{principal} holds no role with the right {right} in tenant {tenant}")

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")

    def _insert_once(self, table: sa.Table, row: dict[str, str], key: dict[str, str]) -> bool:
        with self._database.begin() as connection:
            found = sa.and_(*(table.c[name] == value for name, value in key.items()))
            if connection.execute(sa.select(sa.literal(1)).where(found)).first():
                return False
            connection.execute(table.insert().values(**row))
            return True
