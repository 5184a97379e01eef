"""How assets are partitioned: by the hour in which records arrived, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

# The current hour is a partition too: records arrive in it.
HOURS = dg.HourlyPartitionsDefinition(start_date="2026-01-01-00:00", end_offset=1)

# An export's device (by its pseudonym) and packet hour; both come to be when one is asked for, since
# a clock may stand in 1970 or 2030.
DEVICES = dg.DynamicPartitionsDefinition(name="capture_devices")
PACKET_HOURS = dg.DynamicPartitionsDefinition(name="capture_hours")
DEVICE_HOURS = dg.MultiPartitionsDefinition({"device": DEVICES, "hour": PACKET_HOURS})


def device_hour_key(device_ref: str, hour: str) -> dg.MultiPartitionKey:
    """Give the partition of a device and hour."""
    return dg.MultiPartitionKey({"device": device_ref, "hour": hour})


def device_hour_of(key: str) -> tuple[str, str]:
    """Give the device and hour of a partition.

    >>> device_hour_of("00ff|2026-11-21T07")
    ('00ff', '2026-11-21T07')
    """
    device_ref, _, hour = str(key).partition("|")
    return device_ref, hour


def hour_key(moment: datetime) -> str:
    """Give the partition of a moment.

    >>> hour_key(datetime(2026, 11, 21, 7, 59, tzinfo=UTC))
    '2026-11-21-07:00'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d-%H:00")


def hour_start(key: str) -> datetime:
    """Give the moment at which a partition begins."""
    return datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
