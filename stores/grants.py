"""Grants: a role over the devices of a group, for some time. They end by themselves, or at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import uuid_utils

from stores.database import DEVICE_GROUPS, GRANTS, Database
from transforms.access import Role
from transforms.credentials import checked_name
from transforms.errors import UsageError


def covering() -> sa.Select[Any]:
    """Choose role and id of the grants that a `principal` has `now` over a `device_ref` of a `tenant`.

    A group of the device that no grant names gives a row of nulls. The join is an outer one for that alone: it
    begins with the few groups of a device, where SQLite by itself begins with all grants of a principal.
    """
    live = sa.and_(
        GRANTS.c.tenant == DEVICE_GROUPS.c.tenant,
        GRANTS.c.device_group == DEVICE_GROUPS.c.name,
        GRANTS.c.principal == sa.bindparam("principal"),
        GRANTS.c.revoked_at.is_(None),
        GRANTS.c.since <= sa.bindparam("now"),
        GRANTS.c.until > sa.bindparam("now"),
    )
    return (
        sa.select(GRANTS.c.role, GRANTS.c.id)
        .select_from(DEVICE_GROUPS.outerjoin(GRANTS, live))
        .where(
            DEVICE_GROUPS.c.tenant == sa.bindparam("tenant"),
            DEVICE_GROUPS.c.device_ref == sa.bindparam("device_ref"),
        )
    )


class Grants:
    """The grants and the device groups of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock

    def devices_of(self, principal: str, tenant: str) -> list[str]:
        """Give the pseudonyms of the devices that live grants of a principal cover."""
        now = self._now()
        live = sa.select(GRANTS.c.device_group).where(
            GRANTS.c.tenant == tenant,
            GRANTS.c.principal == principal,
            GRANTS.c.revoked_at.is_(None),
            GRANTS.c.since <= now,
            GRANTS.c.until > now,
        )
        query = sa.select(DEVICE_GROUPS.c.device_ref).where(
            DEVICE_GROUPS.c.tenant == tenant, DEVICE_GROUPS.c.name.in_(live)
        )
        return [row["device_ref"] for row in self._database.rows(query.distinct())]

    def add(
        self, tenant: str, principal: str, role: Role, group: str, since: datetime, until: datetime, by: str
    ) -> str:
        """Grant a role over a group's devices; gives the grant's id.

        Raises: UsageError where it would end before it begins, or the group has no device.
        """
        if until <= since:
            raise UsageError("the grant ends before it begins")
        if not self.members(tenant, group):
            raise UsageError("no device is in that group: `lockhouse grant group` fills it")
        grant = str(uuid_utils.uuid7())
        row = {"id": grant, "tenant": tenant, "principal": principal, "role": str(role)}
        times = {"since": moment_text(since), "until": moment_text(until)}
        with self._database.begin() as connection:
            connection.execute(
                GRANTS.insert().values(**row, **times, device_group=group, created_by=by, revoked_at=None)
            )
        return grant

    def listing(self, tenant: str, device_ref: str | None = None) -> list[dict[str, Any]]:
        """Give a tenant's grants, or those that cover a device; whether each counts now is `is_live`."""
        query = sa.select(GRANTS).where(GRANTS.c.tenant == tenant).order_by(GRANTS.c.id)
        if device_ref is not None:
            having = sa.select(DEVICE_GROUPS.c.name).where(
                DEVICE_GROUPS.c.tenant == tenant, DEVICE_GROUPS.c.device_ref == device_ref
            )
            query = query.where(GRANTS.c.device_group.in_(having))
        now = self._now()
        return [
            {**row, "is_live": row["revoked_at"] is None and row["since"] <= now < row["until"]}
            for row in self._database.rows(query)
        ]

    def revoke(self, tenant: str, grant: str) -> None:
        """End a grant now.

        Raises: UsageError where the tenant has no such grant.
        """
        with self._database.begin() as connection:
            chosen = sa.and_(GRANTS.c.tenant == tenant, GRANTS.c.id == grant)
            if connection.execute(sa.select(GRANTS.c.id).where(chosen)).first() is None:
                raise UsageError("no such grant", see="lockhouse grant list")
            connection.execute(sa.update(GRANTS).where(chosen).values(revoked_at=self._now()))

    def members(self, tenant: str, group: str) -> list[str]:
        """Give the pseudonyms of a group's devices."""
        chosen = sa.and_(DEVICE_GROUPS.c.tenant == tenant, DEVICE_GROUPS.c.name == group)
        return [row["device_ref"] for row in self._database.rows(sa.select(DEVICE_GROUPS).where(chosen))]

    def change_group(self, tenant: str, group: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Put devices into a group and take others out, by their pseudonyms."""
        row = {"tenant": tenant, "name": checked_name(group)}
        with self._database.begin() as connection:
            for device_ref in {*added, *removed}:
                one = {**row, "device_ref": device_ref}
                chosen = sa.and_(*(DEVICE_GROUPS.c[name] == value for name, value in one.items()))
                connection.execute(sa.delete(DEVICE_GROUPS).where(chosen))
                if device_ref not in removed:
                    connection.execute(DEVICE_GROUPS.insert().values(**one))

    def _now(self) -> str:
        return moment_text(self._clock())


def moment_text(moment: datetime) -> str:
    """Write a time so that times are ordered as their texts are."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
