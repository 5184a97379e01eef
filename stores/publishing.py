"""Publishing: masked rows of batches into the served table, what a failed run left behind included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import polars as pl

from stores.home import Home
from stores.ledger import Ledger
from stores.locks import shared
from stores.tables import Tables
from stores.user_logins import Standing, UserLogins, standing_of
from transforms.errors import UsageError
from transforms.tables import arrived_in
from transforms.user_logins import COLUMNS, no_rows, served_rows

SOURCE, MASKED = "logins", "masked.logins"
# What is read and copied at once; a batch is never divided.
_GROUP_ROWS = 200_000
_GROUP_BATCHES = 200


@dataclass(frozen=True)
class Published:
    """What a publishing came to. `late` batches were left by runs before."""

    rows: int
    batches: int
    late: int


@dataclass(frozen=True)
class Comparison:
    """What the lake has and what is served, of one tenant."""

    tenant: str
    lake: Standing
    served: Standing

    @property
    def is_equal(self) -> bool:
        """Whether both have the same rows."""
        return self.lake == self.served


class Publishing:
    """Takes masked logins to PostgreSQL; off where no address is set."""

    def __init__(self, home: Home, tables: Tables, ledger: Ledger, served: UserLogins | None) -> None:
        """Remember the stores; nothing is connected yet."""
        self._home, self._tables, self._ledger, self._served = home, tables, ledger, served

    @property
    def is_on(self) -> bool:
        """Whether there is a database to publish to."""
        return self._served is not None

    def publish_batches(self, batch_ids: Sequence[str]) -> Published:
        """Publish batches, and those masked before that were not published yet.

        Raises: ServedError where the database cannot be reached: the batches stay unpublished.
        """
        rows = batches = 0
        missing = self._ledger.unpublished(SOURCE)
        known = {one["id"] for one in missing}
        named = [one for one in self._ledger.named(batch_ids) if one["id"] not in known]
        for tenant, group in _grouped([*missing, *named]):
            ids = [one["id"] for one in group]
            rows += self._publish(tenant, group)
            self._ledger.mark_published(ids)
            batches += len(ids)
        return Published(rows, batches, len(known - set(batch_ids)))

    def equalise_hour(self, start: datetime) -> int:
        """Make an arrival hour of every tenant what the lake has; gives how many rows are served."""
        rows, end = 0, start + timedelta(hours=1)
        for tenant in self._tables.tenants():
            with shared(self._home.tenant_lock(tenant)):
                wanted = self._hour(tenant, start)
                self._database().make_equal(tenant, start, end, wanted)
                rows += wanted.height
        return rows

    def equalise_tenant(self, tenant: str) -> int:
        """Make all of a tenant's served rows what the lake has, a day at a time; gives how many there are.

        For what touches every row, such as a rotation of token keys.
        """
        rows = 0
        with shared(self._home.tenant_lock(tenant)):
            for day in self._days(tenant):
                since = datetime.combine(day, time(), UTC)
                wanted = self._arrived(tenant, pl.lit(True), [since])
                self._database().make_equal(tenant, since, since + timedelta(days=1), wanted)
                rows += wanted.height
        return rows

    def compare_batches(self, batch_ids: Sequence[str]) -> list[Comparison]:
        """Compare the rows of batches, tenant by tenant."""
        found = []
        for tenant, group in _grouped(self._ledger.named(batch_ids), whole_tenants=True):
            moments = [datetime.fromisoformat(one["received_at"]) for one in group]
            lake = self._arrived(tenant, pl.col("received_at").is_in(moments), moments)
            served = self._database().standing_of_arrivals(tenant, moments)
            found.append(Comparison(tenant, standing_of(lake), served))
        return found

    def compare_hour(self, start: datetime) -> list[Comparison]:
        """Compare an arrival hour, tenant by tenant."""
        end = start + timedelta(hours=1)
        return [
            Comparison(
                tenant,
                standing_of(self._hour(tenant, start)),
                self._database().standing(tenant, start, end),
            )
            for tenant in self._tables.tenants()
        ]

    def _publish(self, tenant: str, group: Sequence[dict[str, Any]]) -> int:
        moments = [datetime.fromisoformat(one["received_at"]) for one in group]
        ids = [one["id"] for one in group]
        # An erasure waits: what it deletes from the lake must not be read before and served after.
        with shared(self._home.tenant_lock(tenant)):
            rows = self._arrived(tenant, pl.col("batch_id").is_in(ids), moments)
            return self._database().publish(tenant, rows)

    def _hour(self, tenant: str, start: datetime) -> pl.DataFrame:
        return self._arrived(tenant, arrived_in(start), [start])

    def _days(self, tenant: str) -> list[date]:
        """Give every date of arrival of which the lake or PostgreSQL has rows."""
        served = self._database().dates(tenant)
        if not self._tables.exists(tenant, MASKED):
            return sorted(served)
        with self._tables.reading(tenant, MASKED) as table:
            there = table.select(pl.col("received_date").unique()).collect()["received_date"].to_list()
        return sorted({*served, *there})

    def _arrived(self, tenant: str, wanted: pl.Expr, days: Sequence[datetime]) -> pl.DataFrame:
        """Read masked rows as they are served; dates are partitions, so that only their files are opened."""
        if not self._tables.exists(tenant, MASKED):
            return no_rows()
        dates = sorted({day.date() for day in days})
        with self._tables.reading(tenant, MASKED) as table:
            rows = table.filter(pl.col("received_date").is_in(dates) & wanted)
            return served_rows(rows.select({one.source for one in COLUMNS}).collect())

    def _database(self) -> UserLogins:
        if self._served is None:
            raise UsageError("nothing is served: set postgres_url or postgres_url_file")
        return self._served


def _grouped(
    batches: Sequence[dict[str, Any]], *, whole_tenants: bool = False
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Put batches of a tenant together, up to so many rows at once."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    sizes: dict[str, int] = {}
    for one in batches:
        tenant = one["tenant"]
        group = waiting.setdefault(tenant, [])
        is_full = sizes.get(tenant, 0) + one["accepted"] > _GROUP_ROWS or len(group) == _GROUP_BATCHES
        if group and is_full and not whole_tenants:
            yield tenant, group
            group = waiting[tenant] = []
            sizes[tenant] = 0
        group.append(one)
        sizes[tenant] = sizes.get(tenant, 0) + one["accepted"]
    yield from ((tenant, group) for tenant, group in waiting.items() if group)
