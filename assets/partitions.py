"""How assets are partitioned: by the hour in which records arrived, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

# The current hour is a partition too: records arrive in it.
HOURS = dg.HourlyPartitionsDefinition(start_date="2026-01-01-00:00", end_offset=1)


def hour_key(moment: datetime) -> str:
    """Give the partition of a moment.

    >>> hour_key(datetime(2026, 11, 21, 7, 59, tzinfo=UTC))
    '2026-11-21-07:00'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d-%H:00")


def hour_start(key: str) -> datetime:
    """Give the moment at which a partition begins."""
    return datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
