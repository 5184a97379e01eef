"""The ledger: every batch with its state and counts, every delivered file by its keyed digest.

Each fact is written once under its own key, so that writing it again after a crash changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from stores.database import BATCHES, CHUNKS, DELIVERIES, Database
from stores.landing import Batch
from stores.receiver import segment_sent_at


class State(StrEnum):
    """How far a batch has come."""

    LANDED = "landed"
    SEALED = "sealed"
    MASKED = "masked"
    DONE = "done"


@dataclass(frozen=True)
class Counts:
    """What became of records: rows = accepted + quarantined + duplicates + refused."""

    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    refused: int = 0
    unknown: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Add two counts."""
        return Counts(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    @property
    def balances(self) -> bool:
        """Whether every record is accounted for."""
        return self.rows == self.accepted + self.quarantined + self.duplicates + self.refused


@dataclass(frozen=True)
class Delivery:
    """A delivered file: which batch and file brought it first, and how many records it had."""

    batch_id: str
    file: int
    rows: int


@dataclass(frozen=True)
class Pace:
    """How fast records come through: rows a minute, and the longest that a message took to its row.

    Units: `lag_s` in seconds from sent to queryable; None where nothing came from a queue.
    """

    rows_per_minute: float
    lag_s: float | None


class Ledger:
    """The batch and delivery tables of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock

    def enter(self, batch: Batch) -> State:
        """Write down a claimed batch, once; give its state."""
        with self._database.begin() as connection:
            found = connection.execute(sa.select(BATCHES.c.state).where(BATCHES.c.id == batch.id)).scalar()
            if found is None:
                connection.execute(BATCHES.insert().values(**self._entry(batch)))
            return State(found or State.LANDED)

    def add_chunk(self, batch_id: str, chunk: int, counts: Counts) -> None:
        """Write down what became of a chunk, once."""
        with self._database.begin() as connection:
            key = sa.and_(CHUNKS.c.batch_id == batch_id, CHUNKS.c.chunk == chunk)
            if connection.execute(sa.select(CHUNKS.c.rows).where(key)).first() is None:
                connection.execute(CHUNKS.insert().values(batch_id=batch_id, chunk=chunk, **asdict(counts)))

    def chunks(self, batch_id: str) -> list[int]:
        """Give the numbers of a batch's chunks that reached the raw table."""
        query = sa.select(CHUNKS.c.chunk).where(CHUNKS.c.batch_id == batch_id, CHUNKS.c.chunk >= 0)
        return [row["chunk"] for row in self._database.rows(query.order_by(CHUNKS.c.chunk))]

    def accept_fewer(self, batch_id: str, chunk: int, accepted: int) -> None:
        """Note that an erasure took records out of a chunk on its way: they count as refused."""
        key = sa.and_(CHUNKS.c.batch_id == batch_id, CHUNKS.c.chunk == chunk)
        others = CHUNKS.c.quarantined + CHUNKS.c.duplicates
        change = sa.update(CHUNKS).where(key, CHUNKS.c.accepted > accepted)
        with self._database.begin() as connection:
            connection.execute(change.values(accepted=accepted, refused=CHUNKS.c.rows - others - accepted))

    def accepted(self, batch_id: str, chunk: int) -> int | None:
        """Give how many records of a chunk were accepted, None where it is not written down."""
        query = sa.select(CHUNKS.c.accepted).where(CHUNKS.c.batch_id == batch_id, CHUNKS.c.chunk == chunk)
        rows = self._database.rows(query)
        return int(rows[0]["accepted"]) if rows else None

    def counts(self, batch_ids: Sequence[str]) -> Counts:
        """Add up what became of the records of some batches."""
        columns = [sa.func.coalesce(sa.func.sum(CHUNKS.c[name]), 0) for name in _NAMES]
        with self._database.begin() as connection:
            row = connection.execute(sa.select(*columns).where(CHUNKS.c.batch_id.in_(batch_ids))).one()
        return Counts(*(int(value) for value in row))

    def advance(self, batch_id: str, state: State) -> None:
        """Note how far a batch has come, with its sums."""
        counts = self.counts([batch_id])
        sums = {name: value for name, value in asdict(counts).items() if name in BATCHES.c}
        with self._database.begin() as connection:
            change = sa.update(BATCHES).where(BATCHES.c.id == batch_id)
            connection.execute(change.values(state=str(state), changed_at=self._now(), **sums))

    def state(self, batch_id: str) -> State | None:
        """Give a batch's state, None where it is unknown."""
        rows = self._database.rows(sa.select(BATCHES.c.state).where(BATCHES.c.id == batch_id))
        return State(rows[0]["state"]) if rows else None

    def batches(
        self, *states: State, source: str | None = None, tenant: str | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Give batches by state, the latest first."""
        query = sa.select(BATCHES).order_by(BATCHES.c.id.desc()).limit(limit)
        if states:
            query = query.where(BATCHES.c.state.in_([str(state) for state in states]))
        if source is not None:
            query = query.where(BATCHES.c.source == source)
        if tenant is not None:
            query = query.where(BATCHES.c.tenant == tenant)
        return self._database.rows(query)

    def unmasked(self, source: str, tenant: str) -> set[str]:
        """Give the ids of batches whose masked rows are not all committed."""
        waiting = BATCHES.c.state.in_([str(State.LANDED), str(State.SEALED)])
        query = sa.select(BATCHES.c.id).where(BATCHES.c.source == source, BATCHES.c.tenant == tenant, waiting)
        return {row["id"] for row in self._database.rows(query)}

    def named(self, batch_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Give batches by their ids, the oldest first."""
        query = sa.select(BATCHES).where(BATCHES.c.id.in_(list(batch_ids))).order_by(BATCHES.c.id)
        return self._database.rows(query)

    def unpublished(self, source: str, limit: int = 10_000) -> list[dict[str, Any]]:
        """Give masked batches whose rows are not in the served table yet, the oldest first."""
        states = [str(State.MASKED), str(State.DONE)]
        query = sa.select(BATCHES).where(
            BATCHES.c.source == source, BATCHES.c.state.in_(states), BATCHES.c.published_at.is_(None)
        )
        return self._database.rows(query.order_by(BATCHES.c.id).limit(limit))

    def mark_published(self, batch_ids: Sequence[str]) -> None:
        """Note that the rows of batches are in the served table."""
        with self._database.begin() as connection:
            change = sa.update(BATCHES).where(BATCHES.c.id.in_(list(batch_ids)))
            connection.execute(change.values(published_at=self._now()))

    def lag(self, batch_ids: Sequence[str]) -> float | None:
        """Tell how long ago the oldest message of some batches was sent; None where none came from a queue."""
        now = self._clock().isoformat()
        lags = [_seconds_between(one["sent_at"], now) for one in self.named(batch_ids) if one["sent_at"]]
        return max(lags, default=None)

    def pace(self, source: str, tenant: str, since: datetime) -> Pace:
        """Tell how fast a tenant's records of a source came through since a moment."""
        query = sa.select(BATCHES.c.accepted, BATCHES.c.sent_at, BATCHES.c.changed_at).where(
            BATCHES.c.source == source,
            BATCHES.c.tenant == tenant,
            BATCHES.c.state.in_([str(State.MASKED), str(State.DONE)]),
            BATCHES.c.changed_at >= since.isoformat(timespec="seconds"),
        )
        rows = self._database.rows(query)
        lags = [_seconds_between(row["sent_at"], row["changed_at"]) for row in rows if row["sent_at"]]
        minutes = max((self._clock() - since).total_seconds() / 60, 1 / 60)
        return Pace(round(sum(row["accepted"] for row in rows) / minutes, 1), max(lags, default=None))

    def deliver(self, batch: Batch, digests: Mapping[int, bytes]) -> dict[int, Delivery]:
        """Write down delivered files by their numbers in the batch, each once; give who brought them first."""
        key = DELIVERIES.c.tenant == batch.tenant, DELIVERIES.c.source == batch.source
        names = [DELIVERIES.c[name] for name in ("digest", "batch_id", "file", "rows")]
        query = sa.select(*names).where(*key, DELIVERIES.c.digest.in_(list(digests.values())))
        place = {"tenant": batch.tenant, "source": batch.source}
        with self._database.begin() as connection:
            rows = connection.execute(query)
            found = {row.digest: Delivery(row.batch_id, row.file, row.rows) for row in rows}
            fresh: dict[bytes, Delivery] = {}
            for number, digest in digests.items():
                if digest not in found:
                    fresh.setdefault(digest, Delivery(batch.id, number, 0))
            if fresh:
                entries = [{**place, "digest": digest, **asdict(one)} for digest, one in fresh.items()]
                connection.execute(DELIVERIES.insert(), entries)
        known = found | fresh
        return {number: known[digest] for number, digest in digests.items()}

    def count_deliveries(self, batch_id: str, rows: Mapping[int, int]) -> None:
        """Note how many records delivered files had, by their numbers in the batch."""
        if not rows:
            return
        place = DELIVERIES.c.batch_id == batch_id, DELIVERIES.c.file == sa.bindparam("number")
        change = sa.update(DELIVERIES).where(*place).values(rows=sa.bindparam("count"))
        with self._database.begin() as connection:
            connection.execute(change, [{"number": number, "count": count} for number, count in rows.items()])

    def _entry(self, batch: Batch) -> dict[str, Any]:
        return {
            "id": batch.id,
            "source": batch.source,
            "tenant": batch.tenant,
            "received_at": batch.received_at.isoformat(),
            "state": str(State.LANDED),
            "files": len(batch.names),
            "size_bytes": batch.size_bytes,
            "changed_at": self._now(),
            "sent_at": _sent_at(batch),
        }

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")


_NAMES = ("rows", "accepted", "quarantined", "duplicates", "refused", "unknown")


def _sent_at(batch: Batch) -> str | None:
    """Tell when the oldest message of a batch was sent; its segments' names say so."""
    moments = [sent for name in batch.names if (sent := segment_sent_at(name)) is not None]
    return datetime.fromtimestamp(min(moments), UTC).isoformat() if moments else None


def _seconds_between(start: str, end: str) -> float:
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    return round(max(0.0, seconds), 1)


def _values(counts: Counts) -> tuple[int, ...]:
    return tuple(getattr(counts, name) for name in _NAMES)
