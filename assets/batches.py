"""What the assets of every row-shaped source share: batches in, rows counted, results out.

A run is told which batches to take. Without any, it makes its hour anew: raw verifies what is
there (landing is gone), masked is rebuilt from raw exactly.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
from pydantic import Field

from assets.catalog import materialisation
from assets.partitions import hour_start
from stores.erasure_plan import subject_column
from stores.flow import Flow
from stores.intake import Intake
from stores.ledger import Counts, Ledger
from stores.tables import Commit, TableInfo, Tables
from transforms.errors import LockhouseError, QueueError, UnexpectedError
from transforms.pii.contracts import Contract
from transforms.pii.guard import count_alone, quasi_identifiers
from transforms.tables import TableSpec, arrived_in, masked_table, quarantine_table, raw_table

RETRY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
# One hour a run: a run's batches belong to one hour.
ONE_HOUR = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26), warn_window=timedelta(hours=25))


class Batches(dg.Config):
    """The batches that a run takes, by id; no file name ever reaches a run."""

    batches: list[str] = Field(default_factory=list)


@contextmanager
def scrubbed() -> Iterator[None]:
    """Keep the text of a library's error out of Dagster's storage: it may quote a value.

    Our own errors never do, and pass without what caused them.
    """
    try:
        yield
    except LockhouseError as error:
        raise error from None
    except (dg.DagsterError, GeneratorExit):
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        raise UnexpectedError(f"{type(error).__name__} at {where}") from None


def seal_batches(
    intake: Intake, tables: Tables, contract: Contract, batches: Sequence[str], hour: str
) -> Iterator[dg.MaterializeResult[None]]:
    """Seal batches and report on the raw table and the quarantine."""
    counts = sum((intake.seal_batch(batch, contract) for batch in batches), Counts())
    raw, quarantine = raw_table(contract), quarantine_table(contract)
    accepted = counts.accepted if batches else rows_of_hour(tables, raw, hour)
    yield _result(tables, raw, accepted, counts)
    yield _result(tables, quarantine, counts.quarantined, counts)


def mask_batches(
    intake: Intake, tables: Tables, contract: Contract, batches: Sequence[str], run_id: str, hour: str
) -> int:
    """Mask sealed batches, or a whole hour where none are named; give how many rows that made."""
    if batches:
        return sum(intake.mask_batch(batch, contract) for batch in batches)
    start = hour_start(hour)
    commit = Commit(f"remask/{run_id}", int(start.timestamp() * 1000), {"run": run_id})
    tenants = [tenant for tenant in tables.tenants() if tables.exists(tenant, raw_table(contract).key)]
    return sum(intake.remask(tenant, contract, start, commit) for tenant in tenants)


def masked_result(
    tables: Tables, contract: Contract, rows: int, frame: pl.DataFrame
) -> dict[str, dg.MetadataValue]:
    """Describe a masked write: a plot of the rows by their hour, and who could be singled out in it."""
    spec = masked_table(contract)
    hours = Counter(f"{at:%m-%d %H:00}" for at in frame["event_hour"])
    told = materialisation(spec.key, rows, listing(tables), dict(sorted(hours.items())))
    subject, coarse = subject_column(contract), quasi_identifiers(spec)
    if subject in frame.columns:
        told["people"] = dg.MetadataValue.int(frame[subject].n_unique())
        told["people alone in their readable values"] = dg.MetadataValue.int(
            count_alone(frame, subject, coarse)
        )
        told["readable values looked at together"] = dg.MetadataValue.text(", ".join(coarse))
    return told


def flow_result(
    flow: Callable[[str, str], Flow], ledger: Ledger, batches: Sequence[str]
) -> dict[str, dg.MetadataValue]:
    """Describe the way of a run's messages, and what comes behind them; nothing where files were taken."""
    lag = ledger.lag(batches)
    if lag is None:
        return {}
    told: dict[str, dg.MetadataValue] = {"seconds from sent to queryable": dg.MetadataValue.float(lag)}
    try:
        found = [
            flow(*scope).measure()
            for scope in sorted({(one["source"], one["tenant"]) for one in ledger.named(batches)})
        ]
    except QueueError:
        # It is said, and the rows are good all the same.
        return {**told, "the queue": dg.MetadataValue.text("does not answer")}
    ages = [one.depth.oldest_s for one in found if one.depth.oldest_s is not None]
    return {
        **told,
        "rows a minute": dg.MetadataValue.float(sum(one.rows_per_minute for one in found)),
        "messages that wait": dg.MetadataValue.int(sum(one.depth.visible for one in found)),
        "dead letters": dg.MetadataValue.int(sum(one.depth.dead for one in found)),
        "staged bytes": dg.MetadataValue.int(max(one.staged.size_bytes for one in found)),
        **({"age of the oldest message, s": dg.MetadataValue.float(round(max(ages), 1))} if ages else {}),
    }


def masked_rows(
    tables: Tables, ledger: Ledger, contract: Contract, batches: Sequence[str], hour: str
) -> pl.DataFrame:
    """Read the masked rows that a run is about, over all its tenants."""
    spec = masked_table(contract)
    start = hour_start(hour)
    wanted = (pl.col("received_date") == start.date()) & (pl.col("received_hour") == start)
    if batches:
        wanted &= pl.col("batch_id").is_in(list(batches))
    frames = []
    for tenant in _tenants_of(tables, ledger, batches):
        if tables.exists(tenant, spec.key):
            with tables.reading(tenant, spec.key) as table:
                frames.append(table.filter(wanted).collect())
    empty = pl.DataFrame(spec.schema.empty_table())
    return pl.concat(frames, how="vertical_relaxed") if frames else empty


def counts_in(ledger: Ledger, batches: Sequence[str], made: int) -> Counts:
    """Give what came in: by the ledger for batches, as many as raw holds for a whole hour."""
    return ledger.counts(batches) if batches else Counts(rows=made, accepted=made)


def _tenants_of(tables: Tables, ledger: Ledger, batches: Sequence[str]) -> Iterable[str]:
    if not batches:
        return tables.tenants()
    return {row["tenant"] for row in ledger.named(batches)}


def rows_of_hour(tables: Tables, spec: TableSpec, hour: str) -> int:
    """Count a table's rows of one arrival hour over all tenants."""
    wanted, rows = arrived_in(hour_start(hour)), 0
    for tenant in tables.tenants():
        if tables.exists(tenant, spec.key):
            with tables.reading(tenant, spec.key) as table:
                rows += int(table.filter(wanted).select(pl.len()).collect().item())
    return rows


def listing(tables: Tables) -> list[TableInfo]:
    """Describe every table of every tenant."""
    return [info for tenant in tables.tenants() for info in tables.listing(tenant)]


def _result(tables: Tables, spec: TableSpec, rows: int, counts: Counts) -> dg.MaterializeResult[None]:
    metadata = materialisation(spec.key, rows, listing(tables))
    metadata["records"] = dg.MetadataValue.json(
        {
            "in": counts.rows,
            "accepted": counts.accepted,
            "quarantined": counts.quarantined,
            "duplicates": counts.duplicates,
            "refused": counts.refused,
            "with undeclared fields": counts.unknown,
        }
    )
    return dg.MaterializeResult(asset_key=spec.key.split("."), metadata=metadata)
