"""Intake: a claimed batch becomes sealed rows of `raw`, quarantine entries, and masked rows.

The order of a chunk is: subject keys on disk, quarantine, raw, ledger, files of masked rows; then the
batch's readable files go; then the masked rows are committed. Every step is done once however often it
is repeated, so that a process may be killed anywhere and another may take over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from stores.batch_steps import BatchSteps, commit_of
from stores.home import Home, blake3_of
from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.landing import Batch, Landing
from stores.ledger import Counts, Ledger
from stores.prepared import PreparedRows
from stores.quarantine import Quarantine
from stores.sealing import Sealer
from stores.seen import Arrival, SeenEvents
from stores.subjects import BatchSubjects
from stores.tables import Commit, Prepared, Tables
from stores.vault import Vault, vault_fields
from transforms.chunks import Chunk, cut_chunks
from transforms.coding import Coded, constant, distinct_of
from transforms.errors import TableError
from transforms.parsing import ROW, UNKNOWN, parse_records
from transforms.pii.contracts import Contract
from transforms.pii.envelope import Octets
from transforms.pii.identities import (
    delivery_digest,
    each_id,
    named_event_ids,
    numbered_event_ids,
    runs_of,
    uuid_bytes,
    uuid_rows,
    uuid_texts,
)
from transforms.pii.masking import as_text, mask_records, place_in_time
from transforms.records import Piece, read_records
from transforms.tables import (
    arrived_in,
    arrived_in_text,
    masked_table,
    quarantine_table,
    raw_table,
    with_arrival,
)


@dataclass(frozen=True)
class _Read:
    """Records that were read together, in clear, in memory only: a row for each, in the order of reading.

    Shape: `fields` has the contract's in canonical form, and `_unknown`; `ids` has 16 bytes a row.
    """

    fields: Mapping[str, Coded]
    ids: Octets


@dataclass(frozen=True)
class _Opened:
    """The good ones of records that were read, with what places them.

    Shape of `frame`: `_row` (the place among those that were read), `subject_ref`, `received_at`, `taken_at`,
    `batch_id`, `chunk`.
    """

    frame: pl.DataFrame
    read: _Read
    subject_keys: Mapping[bytes, bytes]

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Give the place of each row of `frame` among those that were read."""
        return self.frame[ROW].to_numpy()

    @cached_property
    def event_ids(self) -> Octets:
        """Give the id of each row of `frame`: 16 bytes."""
        return self.read.ids[self.rows]

    @cached_property
    def event_texts(self) -> pa.Array[Any]:
        """Give the id of each row of `frame`, as tables have it."""
        return uuid_texts(self.event_ids)

    @cached_property
    def columns(self) -> Mapping[str, Coded]:
        """Give the fields, each with a row for each of `frame`."""
        return {name: column.take(self.rows) for name, column in self.read.fields.items()}


