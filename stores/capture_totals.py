"""Whether captures add up: packets of the files, of the blocks and of the packet table, and their tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from stores.keys import TenantKeys
from stores.tables import Tables
from transforms.capture.tables import CAPTURE_BLOCKS, CAPTURE_FILES, PACKETS
from transforms.pii.siv import has_live_key
from transforms.tables import arrived_in


@dataclass
class Totals:
    """Packets by where they are counted, and what is wrong with their tokens."""

    read: int = 0
    stored: int = 0
    refused: int = 0
    in_blocks: int = 0
    rows: int = 0
    hours: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def balances(self) -> bool:
        """Whether nothing was lost; a packet between two known devices is stored for both."""
        return self.stored == self.in_blocks == self.rows and self.stored + self.refused >= self.read

    def numbers(self) -> dict[str, int | str]:
        """Give the counts as the catalog shows them."""
        return {
            "packets read": self.read,
            "stored, by the files": self.stored,
            "stored, by the blocks": self.in_blocks,
            "rows": self.rows,
            "refused": self.refused,
        }


def add_up(tables: Tables, keys: TenantKeys, totals: Totals, wanted: pl.Expr) -> None:
    """Add a tenant's packets of some batches, or of an arrival hour, to the totals."""
    tenant = keys.tenant
    if not tables.exists(tenant, CAPTURE_FILES.key):
        return
    with tables.reading(tenant, CAPTURE_FILES.key) as files:
        counts = (
            files.filter(wanted).select(pl.col("packets", "packets_stored", "packets_refused").sum()).collect()
        )
        read, stored, refused = counts.row(0)
        totals.read, totals.stored, totals.refused = (
            totals.read + read,
            totals.stored + stored,
            totals.refused + refused,
        )
    if tables.exists(tenant, CAPTURE_BLOCKS.key):
        with tables.reading(tenant, CAPTURE_BLOCKS.key) as blocks:
            totals.in_blocks += int(
                blocks.filter(wanted).select(pl.col("packets").cast(pl.Int64).sum()).collect().item()
            )
    if tables.exists(tenant, PACKETS.key):
        with tables.reading(tenant, PACKETS.key) as packets:
            _look_at_rows(packets.filter(wanted), keys, totals)


def _look_at_rows(packets: pl.LazyFrame, keys: TenantKeys, totals: Totals) -> None:
    """Count rows by packet hour, and check each distinct token."""
    hours = packets.group_by("packet_hour").agg(pl.len().alias("rows")).collect()
    totals.hours.update(dict(hours.iter_rows()))
    totals.rows += int(hours["rows"].sum())
    for one in PACKETS.columns:
        if one.domain is not None:
            tokens = packets.select(pl.col(one.name).unique()).collect()[one.name].drop_nulls()
            if not has_live_key(tokens, set(keys.live_token_keys(one.domain))).all():
                totals.unreadable.append(one.name)


def of_batches(batches: Sequence[str], hour: datetime) -> pl.Expr:
    """Select rows of some batches; where none are named, of an arrival hour."""
    if batches:
        return pl.col("batch_id").is_in(list(batches))
    return arrived_in(hour)
