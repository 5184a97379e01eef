"""What Dagster forgets when an erasure took a kept export: its partitions, and the runs that made it."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from assets.partitions import DEVICES, PACKET_HOURS, device_hour_key
from orchestration.jobs import EXPORT_CAPTURE


def forget_partition(instance: dg.DagsterInstance, device_ref: str, hour: str) -> int:
    """Delete the runs of a device and hour, then the parts of its partition that no other run needs.

    Gives how many runs went. Doing it twice changes nothing.
    """
    made = instance.get_runs(dg.RunsFilter(job_name=EXPORT_CAPTURE.name))
    key = str(device_hour_key(device_ref, hour))
    gone = [run for run in made if _partition_of(run) == key]
    for run in gone:
        instance.delete_run(run.run_id)
    left = {_partition_of(run) for run in made if run not in gone}
    parts = ((DEVICES, device_ref, 0), (PACKET_HOURS, hour, 1))
    for definition, part, at in parts:
        if not _is_needed(left, part, at) and definition.name is not None:
            instance.delete_dynamic_partition(definition.name, part)
    return len(gone)


def _partition_of(run: dg.DagsterRun) -> str:
    parts = (run.tags.get(f"dagster/partition/{name}", "") for name in ("device", "hour"))
    return run.tags.get("dagster/partition") or "|".join(parts)


def _is_needed(partitions: set[str] | Sequence[str], part: str, at: int) -> bool:
    return any(one.split("|")[at : at + 1] == [part] for one in partitions)
