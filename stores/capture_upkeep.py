"""Upkeep of captures: what is past its retention goes, the disk ring turns, closed hours are put in order.

A block or packet is as old as its packet hour, unless that is no hour in which it can have been
captured: where a device's clock says more than 30 days before the arrival or more than 1 hour after
it (1970, most often), it is as old as its arrival. So neither do the packets of such a clock vanish
the night after they came, nor do those of a clock that runs ahead stay for years.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from stores.capture_ordering import ORDERED, keep_rows, order_blocks, read_column
from stores.home import Home
from stores.kept_exports import KeptExports, hour_start
from stores.locks import shared
from stores.maintenance import DEFAULT_RETENTION_DAYS, Upkeep
from stores.tables import VACUUM_HOURS, Tables
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, PACKETS, QUARANTINE
from transforms.errors import UsageError
from transforms.tables import TableSpec

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

# An hour in more files than this, those that are in order not counted, is worth putting in order.
MOST_FILES_AN_HOUR = 4
# An hour is closed when it ended so long ago; so long after its last arrival, the ring may take it.
CLOSED_AFTER = timedelta(hours=2)
_LATE, _AHEAD, _HOUR = timedelta(days=30), timedelta(hours=1), timedelta(hours=1)


@dataclass(frozen=True)
class CaptureLimits:
    """How long captures stay, in days, and how much of them, in bytes; None for no limit."""

    capture_days: int
    packet_days: int
    limit_bytes: int | None


class DataFile(NamedTuple):
    """A data file of a table of packets; `name` is the log's.

    `hour` is None where the clock that named it was wrong; `first` and `last` bound the arrivals of its
    rows. It is mixed where some rows are as old as their hour, others as their arrival.
    """

    name: str
    path: Path
    size_bytes: int
    packet_hour: str
    hour: datetime | None
    first: datetime
    last: datetime
    is_mixed: bool

    @property
    def age(self) -> datetime:
        """No row of it is younger."""
        if self.hour is None:
            return self.last
        return max(self.hour, self.last) if self.is_mixed else self.hour

    @property
    def floor(self) -> datetime:
        """No row of it is older."""
        if self.hour is None:
            return self.first
        return min(self.hour, self.first) if self.is_mixed else self.hour

    @property
    def is_ordered(self) -> bool:
        """Whether it was put in order."""
        return self.path.name.startswith(f"{ORDERED}-")


class CaptureUpkeep:
    """Keeps the tables of captures, and what was exported of them, in order."""

    def __init__(
        self,
        home: Home,
        tables: Tables,
        kept_exports: Callable[[str], KeptExports],
        limits: CaptureLimits,
        clock: Callable[[], datetime],
    ) -> None:
        """Remember the stores; nothing is opened yet. `kept_exports` gives a tenant's."""
        self._home, self._tables, self._kept_exports = home, tables, kept_exports
        self._limits, self._clock = limits, clock

    def keep_up(self) -> list[Upkeep]:
        """Do what is due for every tenant's captures. Doing it twice changes nothing more."""
        return [one for tenant in self._tables.tenants() for one in self._keep_tenant(tenant)]

    def _keep_tenant(self, tenant: str) -> Iterator[Upkeep]:
        limits = self._limits
        if self._tables.exists(tenant, CAPTURE_BLOCKS.key):
            expired = self._expire_hours(tenant, CAPTURE_BLOCKS, limits.capture_days)
            taken = self._turn_ring(tenant)
            ordered = self._order_hours(tenant)
            # What the ring took is room that is needed now; readers are waited for.
            removed = self._tables.vacuum(tenant, CAPTURE_BLOCKS.key, 0 if taken else VACUUM_HOURS)
            yield Upkeep(f"{tenant}/{CAPTURE_BLOCKS.key}", ordered, expired or taken, removed)
        if self._tables.exists(tenant, PACKETS.key):
            expired = self._expire_hours(tenant, PACKETS, limits.packet_days)
            removed = self._tables.vacuum(tenant, PACKETS.key)
            yield Upkeep(f"{tenant}/{PACKETS.key}", 0, expired, removed)
        days = {CAPTURE_FILES: limits.capture_days, QUARANTINE: DEFAULT_RETENTION_DAYS["quarantine"]}
        for spec, kept_days in days.items():
            if self._tables.exists(tenant, spec.key):
                expired = self._expire_arrivals(tenant, spec, kept_days)
                removed = self._tables.vacuum(tenant, spec.key)
                yield Upkeep(f"{tenant}/{spec.key}", 0, expired, removed)
        if (self._home.exports / tenant).is_dir():
            yield Upkeep(f"{tenant}/exports", 0, False, self._kept_exports(tenant).expire())

    def _oldest(self, days: int) -> datetime:
        today = self._clock().replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=days)

    @contextmanager
    def _holding(self, tenant: str, spec: TableSpec) -> Iterator[DeltaTable]:
        """Hold a table against other writers, and the tenant against an erasure."""
        with shared(self._home.tenant_lock(tenant)), self._tables.rewriting(tenant, spec) as table:
            yield table

    def _files(self, tenant: str, spec: TableSpec, table: DeltaTable) -> list[DataFile]:
        """Give a table's data files, the oldest first."""
        found = _describe_files(table, self._tables.path(tenant, spec.key))
        return sorted(found, key=lambda file: (file.age, file.packet_hour))

    def _expire_arrivals(self, tenant: str, spec: TableSpec, days: int) -> bool:
        """Delete the days of arrival that are past their retention."""
        oldest = self._oldest(days).date()
        with self._holding(tenant, spec) as table:
            files = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
            if files.is_empty() or not (files["partition.received_date"].cast(pl.Date) < oldest).any():
                return False
            table.delete(f"received_date < '{oldest.isoformat()}'")
            return True

    def _expire_hours(self, tenant: str, spec: TableSpec, days: int) -> bool:
        """Delete what is past its retention: whole files, or rows where a file holds others as well."""
        oldest = self._oldest(days)
        folder = self._tables.path(tenant, spec.key)
        with self._holding(tenant, spec) as table:
            actions = [
                action
                for file in self._files(tenant, spec, table)
                for action in _expired(folder, spec, file, oldest)
            ]
            if actions:
                self._tables.exchange_files(table, spec, actions)
            return bool(actions)

    def _turn_ring(self, tenant: str) -> bool:
        """Delete the oldest packet hours, whole, until the blocks fit; give whether any went."""
        limit = self._limits.limit_bytes
        if limit is None:
            return False
        with self._holding(tenant, CAPTURE_BLOCKS) as table:
            files = self._files(tenant, CAPTURE_BLOCKS, table)
            recent = {file.packet_hour for file in files if file.last > self._clock() - CLOSED_AFTER}
            size = sum(file.size_bytes for file in files)
            # An hour is as old as its youngest file.
            hours = list(dict.fromkeys(file.packet_hour for file in reversed(files)))
            gone = []
            for hour in reversed(hours):
                if size <= limit:
                    break
                if hour not in recent:
                    taken = [file for file in files if file.packet_hour == hour]
                    size -= sum(file.size_bytes for file in taken)
                    gone += [_removal(file, changes_rows=True) for file in taken]
            if gone:
                self._tables.exchange_files(table, CAPTURE_BLOCKS, gone)
            return bool(gone)

    def _order_hours(self, tenant: str) -> int:
        """Put closed hours in order; give how many. The table is free for others between two of them."""
        with self._holding(tenant, CAPTURE_BLOCKS) as table:
            crowded = self._crowded(self._files(tenant, CAPTURE_BLOCKS, table))
        return sum(self._order_hour(tenant, hour) for hour in crowded)

    def _crowded(self, files: list[DataFile]) -> list[str]:
        closed = f"{self._clock() - CLOSED_AFTER - _HOUR:%Y-%m-%dT%H}"
        counts: dict[str, int] = {}
        for file in files:
            # An hour of a clock that runs ahead is as closed as any: nothing tells when it will end.
            is_closed = file.packet_hour <= closed or file.hour is None
            if is_closed and not file.is_ordered:
                counts[file.packet_hour] = counts.get(file.packet_hour, 0) + 1
        return sorted(hour for hour, count in counts.items() if count > MOST_FILES_AN_HOUR)

    def _order_hour(self, tenant: str, hour: str) -> int:
        """Put one hour in order: the new files first, then one commit that exchanges them for the old."""
        folder, texts = self._tables.path(tenant, CAPTURE_BLOCKS.key), {"packet_hour": hour}
        with self._holding(tenant, CAPTURE_BLOCKS) as table:
            files = [one for one in self._files(tenant, CAPTURE_BLOCKS, table) if one.packet_hour == hour]
            if not self._crowded(files):
                return 0
            size = sum(file.size_bytes for file in files)
            written = list(order_blocks(folder, [file.path for file in files], texts, size))
            removed = [_removal(file, changes_rows=False) for file in files]
            self._tables.exchange_files(table, CAPTURE_BLOCKS, [*written, *removed])
            return 1