class Intake:
    """Takes batches of one source from landing to the lake."""

    def __init__(
        self,
        home: Home,
        provider: KeyProvider,
        landing: Landing,
        ledger: Ledger,
        tables: Tables,
        window_days: int,
        clock: Callable[[], datetime],
    ) -> None:
        """Remember the stores; nothing is opened yet."""
        self._home, self._provider = home, provider
        self._ledger, self._tables = ledger, tables
        self._steps = BatchSteps(home, landing, ledger)
        self._window_days, self._clock = window_days, clock
        self._prepared = PreparedRows(tables)

    def sealer(self, tenant: str) -> Sealer:
        """Give the tenant's sealer."""
        return Sealer.of(tenant, self._provider, self._home.keys)

    def vault(self, tenant: str) -> Vault:
        """Give the tenant's vault."""
        return Vault(self._home, self._tables, self.sealer(tenant))

    def seal_batch(self, batch_id: str, contract: Contract) -> Counts:
        """Seal a batch's records into `raw` and `quarantine`, then delete its readable files.

        Raises: BusyError where an erasure holds the tenant.
        """
        return self._steps.seal(batch_id, lambda batch: self._seal(batch, contract))

    def mask_batch(self, batch_id: str, contract: Contract) -> int:
        """Write the masked rows of a sealed batch; gives how many there are."""
        return self._steps.mask(batch_id, lambda batch, chunk: self._mask_chunk(batch, chunk, contract))

    def finish_batch(self, batch_id: str) -> None:
        """Note that a batch has reached every table that is made of it."""
        self._steps.finish(batch_id)

    def remask(self, tenant: str, contract: Contract, start: datetime, commit: Commit) -> int:
        """Make the masked rows of one arrival hour anew from raw, exactly; gives how many."""
        spec, sealer = masked_table(contract), self.sealer(tenant)
        with self._steps.holding(tenant, contract.source):
            opened = self._open_raw(contract, sealer, arrived_in(start))
            # deltalake takes texts, not dictionaries of them.
            rows = spec.conform(self._masked(contract, sealer, opened, commit)).cast(spec.schema)
            masked = pl.DataFrame(rows)
            commit = self._steps.covering(commit, tenant, contract.source, masked, self._clock())
            return self._tables.replace(tenant, spec, masked, arrived_in_text(start), commit).rows

    def _seal(self, batch: Batch, contract: Contract) -> None:
        deliveries: dict[int, bytes] = {}
        sealer = self.sealer(batch.tenant)
        domain, ref_key = str(contract.subject.domain), sealer.keys.identity_key("subject")
        subjects = BatchSubjects(sealer.subjects, ref_key, domain)
        for chunk in cut_chunks(self._pieces(batch, deliveries), batch.chunk_bytes):
            self._seal_chunk(batch, contract, chunk, deliveries, sealer, subjects)
            del chunk  # before the next one is read

    def _pieces(self, batch: Batch, deliveries: dict[int, bytes]) -> Iterator[tuple[int, Piece]]:
        """Read the files that are new; count the others as duplicates, whole."""
        key = TenantKeys(batch.tenant, self._provider).identity_key("delivery")
        for file, path, _ in batch.files():
            deliveries[file] = delivery_digest(key, blake3_of(path))
            first = self._ledger.deliver(batch, {file: deliveries[file]})[file]
            if (first.batch_id, first.file) != (batch.id, file):
                rows = first.rows or _count_records(path)
                # Negative numbers stand for whole files, beside the chunks.
                self._ledger.add_chunk(batch.id, -1 - file, Counts(rows=rows, duplicates=rows))
                continue
            rows = 0
            with path.open("rb") as stream:
                for piece in read_records(stream):
                    rows += len(piece.payloads) + (piece.damage is not None)
                    yield file, piece
            self._ledger.count_deliveries(batch.id, {file: rows})

    def _seal_chunk(
        self,
        batch: Batch,
        contract: Contract,
        chunk: Chunk,
        deliveries: Mapping[int, bytes],
        sealer: Sealer,
        subjects: BatchSubjects,
    ) -> None:
        parsed = parse_records(chunk.payloads, contract)
        ids = _event_ids(sealer.keys, chunk, deliveries)
        rows = parsed.rows[~np.isin(parsed.rows, np.fromiter(chunk.refused, np.int64))]
        read = _Read(parsed.fields, ids)
        named = _name_events(sealer.keys, contract, chunk, read, rows)
        again = named[self._seen(batch, chunk, ids, named.tolist())]
        accepted = rows[~np.isin(rows, again)]
        opened = self._open_subjects(batch, contract, chunk, subjects, accepted, read)
        rejected, repeated = self._first_rejected(batch, chunk, ids, {**parsed.rejected, **chunk.refused})
        faults = [*chunk.faults, *chunk.faults_of(rejected)]
        quarantine = Quarantine(batch.tenant, self._tables, sealer, quarantine_table(contract))
        quarantine.add(batch, faults, deliveries, self._commit(batch, chunk.number))
        self._append_raw(batch, contract, chunk, sealer, opened)
        counts = Counts(
            rows=len(chunk.payloads) + len(chunk.faults),
            accepted=opened.frame.height,
            quarantined=len(faults),
            duplicates=len(again) + repeated,
            refused=len(accepted) - opened.frame.height,
            unknown=int(opened.columns[UNKNOWN].is_there.sum()),
        )
        self._ledger.add_chunk(batch.id, chunk.number, counts)
        masked = self._masked(contract, sealer, opened, self._commit(batch, chunk.number))
        self._prepared.prepare(batch, chunk.number, masked_table(contract), masked, sealer)

    def _first_rejected(
        self, batch: Batch, chunk: Chunk, ids: Octets, rejected: Mapping[int, str]
    ) -> tuple[dict[int, str], int]:
        """Leave out messages that were rejected before, and say how many; a queue delivers them again too."""
        named = [row for row in sorted(rejected) if row in chunk.names]
        found = self._seen(batch, chunk, ids, named)
        repeated = {row for row, is_known in zip(named, found, strict=True) if is_known}
        return {row: why for row, why in rejected.items() if row not in repeated}, len(repeated)

    def _seen(self, batch: Batch, chunk: Chunk, ids: Octets, rows: list[int]) -> npt.NDArray[np.bool_]:
        """Enter events, and tell which of them came before; `rows` are their records in the chunk."""
        if not rows:
            return np.zeros(0, bool)
        brought = uuid_bytes(batch.id)
        arrivals: list[Arrival] = [
            (event, brought, chunk.files[row], chunk.records[row])
            for event, row in zip(each_id(ids[rows]), rows, strict=True)
        ]
        index = SeenEvents(self._home.seen(batch.tenant, batch.source), self._window_days)
        return index.find_duplicates(batch.received_at.date(), arrivals)

    def _open_subjects(
        self,
        batch: Batch,
        contract: Contract,
        chunk: Chunk,
        subjects: BatchSubjects,
        rows: npt.NDArray[np.int64],
        read: _Read,
    ) -> _Opened:
        """Give every record its subject and place; records of erased subjects are left out.

        A subject's records come to stand together: one key at a time seals them, their tokens
        compress, and an erasure meets few pages.
        """
        subject = read.fields[contract.subject.name].take(rows)
        people, numbers = subject.become(as_text(subject.values)).numbered()
        codes = numbers.to_numpy()
        refs = subjects.refs(people)
        # The first half of a digest is as good to sort by as the whole, and is a number.
        by_ref = np.argsort(refs.bin.slice(0, 8).bin.reinterpret(dtype=pl.UInt64, endianness="big").to_numpy())
        ranks = np.empty(len(refs), np.uint16 if len(refs) <= 1 << 16 else np.uint32)
        ranks[by_ref] = np.arange(len(refs))
        # Of numbers of two bytes, numpy sorts 200,000 in a millisecond.
        order = np.argsort(ranks[codes], kind="stable")
        distinct = refs.gather(by_ref).to_list()
        keys = subjects.keys_for(distinct)
        placed = pl.DataFrame(
            {
                ROW: rows[order],
                "subject_ref": refs.gather(codes[order]),
                "taken_at": _taken_at(chunk).gather(rows[order]),
            }
        ).with_columns(
            received_at=pl.lit(batch.received_at).cast(pl.Datetime("us", "UTC")),
            batch_id=pl.lit(batch.id),
            chunk=pl.lit(chunk.number, dtype=pl.Int32),
        )
        if len(keys) == len(distinct):
            return _Opened(placed, read, keys)
        return _Opened(placed.filter(pl.col("subject_ref").is_in(list(keys))), read, keys)

    def _append_raw(
        self, batch: Batch, contract: Contract, chunk: Chunk, sealer: Sealer, opened: _Opened
    ) -> None:
        spec = raw_table(contract)
        frame = opened.frame
        refs, runs = runs_of(frame["subject_ref"])
        sealed = sealer.seal_column_for_subjects(
            spec.key,
            "record",
            chunk.payloads_in(opened.rows),
            list(map(opened.subject_keys.__getitem__, refs)),
            runs,
            opened.event_ids,
        )
        rows = frame.select("taken_at", "subject_ref").to_arrow(compat_level=pl.CompatLevel.oldest())
        rows = rows.append_column("event_id", opened.event_texts)
        rows = rows.append_column("record", sealed)
        rows = rows.append_column("source", constant(batch.source, pa.large_string(), len(sealed)))
        arrived = with_arrival(rows, batch.tenant, (batch.received_at, batch.id, chunk.number))
        self._tables.append(batch.tenant, spec, arrived, self._commit(batch, chunk.number))

    def _mask_chunk(self, batch: Batch, chunk: int, contract: Contract) -> int:
        spec, sealer = masked_table(contract), self.sealer(batch.tenant)
        commit = self._commit(batch, chunk)
        rows: Prepared | pa.Table | None = self._prepared.take(batch, chunk, spec, sealer)
        if rows is None:
            wanted = (
                (pl.col("received_date") == batch.received_at.date())
                & (pl.col("batch_id") == batch.id)
                & (pl.col("chunk") == chunk)
            )
            rows = self._masked(contract, sealer, self._open_raw(contract, sealer, wanted), commit)
        return self._tables.append(batch.tenant, spec, rows, commit).rows

    def _masked(self, contract: Contract, sealer: Sealer, opened: _Opened, commit: Commit) -> pa.Table:
        """Make masked rows, and keep what belongs into the vault.

        The vault first: a masked token without its cell could not be opened for want of a retry.
        """
        frame, columns = opened.frame, opened.columns
        if vaulted := vault_fields(contract):
            named = {name: columns[name].to_series() for name in (contract.subject.name, *vaulted)}
            Vault(self._home, self._tables, sealer).keep(
                contract, frame.with_columns(**named), opened.subject_keys, commit
            )
        if contract.event_time:
            frame = frame.with_columns(columns[contract.event_time].to_series().alias(contract.event_time))
        happened = contract.event_time or pl.lit(None, pl.Datetime("us", "UTC"))
        placed = place_in_time(
            frame.select(
                "received_at",
                "batch_id",
                "chunk",
                occurred_at=pl.coalesce(happened, "taken_at", "received_at"),
            )
        )
        rows = mask_records(columns, contract, sealer.keys.token_keys(contract.domains))
        for one in (*placed, *self._sealed_columns(contract, sealer, opened)):
            rows = rows.append_column(one.name, distinct_of(one).to_arrow())
        rows = rows.append_column("event_id", opened.event_texts)
        rows = rows.append_column("tenant", constant(sealer.keys.tenant, pa.large_string(), rows.num_rows))
        if placed["occurred_at"].is_sorted():
            return rows
        return rows.take(np.argsort(placed["occurred_at"].to_physical().to_numpy(), kind="stable"))

    def _sealed_columns(self, contract: Contract, sealer: Sealer, opened: _Opened) -> pl.DataFrame:
        """Seal the fields whose strategy is `seal`, and the undeclared ones, for their subjects."""
        columns = {"unknown_sealed": opened.columns[UNKNOWN].to_series()}
        for declared in contract.fields:
            for output in declared.outputs:
                if output.strategy == "seal":
                    values = as_text(opened.columns[declared.name].to_series()).cast(pl.Binary)
                    columns[output.column(declared.name)] = values
        table = masked_table(contract).key
        return pl.DataFrame(
            {name: self._sealed(table, name, values, sealer, opened) for name, values in columns.items()}
        )

    def _sealed(self, table: str, column: str, values: pl.Series, sealer: Sealer, opened: _Opened) -> pl.Series:
        present = values.is_not_null()
        if not present.any():
            return values.clear(len(values))
        refs = opened.frame["subject_ref"].filter(present)
        sealed = sealer.seal_for_subjects(
            table,
            column,
            values.filter(present).to_list(),
            [opened.subject_keys[ref] for ref in refs.to_list()],
            each_id(opened.event_ids[present.to_numpy()]),
        )
        each = iter(sealed)
        return pl.Series([next(each) if there else None for there in present], dtype=pl.Binary)

    def _open_raw(self, contract: Contract, sealer: Sealer, rows: pl.Expr) -> _Opened:
        """Open raw rows; those whose subject was erased since are left out."""
        spec = raw_table(contract)
        with self._tables.reading(sealer.keys.tenant, spec.key) as table:
            raw = table.filter(rows).collect()
        if "taken_at" not in raw.columns:
            # A table of an earlier release gets the column with its next write.
            raw = raw.with_columns(taken_at=pl.lit(None, pl.Datetime("us", "UTC")))
        keys = sealer.subjects.existing(raw["subject_ref"].unique().to_list())
        # In an order that the files do not decide, a subject's rows together.
        raw = raw.filter(pl.col("subject_ref").is_in(list(keys))).sort("subject_ref", "event_id")
        ids = uuid_rows(raw["event_id"])
        payloads = sealer.open_for_subjects(
            spec.key,
            "record",
            raw["record"].to_list(),
            [keys[ref] for ref in raw["subject_ref"].to_list()],
            each_id(ids),
        )
        parsed = parse_records(payloads, contract)
        if parsed.rejected:
            reason = next(iter(parsed.rejected.values()))
            raise TableError(f"{len(parsed.rejected)} records of {spec.key} fit the contract no more: {reason}")
        places = raw.select("subject_ref", "received_at", "taken_at", "batch_id", "chunk")
        return _Opened(places.with_columns(pl.Series(ROW, parsed.rows)), _Read(parsed.fields, ids), keys)

    def _commit(self, batch: Batch, chunk: int) -> Commit:
        return commit_of(batch, chunk, self._clock())


