"""Runs in this process: the same jobs that the sensor starts, recorded in the home's Dagster storage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stores.locks import exclusive
from transforms.errors import LockhouseError, RunFailedError

if TYPE_CHECKING:
    from dagster import DagsterInstance, ExecuteInProcessResult, JobDefinition
    from dagster_shared.error import SerializableErrorInfo

    from orchestration.resources import Platform
    from stores.landing import Batch


@dataclass
class RunReport:
    """What runs came to: each check by asset, and whether it passed."""

    checks: dict[str, bool] = field(default_factory=dict)


def materialise(platform: Platform, source: str, batches: Sequence[Batch]) -> RunReport:
    """Run a source's job for batches, an hour at a time, as the sensor would.

    Raises: RunFailedError where a step failed; the batches stay, and the next call takes them again.
    """
    from orchestration.definitions import defs
    from orchestration.jobs import INGEST

    report = RunReport()
    job = defs.resolve_job_def(INGEST[source].name)
    with _opened_instance(platform) as instance:
        for hour, ids in _by_hour(batches).items():
            _run_once(job, instance, source, hour, ids, report)
    return report


def _opened_instance(platform: Platform) -> DagsterInstance:
    """Open Dagster's storage; one at a time, since two that make it at once get in each other's way."""
    from dagster import DagsterInstance

    with exclusive(platform.home.locks / "dagster.lock"):
        return DagsterInstance.get()


def _by_hour(batches: Sequence[Batch]) -> dict[str, list[str]]:
    from assets.partitions import hour_key

    hours: dict[str, list[str]] = defaultdict(list)
    for batch in batches:
        hours[hour_key(batch.received_at)].append(batch.id)
    return hours


def _run_once(
    job: JobDefinition, instance: DagsterInstance, source: str, hour: str, ids: list[str], report: RunReport
) -> None:
    from orchestration.jobs import batches_config

    result = job.execute_in_process(
        instance=instance,
        partition_key=hour,
        # The runs' own log is in Dagster; a person here is told the result.
        run_config={
            **batches_config(source, ids),
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )
    for check in result.get_asset_check_evaluations():
        name = f"{'.'.join(check.asset_key.path)}: {check.check_name}"
        report.checks[name] = report.checks.get(name, True) and check.passed
    if not result.success:
        raise RunFailedError(_failure(result))


def _failure(result: ExecuteInProcessResult) -> str:
    """Say which steps failed and why: our own errors in full, of any other only the kind."""
    failed = {
        event.step_key: event.step_failure_data.error for event in result.all_events if event.is_step_failure
    }
    listed = "; ".join(f"{step}: {_reason(error)}" for step, error in failed.items())
    return (
        f"run {result.run_id} failed in {listed or 'its first moments'}; its batches are kept for the next run"
    )


def _reason(error: SerializableErrorInfo | None) -> str:
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "for an unknown reason"
    ours = {one.__name__ for one in _tree(LockhouseError)}
    # Dagster writes `module.Kind: message`; our messages never hold a value, others may.
    return error.message.strip().partition(": ")[2] if error.cls_name in ours else str(error.cls_name)


def _tree(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def forget_exports(platform: Platform) -> int:
    """Let Dagster forget the exports that erasures took: partitions and the runs that made them."""
    from stores.outbox import FORGET

    waiting = platform.outbox.waiting(FORGET)
    if not waiting:
        return 0
    from orchestration.forgetting import forget_partition

    with _opened_instance(platform) as instance:
        for one in waiting:
            forget_partition(instance, one.parameters["device"], one.parameters["hour"])
            platform.outbox.close(one.id)
    return len(waiting)