def _describe_files(table: DeltaTable, folder: Path) -> Iterator[DataFile]:
    """Describe a table's data files from its log."""
    actions = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
    for row in actions.iter_rows(named=True):
        path = folder / unquote(row["path"])
        arrivals = row["min.received_at"], row["max.received_at"]
        hour, is_mixed = _judge_hour(row["partition.packet_hour"], *arrivals)
        place = row["path"], path, row["size_bytes"], row["partition.packet_hour"]
        yield DataFile(*place, hour, *arrivals, is_mixed)


def _judge_hour(packet_hour: str, first: datetime, last: datetime) -> tuple[datetime | None, bool]:
    """Judge a packet hour by the first and last arrival in it: the hour, None where the clock was wrong.

    And whether some rows are as old as the hour, others as their arrival.
    """
    try:
        hour = hour_start(packet_hour)
    except UsageError:
        return None, False
    if last < hour - _AHEAD or first >= hour + _HOUR + _LATE:
        return None, False
    return hour, not (first >= hour - _AHEAD and last < hour + _HOUR + _LATE)


def _expired(
    folder: Path, spec: TableSpec, file: DataFile, oldest: datetime
) -> Iterator[AddAction | RemoveAction]:
    """Give what has to be done to a file so that nothing in it is older than `oldest`."""
    if file.floor >= oldest:
        return
    if file.age >= oldest:
        keep = _young_rows(file, oldest)
        if keep.all():
            return
        if keep.any():
            yield keep_rows(folder, spec, file.path, {"packet_hour": file.packet_hour}, keep)
    yield _removal(file, changes_rows=True)


def _young_rows(file: DataFile, oldest: datetime) -> NDArray[np.bool_]:
    """Judge each row of a file whose rows are not all of one age."""
    received = read_column(file.path, "received_at")
    young = received >= oldest
    if file.hour is not None:
        possible = (received >= file.hour - _AHEAD) & (received < file.hour + _HOUR + _LATE)
        young = possible & (file.hour >= oldest) | ~possible & young
    return young.to_numpy()


def _removal(file: DataFile, *, changes_rows: bool) -> RemoveAction:
    from deltalake.transaction import RemoveAction

    # A vacuum compares it with the machine's own clock.
    removed_at_ms = int(time.time() * 1000)
    texts: dict[str, str | None] = {"packet_hour": file.packet_hour}
    return RemoveAction(file.name, changes_rows, removed_at_ms, file.size_bytes, texts)
