"""The curated marts of a tenant: which dates a write has touched, and their rebuild by dbt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import polars as pl

from stores.dbt_runs import DbtOutcome, build
from stores.tables import Tables
from transforms.capture.tables import PACKETS

ZONE = "curated"


class Marts:
    """Builds the marts. One build of a tenant runs at a time."""

    def __init__(self, tables: Tables, lake: Path, target: Path, settings: dict[str, int]) -> None:
        """Remember the lake, and where dbt may write what it needs while it runs."""
        self._tables, self._lake, self._target, self._settings = tables, lake, target, settings

    def rebuild(self, tenant: str, subject: str, dates: Sequence[date], mark: str) -> DbtOutcome:
        """Replace the given dates in every mart of a tenant and subject, such as `logins`.

        Every date where none is given. `mark` goes into the tables' history. A mart that does not fit
        its contract, or a test that fails, is in the outcome.
        """
        with self._tables.writing_zone(tenant, ZONE):
            return build(
                tenant, self._lake, dates, self._target, mark, marts_of(subject), settings=self._settings
            )

    def packet_dates(self, tenant: str, batches: Sequence[str], hour: datetime) -> list[date]:
        """Give the UTC dates of the packets that arrived in an hour, in order; only of some batches, if named.

        Packets are not read, only their hours.
        """
        if not self._tables.exists(tenant, PACKETS.key):
            return []
        arrived = (pl.col("received_date") == hour.date()) & (pl.col("received_hour") == hour)
        if batches:
            arrived &= pl.col("batch_id").is_in(list(batches))
        with self._tables.reading(tenant, PACKETS.key) as table:
            hours = table.filter(arrived).select(pl.col("packet_hour").unique()).collect(engine="streaming")
        dates: list[date] = hours["packet_hour"].str.slice(0, 10).str.to_date().unique().sort().to_list()
        return dates


def marts_of(subject: str) -> str:
    """Name a subject's marts as dbt selects them.

    >>> marts_of("logins")
    'fqn:lockhouse.marts.logins.*'
    """
    return f"fqn:lockhouse.marts.{subject}.*"
