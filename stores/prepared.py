"""Rows of sealed chunks that lie in files of their table already: masking only has to commit them.

They are made while the records are in clear and near the processor, so that nothing in clear is kept
from one step to the next. What is known of them is this process's: another one that takes over makes
the rows again, from raw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stores.landing import Batch
from stores.sealing import Sealer
from stores.tables import Prepared, Tables
from transforms.tables import TableSpec

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True)
class _Known:
    """What the rows were made under: who had been erased, and which epochs' tokens there were."""

    erasures: int
    epochs: tuple[int, ...]


class PreparedRows:
    """Keeps which chunks were prepared, until each is taken once."""

    def __init__(self, tables: Tables) -> None:
        """Begin with none."""
        self._tables = tables
        self._rows: dict[tuple[str, int], tuple[Prepared, _Known]] = {}

    def prepare(
        self, batch: Batch, chunk: int, spec: TableSpec, rows: pl.DataFrame | pa.Table, sealer: Sealer
    ) -> None:
        """Write a chunk's rows as files. The tenant's lock is held: no erasure, no rotation comes between.

        Raises: TableError where the rows do not fit the table.
        """
        written = self._tables.prepare(batch.tenant, spec, rows)
        self._rows[batch.id, chunk] = written, _known(sealer)

    def take(self, batch: Batch, chunk: int, spec: TableSpec, sealer: Sealer) -> Prepared | None:
        """Take what was prepared of a chunk; None where an erasure, a rotation or a vacuum outdated it."""
        rows, known = self._rows.pop((batch.id, chunk), (None, None))
        if rows is None or known != _known(sealer):
            return None
        return rows if self._tables.are_there(batch.tenant, spec.key, rows) else None


def _known(sealer: Sealer) -> _Known:
    return _Known(sealer.subjects.erasures(), sealer.keys.epochs())
