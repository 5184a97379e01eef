"""Sensors: files that landed become batches, batches become runs, failures are written down."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.batches import scrubbed
from assets.partitions import DEVICES, PACKET_HOURS, device_hour_key, hour_key
from orchestration.forgetting import forget_partition
from orchestration.jobs import EXPORT_CAPTURE, INGEST, batches_config, forget_validations
from stores.access import Access
from stores.audit import AuditTrail
from stores.landing import Batch, Landing
from stores.ledger import Ledger, State
from stores.outbox import EXPORT, FORGET, FORGET_VALIDATION, Outbox
from transforms.audit import Action, Outcome

# A dropped file has to hold its size for so long. Dagster itself looks every five seconds.
TICK_S = 1
# What lands while a run is under way is taken by the next one, all at once: a second run beside it would
# pay a run's start again, and wait for the same locks. It starts when the rows of the one before are masked,
# while the marts are still made. One that hangs is waited for no longer than this.
_WAITED_FOR = timedelta(minutes=3)
_MOST_RUNS = 2
# A batch whose run failed is asked for again after a while, each time later; the last waits an hour.
_PATIENCE = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=20), timedelta(hours=1))


def _landing_sensor(source: str, described: str, *, is_dropped: bool = True) -> dg.SensorDefinition:
    """Make a source's sensor: it turns landed files into runs; its cursor holds batch ids, nothing else.

    Batches of a source whose files nobody drops are claimed already.
    """

    @dg.sensor(
        name=f"landing_{source}",
        job=INGEST[source],
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Claims {described} that landed, and asks for one run for all batches of an hour.",
    )
    def landed(
        context: dg.SensorEvaluationContext,
        landing: dg.ResourceParam[Landing],
        access: dg.ResourceParam[Access],
        ledger: dg.ResourceParam[Ledger],
    ) -> dg.SensorResult:
        # An error of the file system names the file.
        with scrubbed():
            landing.recover()
            if is_dropped:
                _claim(source, landing, set(access.tenants()))
            batches = landing.open_batches(source)
        asked = json.loads(context.cursor or "{}")
        running = _running(source, context.instance, datetime.now(UTC))
        due = [] if _is_busy(running, ledger) else _due(batches, asked, running, datetime.now(UTC))
        return dg.SensorResult(
            run_requests=list(_requests(source, due)),
            cursor=json.dumps(_remember(batches, asked, due, datetime.now(UTC))),
            skip_reason=None if due else dg.SkipReason(f"{len(batches)} batches under way, nothing new"),
        )

    return landed


landing_logins = _landing_sensor("logins", "files of login events")
landing_captures = _landing_sensor("captures", "capture files")
# Analytics lands batches that are claimed already.
landing_validations = _landing_sensor("validations", "decided validations", is_dropped=False)


@dg.sensor(
    # By its name: Dagster copies a sensor whose job it binds resources to, and warns of its own copying.
    job_name=forget_validations.name,
    minimum_interval_seconds=TICK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for one run for all deleted validations that the lake still has.",
)
def deleted_validations(
    context: dg.SensorEvaluationContext, outbox: dg.ResourceParam[Outbox], landing: dg.ResourceParam[Landing]
) -> dg.SensorResult | dg.SkipReason:
    """Wait until no batch is on its way, which could bring such a row; one run at a time does all."""
    with scrubbed():
        waiting, coming = outbox.waiting(FORGET_VALIDATION), landing.open_batches("validations")
    if not waiting or coming:
        return dg.SkipReason("nothing is deleted, or batches are on their way")
    # The same requests do not run twice at once; what failed is asked for again a minute later.
    minute = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"{waiting[-1].id}/{minute}")])


@dg.sensor(
    job=EXPORT_CAPTURE,
    minimum_interval_seconds=TICK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns granted requests for capture files into runs, a partition for each device and hour.",
)
def capture_requests(
    context: dg.SensorEvaluationContext, outbox: dg.ResourceParam[Outbox]
) -> dg.SensorResult | dg.SkipReason:
    """Look into the outbox; a request's id is its run's key, so that none runs twice. The run closes it."""
    with scrubbed():
        waiting = outbox.waiting(EXPORT)
    if not waiting:
        return dg.SkipReason("nobody asked")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=one.id,
                partition_key=device_hour_key(one.parameters["device"], one.parameters["hour"]),
                run_config={"ops": {"captures__pcap": {"config": {"tenant": one.tenant, "request": one.id}}}},
            )
            for one in waiting
        ],
        dynamic_partitions_requests=[
            DEVICES.build_add_request(sorted({one.parameters["device"] for one in waiting})),
            PACKET_HOURS.build_add_request(sorted({one.parameters["hour"] for one in waiting})),
        ],
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lets Dagster forget the kept exports that erasures took: partitions, and runs that made them.",
)
def forget_requests(context: dg.SensorEvaluationContext, outbox: dg.ResourceParam[Outbox]) -> dg.SkipReason:
    """Look into the outbox: whoever erased over HTTP knows no Dagster."""
    with scrubbed():
        waiting = outbox.waiting(FORGET)
        for one in waiting:
            forget_partition(context.instance, one.parameters["device"], one.parameters["hour"])
            outbox.close(one.id)
    return dg.SkipReason(f"{len(waiting)} kept exports forgotten")


def _claim(source: str, landing: Landing, tenants: set[str]) -> None:
    """Claim the files of registered tenants; one without keys would fail the run of all the others."""
    for (_, tenant), paths in landing.settled([source], TICK_S).items():
        if tenant in tenants:
            landing.claim(source, tenant, paths)


@dataclass(frozen=True)
class _Running:
    """The batches of all runs that have not ended; those of each run that is young enough to wait for."""

    batches: frozenset[str]
    young: tuple[tuple[str, ...], ...]


def _running(source: str, instance: dg.DagsterInstance, now: datetime) -> _Running:
    unfinished = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    chosen = dg.RunsFilter(job_name=INGEST[source].name, statuses=unfinished)
    records = instance.get_run_records(chosen, limit=100)
    batches = [(one, tuple(_batches_of(one.dagster_run.run_config))) for one in records]
    young = tuple(ids for one, ids in batches if ids and now - one.create_timestamp < _WAITED_FOR)
    return _Running(frozenset(batch for _, ids in batches for batch in ids), young)


def _is_busy(running: _Running, ledger: Ledger) -> bool:
    """Tell whether a further run would only be in the way."""
    known = [batch for ids in running.young for batch in ids]
    masked = {one["id"] for one in ledger.named(known) if one["state"] in (State.MASKED, State.DONE)}
    return len(running.young) >= _MOST_RUNS or not masked.issuperset(known)


def _batches_of(run_config: object) -> list[str]:
    steps = run_config.get("ops", {}).values() if isinstance(run_config, dict) else ()
    return [batch for step in steps for batch in step.get("config", {}).get("batches", [])]


def _due(
    batches: Iterable[Batch], asked: dict[str, list[str]], running: _Running, now: datetime
) -> list[Batch]:
    """Choose the batches to ask a run for: new ones, and those whose last run ended without them."""
    due = []
    for batch in batches:
        times = asked.get(batch.id, [])
        patience = _PATIENCE[min(len(times), len(_PATIENCE)) - 1] if times else timedelta(0)
        waited = not times or now - datetime.fromisoformat(times[-1]) >= patience
        if batch.id not in running.batches and waited:
            due.append(batch)
    return due


def _remember(
    batches: Iterable[Batch], asked: dict[str, list[str]], due: list[Batch], now: datetime
) -> dict[str, list[str]]:
    """Keep the times of open batches only, so that the cursor does not grow."""
    chosen = {batch.id for batch in due}
    return {
        batch.id: [*asked.get(batch.id, []), *([now.isoformat()] if batch.id in chosen else [])][-4:]
        for batch in batches
        if batch.id in chosen or batch.id in asked
    }


def _requests(source: str, batches: Iterable[Batch]) -> Iterable[dg.RunRequest]:
    hours: dict[str, list[str]] = defaultdict(list)
    for batch in batches:
        hours[hour_key(batch.received_at)].append(batch.id)
    for hour, ids in hours.items():
        # No run key: a batch that failed must be able to run again (its idempotency is the lake's).
        yield dg.RunRequest(partition_key=hour, run_config=batches_config(source, ids))


@dg.run_failure_sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes failed runs into the audit trail.",
)
def run_failures(context: dg.RunFailureSensorContext, audit: dg.ResourceParam[AuditTrail]) -> None:
    """Record a failed run: which job, never the error's text."""
    run = context.dagster_run
    audit.record("default", "dagster", Action.RUN_FAILED, Outcome.FAILED, job=run.job_name, run=run.run_id)
