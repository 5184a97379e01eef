"""Captures from landing to the lake: blocks sealed for each device's ownership, packets masked.

As with records, every step is done once however often it is repeated: keys on disk, quarantine,
blocks, files, ledger; then the readable files go; then the packet table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from stores.batch_steps import BatchSteps, commit_of
from stores.capture_sealing import BatchSealing, Masker, Sealed
from stores.capture_totals import Totals, add_up, of_batches
from stores.devices import Devices
from stores.home import Home
from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.landing import Batch, Landing
from stores.ledger import Counts, Ledger
from stores.prepared import PreparedRows
from stores.sealing import Sealer
from stores.sealing_room import SealingRoom
from stores.tables import Commit, Prepared, Tables
from transforms.capture.blocks import HOUR_NS, describe_block, open_block
from transforms.capture.packets import Interface, Packets
from transforms.capture.tables import CAPTURE_BLOCKS, PACKETS, SOURCE
from transforms.pii.identities import uuid_bytes
from transforms.tables import arrived_in, arrived_in_text


class CaptureIntake:
    """Takes batches of capture files from landing to the lake."""

    def __init__(
        self,
        home: Home,
        provider: KeyProvider,
        landing: Landing,
        ledger: Ledger,
        tables: Tables,
        devices: Callable[[str], Devices],
        clock: Callable[[], datetime],
        flow_bytes: int | None = None,
    ) -> None:
        """Remember the stores; nothing is opened yet.

        `devices` gives a tenant's registry; `flow_bytes` is what of a flow is kept with its payload.
        """
        self._flow_bytes = flow_bytes
        self._home, self._provider = home, provider
        self._ledger, self._tables = ledger, tables
        self._steps = BatchSteps(home, landing, ledger)
        self._devices, self._clock = devices, clock
        self._prepared = PreparedRows(tables)
        self._rooms: list[SealingRoom] = []

    def sealer(self, tenant: str) -> Sealer:
        """Give the tenant's sealer."""
        return Sealer.of(tenant, self._provider, self._home.keys)

    def seal_batch(self, batch_id: str) -> Counts:
        """Seal a batch's packets into blocks, then delete its readable files.

        Counts are of packets, and of what went to quarantine.
        Raises: BusyError where an erasure holds the tenant.
        """
        return self._steps.seal(batch_id, self._seal)

    def mask_batch(self, batch_id: str) -> int:
        """Write the packet rows of a sealed batch; gives how many there are."""
        return self._steps.mask(batch_id, self._mask_chunk)

    def finish_batch(self, batch_id: str) -> None:
        """Note that a batch has reached every table that is made of it."""
        self._steps.finish(batch_id)

    def remask(self, tenant: str, start: datetime, commit: Commit) -> int:
        """Make the packet rows of one arrival hour anew from the blocks, exactly; gives how many."""
        with self._steps.holding(tenant, SOURCE):
            rows = self._masked_again(tenant, arrived_in(start))
            frame = pl.DataFrame(PACKETS.conform(rows) if rows.num_rows else PACKETS.schema.empty_table())
            # deltalake parts rows by texts, not by dictionaries of them.
            parted = frame.with_columns(pl.col(*PACKETS.partition_by).cast(pl.String))
            commit = self._steps.covering(commit, tenant, SOURCE, parted, self._clock())
            return self._tables.replace(tenant, PACKETS, parted, arrived_in_text(start), commit).rows

    def totals(self, tenants: Sequence[str], batches: Sequence[str], hour: datetime) -> Totals:
        """Add up the packets of some batches; where none are named, of an arrival hour."""
        totals = Totals()
        for tenant in tenants:
            keys = TenantKeys(tenant, self._provider)
            add_up(self._tables, keys, totals, of_batches(batches, hour))
        return totals

    def _seal(self, batch: Batch) -> None:
        # The next batch takes over the memory of this one, unless both are sealed at the same time.
        room = self._rooms.pop() if self._rooms else SealingRoom()
        BatchSealing(
            batch,
            self.sealer(batch.tenant),
            self._devices(batch.tenant),
            self._tables,
            self._ledger,
            self._clock(),
            self._flow_bytes,
            room,
            partial(self._prepare, batch),
        ).run()
        self._rooms.append(room)

    def _mask_chunk(self, batch: Batch, chunk: int) -> int:
        rows: Prepared | pa.Table | None = self._prepared.take(batch, chunk, PACKETS, self.sealer(batch.tenant))
        if rows is None:
            wanted = (pl.col("batch_id") == batch.id) & (pl.col("chunk") == chunk)
            rows = self._masked_again(batch.tenant, wanted)
        if not len(rows):
            return 0
        return self._tables.append(batch.tenant, PACKETS, rows, commit_of(batch, chunk, self._clock())).rows

    def _masked_again(self, tenant: str, wanted: pl.Expr) -> pa.Table:
        """Make packet rows from blocks; those of erased owners are left out."""
        if not self._tables.exists(tenant, CAPTURE_BLOCKS.key):
            return pa.table({})
        with self._tables.reading(tenant, CAPTURE_BLOCKS.key) as table:
            found = table.filter(wanted).sort("device_ref", "file_id", "block_number").collect()
        sealer = self.sealer(tenant)
        registered = {
            one.ref: one for one in self._devices(tenant).listing(found["device_ref"].unique().to_list())
        }
        masker = Masker(sealer.keys, tenant, SealingRoom())
        parts: dict[tuple[datetime, str, int], list[Sealed]] = {}
        for row, packets in open_blocks(sealer, found):
            block = describe_block(packets, row["ts_min"] // HOUR_NS)
            token = registered[row["device_ref"]].token
            arrival = row["received_at"], row["batch_id"], row["chunk"]
            sealed = Sealed(token, [block], [row["block_id"]], packets)
            parts.setdefault(arrival, []).append(sealed)
        tables = [masker.mask(sealed, arrival) for arrival, sealed in parts.items()]
        return pa.concat_tables(tables) if tables else pa.table({})

    def _prepare(self, batch: Batch, chunk: int, rows: pa.Table) -> None:
        if rows.num_rows:
            self._prepared.prepare(batch, chunk, PACKETS, rows, self.sealer(batch.tenant))


def open_blocks(sealer: Sealer, rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], Packets]]:
    """Open rows of the block table; those of erased owners are left out.

    Raises: DecryptionError where one does not verify.
    """
    keys = sealer.subjects.existing(rows["subject_ref"].unique().to_list())
    for row in rows.iter_rows(named=True):
        if row["subject_ref"] in keys:
            record_id = uuid_bytes(row["block_id"])
            (records,) = sealer.open_for_subjects(
                CAPTURE_BLOCKS.key, "records", [row["records"]], [keys[row["subject_ref"]]], [record_id]
            )
            interface = Interface(row["interface"], row["link_type"], row["snaplen"], row["unit_ns"])
            yield row, open_block(records, interface, row["era"], row["packets"])
