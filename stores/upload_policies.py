"""When devices of a tenant should send: told to each of them in the answer to a promised upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from stores.database import UPLOAD_POLICIES, Database
from transforms.errors import UsageError

# A device that asks every second is no better off, and one that waits for a month is forgotten.
SHORTEST_S, LONGEST_S = 10, 30 * 86400


@dataclass(frozen=True)
class UploadPolicy:
    """How often devices should send, and whether they should wait for Wi-Fi or a charger."""

    interval_seconds: int
    wifi_only: bool
    charging_only: bool


class UploadPolicies:
    """The policies of the application database; a tenant without one goes by the default."""

    def __init__(self, database: Database, clock: Callable[[], datetime], default: UploadPolicy) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock, self._default = database, clock, default
        chosen = (getattr(UPLOAD_POLICIES.c, name) for name in UploadPolicy.__dataclass_fields__)
        query = sa.select(*chosen).where(UPLOAD_POLICIES.c.tenant == sa.bindparam("tenant"))
        self._policy = database.prepare(query)

    def find(self, tenant: str) -> UploadPolicy:
        """Give a tenant's policy."""
        rows = self._policy(tenant=tenant)
        if not rows:
            return self._default
        interval, wifi, charging = rows[0]
        return UploadPolicy(interval, bool(wifi), bool(charging))

    def change(
        self, tenant: str, interval_seconds: int | None, wifi_only: bool | None, charging_only: bool | None
    ) -> UploadPolicy:
        """Set what is given of a tenant's policy, from the next answer on.

        Raises: UsageError where the interval is none that a device could keep.
        """
        before = self.find(tenant)
        policy = UploadPolicy(
            before.interval_seconds if interval_seconds is None else interval_seconds,
            before.wifi_only if wifi_only is None else wifi_only,
            before.charging_only if charging_only is None else charging_only,
        )
        if not SHORTEST_S <= policy.interval_seconds <= LONGEST_S:
            raise UsageError(f"the interval is between {SHORTEST_S} and {LONGEST_S} seconds")
        row = {**asdict(policy), "changed_at": self._clock().isoformat(timespec="seconds")}
        with self._database.begin() as connection:
            connection.execute(sa.delete(UPLOAD_POLICIES).where(UPLOAD_POLICIES.c.tenant == tenant))
            connection.execute(UPLOAD_POLICIES.insert().values(tenant=tenant, **row))
        return policy
