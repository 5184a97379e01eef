"""The steps of a batch, whatever its source: sealed, then its readable files go, then masked, then done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl

from stores.home import Home
from stores.landing import Batch, Landing
from stores.ledger import Counts, Ledger, State
from stores.locks import exclusive, shared
from stores.tables import Commit


class BatchSteps:
    """Takes batches from step to step; each step is done once, however often it is asked for."""

    def __init__(self, home: Home, landing: Landing, ledger: Ledger) -> None:
        """Remember the stores; nothing is opened yet."""
        self._home, self._landing, self._ledger = home, landing, ledger

    def seal(self, batch_id: str, seal: Callable[[Batch], None]) -> Counts:
        """Seal a batch that is not sealed yet, delete its readable files, give what became of it.

        Raises: BusyError where an erasure holds the tenant.
        """
        batch = self._landing.batch(batch_id)
        if batch is not None:
            with self.holding(batch.tenant, batch.source):
                if self._ledger.enter(batch) is State.LANDED:
                    seal(batch)
                    self._ledger.advance(batch.id, State.SEALED)
                self._landing.discard_files(batch)
        return self._ledger.counts([batch_id])

    def mask(self, batch_id: str, mask_chunk: Callable[[Batch, int], int]) -> int:
        """Mask the chunks of a sealed batch; gives how many rows there are."""
        batch = self._landing.batch(batch_id)
        if batch is None:
            return self._ledger.counts([batch_id]).accepted
        with self.holding(batch.tenant, batch.source):
            rows = sum(mask_chunk(batch, chunk) for chunk in self._ledger.chunks(batch_id))
            if self._ledger.state(batch_id) is State.SEALED:
                self._ledger.advance(batch_id, State.MASKED)
        return rows

    def finish(self, batch_id: str) -> None:
        """Note that a batch has reached every table that is made of it."""
        batch = self._landing.batch(batch_id)
        if batch is not None:
            self._ledger.advance(batch_id, State.DONE)
            self._landing.close(batch)

    def covering(self, commit: Commit, tenant: str, source: str, masked: pl.DataFrame, now: datetime) -> Commit:
        """Give a commit that also stands for those chunks of masked rows that are still to be masked.

        An hour that is masked again has their rows; masking them afterwards would double each.
        """
        waiting = self._ledger.unmasked(source, tenant)
        chunks = masked.select("batch_id", "chunk").unique().iter_rows()
        covers = [_commit_id(source, batch, chunk) for batch, chunk in chunks if batch in waiting]
        # A table forgets its writes by their time, and an hour that is masked again may be old.
        return replace(commit, written_at_ms=_ms(now), covers=tuple(covers))

    @contextmanager
    def holding(self, tenant: str, source: str) -> Iterator[None]:
        """Share the tenant with other batches, hold the source alone: duplicates are found one by one."""
        with ExitStack() as stack:
            stack.enter_context(shared(self._home.tenant_lock(tenant)))
            stack.enter_context(exclusive(self._lock(tenant, source)))
            yield

    def _lock(self, tenant: str, source: str) -> Path:
        return self._home.locks / tenant / f"{source}.intake.lock"


def commit_of(batch: Batch, chunk: int, now: datetime) -> Commit:
    """Name a chunk's commit."""
    marks = {"batch": batch.id, "chunk": str(chunk)}
    return Commit(_commit_id(batch.source, batch.id, chunk), _ms(now), marks)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _commit_id(source: str, batch_id: str, chunk: int) -> str:
    return f"{source}/{batch_id}/{chunk}"