def _event_ids(keys: TenantKeys, chunk: Chunk, deliveries: Mapping[int, bytes]) -> Octets:
    """Give every record its id: the name of its message, else by its number in its delivery."""
    key = keys.identity_key("event")
    files = np.frombuffer(chunk.files, np.int64)
    starts = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
    ids = np.empty((len(files), 16), np.uint8)
    for start, stop in pairwise(starts):
        if stop > start:
            delivery = deliveries[chunk.files[start]]
            ids[start:stop] = numbered_event_ids(key, delivery, chunk.records[start:stop])
    if chunk.names:
        ids[list(chunk.names)] = named_event_ids(key, list(chunk.names.values()))
    return ids


def _name_events(
    keys: TenantKeys, contract: Contract, chunk: Chunk, read: _Read, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Give the rows whose events bring a name, which may have come before; the others are known by their file.

    Where a field holds the name, `read.ids` gets the id of it.
    """
    is_named = np.isin(rows, np.fromiter(chunk.names, np.int64))
    if contract.event_id is not None:
        names = read.fields[contract.event_id].take(rows)
        has_name = names.is_there.to_numpy()
        present = names.to_series().drop_nulls().to_list()
        read.ids[rows[has_name]] = named_event_ids(keys.identity_key("event"), present)
        is_named |= has_name
    return rows[is_named]


def _taken_at(chunk: Chunk) -> pl.Series:
    """Give when each record was taken from its queue; null for those that came in files."""
    if not chunk.received_ms:
        return pl.repeat(None, len(chunk.payloads), dtype=pl.Datetime("us", "UTC"), eager=True)
    moments = [chunk.received_ms.get(row) for row in range(len(chunk.payloads))]
    taken = pl.Series(moments, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    return taken.cast(pl.Datetime("us", "UTC"))


def _count_records(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(len(piece.payloads) + (piece.damage is not None) for piece in read_records(stream))
