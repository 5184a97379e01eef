"""Upkeep of the lake: closed days are put in order, what is past its retention goes, debris is removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from stores.home import Home
from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.seen import SeenEvents
from stores.subjects import SubjectKeys
from stores.tables import Tables, writer_properties
from transforms.capture.tables import QUARANTINE as CAPTURE_QUARANTINE
from transforms.pii.contracts import Contract
from transforms.tables import TableSpec, masked_table, quarantine_table, raw_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

DEFAULT_RETENTION_DAYS = {"raw": 30, "quarantine": 30, "masked": 365}
# A closed day in more files than this is worth putting in order.
MOST_FILES_A_DAY = 8
# An erasure writes a file again for one row in it: so large a file holds some ten thousand rows.
ORDERED_BYTES = 8 << 20
# Only the latest days can have changed since the last upkeep.
LOOK_BACK_DAYS = 7


@dataclass(frozen=True)
class Upkeep:
    """What was done to one table."""

    table: str
    partitions_ordered: int
    rows_expired: bool
    files_removed: int


class Maintenance:
    """Keeps the tables of a source in order."""

    def __init__(self, home: Home, provider: KeyProvider, tables: Tables, window_days: int) -> None:
        """Remember the stores; nothing is opened yet."""
        self._home, self._provider, self._tables = home, provider, tables
        self._window_days = window_days

    def keep_up(self, contract: Contract, today: date) -> list[Upkeep]:
        """Do what is due for every tenant's tables of a source. Doing it twice changes nothing more."""
        done = []
        for tenant in self._tables.tenants():
            keys = TenantKeys(tenant, self._provider)
            for spec, subject in _specs(contract):
                if self._tables.exists(tenant, spec.key):
                    done.append(self._keep_table(tenant, spec, subject, contract, today))
            SeenEvents(self._home.seen(tenant, contract.source), self._window_days).forget(today)
            SubjectKeys(self._home.keys, keys).forget_days(today - self._longest(tenant, contract))
        return done

    def _longest(self, tenant: str, contract: Contract) -> timedelta:
        """Give how long a day's quarantine key is needed: captures are sealed under the same one."""
        own = _retention(contract, "quarantine")
        if not self._tables.exists(tenant, CAPTURE_QUARANTINE.key):
            return own
        return max(own, timedelta(days=DEFAULT_RETENTION_DAYS["quarantine"]))

    def _keep_table(
        self, tenant: str, spec: TableSpec, subject: str | None, contract: Contract, today: date
    ) -> Upkeep:
        oldest = today - _retention(contract, spec.zone)
        with self._tables.rewriting(tenant, spec) as table:
            expired = _expire(table, oldest)
            days = _crowded_days(table, today)
            for day in days:
                _put_in_order(table, spec, day, subject)
        removed = self._tables.vacuum(tenant, spec.key)
        return Upkeep(f"{tenant}/{spec.key}", len(days), expired, removed)


def _specs(contract: Contract) -> list[tuple[TableSpec, str | None]]:
    """Give each table with the column by which an erasure will look for a subject's rows."""
    subject = contract.subject
    joinable = [one for one in subject.outputs if one.strategy in ("token", "vault", "hash")]
    token = joinable[0].column(subject.name) if joinable else None
    return [
        (raw_table(contract), "subject_ref"),
        (quarantine_table(contract), None),
        (masked_table(contract), token),
    ]


def _retention(contract: Contract, zone: str) -> timedelta:
    days = contract.retention_days.get(f"{zone}.{contract.source}", DEFAULT_RETENTION_DAYS[zone])
    return timedelta(days=days)


def _expire(table: DeltaTable, oldest: date) -> bool:
    """Delete the days before `oldest`; whole partitions, so that no file is rewritten."""
    old = [day for day in _days(table) if day < oldest]
    if old:
        table.delete(f"received_date < '{oldest.isoformat()}'")
    return bool(old)


def _crowded_days(table: DeltaTable, today: date) -> list[date]:
    """Give the closed days of the last week that lie in many files."""
    files: dict[date, int] = {}
    sizes: dict[date, int] = {}
    for day, size in zip(_days(table), _sizes(table), strict=True):
        files[day], sizes[day] = files.get(day, 0) + 1, sizes.get(day, 0) + size
    recent = today - timedelta(days=LOOK_BACK_DAYS)
    # A day in order has as many files as its bytes need, and some.
    crowded = (
        day for day, count in files.items() if count > MOST_FILES_A_DAY + 2 * sizes[day] // ORDERED_BYTES
    )
    return sorted(day for day in crowded if recent <= day < today)


def _put_in_order(table: DeltaTable, spec: TableSpec, day: date, subject: str | None) -> None:
    """Merge a day's files; sorted by subject, a later erasure rewrites few of them."""
    wanted = [("received_date", "=", day.isoformat())]
    if subject is None:
        table.optimize.compact(partition_filters=wanted, writer_properties=writer_properties(spec))
    else:
        table.optimize.z_order(
            [subject],
            partition_filters=wanted,
            target_size=ORDERED_BYTES,
            writer_properties=writer_properties(spec),
        )


def _sizes(table: DeltaTable) -> Iterable[int]:
    """Give the size of every file of the present version."""
    import polars as pl
    import pyarrow as pa

    actions = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
    sizes: list[int] = actions["size_bytes"].to_list() if actions.height else []
    return sizes


def _days(table: DeltaTable) -> Iterable[date]:
    """Give the day of every file of the present version."""
    import polars as pl
    import pyarrow as pa

    actions = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
    days: list[date] = actions["partition.received_date"].cast(pl.Date).to_list() if actions.height else []
    return days
