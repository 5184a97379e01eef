"""Rotation of a tenant's token keys: a new epoch, every token made anew, the old root destroyed in time.

Each step can be repeated: what is under the present epoch already is left as it is, so that a rotation
that was killed goes on where it stopped. A partition's files are exchanged in one commit. Meanwhile
old and new tokens of a value are brought together by `vault.token_map`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from stores.database import EPOCHS, Database
from stores.delta_files import write_parts
from stores.devices import Devices
from stores.home import Home
from stores.keyring import KeyProvider
from stores.keys import TenantKeys
from stores.locks import exclusive
from stores.specs import domain_of, every_table, is_in_vault
from stores.subjects import SubjectKeys
from stores.tables import Commit, Tables
from stores.vault import Vault
from transforms.errors import BusyError, UsageError
from transforms.pii.siv import HEAD_CHARACTERS, has_live_key
from transforms.retokening import EpochKeys, TokenColumns, is_current, renew_rows, renew_tokens
from transforms.tables import TOKEN_MAP, VAULT_CELLS, TableSpec, column

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

RENEWED_ZONES = ("masked", "curated")
_MAPPED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Epoch:
    """One epoch of a tenant's token keys; times are UTC, None where they have not come."""

    epoch: int
    state: str
    began_at: str | None = None
    replaced_at: str | None = None
    renewed_at: str | None = None
    ends_at: str | None = None
    destroyed_at: str | None = None


@dataclass(frozen=True)
class Renewed:
    """What renewing a table came to."""

    table: str
    files: int
    rows: int


class Rotation:
    """The epochs of one tenant."""

    def __init__(
        self,
        tenant: str,
        home: Home,
        provider: KeyProvider,
        tables: Tables,
        database: Database,
        devices: Devices,
        vault: Vault,
        horizon_days: int,
        clock: Callable[[], datetime],
    ) -> None:
        """Remember the stores; nothing is opened yet."""
        self._tenant, self._home, self._provider = tenant, home, provider
        self._tables, self._database, self._devices, self._vault = tables, database, devices, vault
        self._horizon, self._clock = timedelta(days=horizon_days), clock
        self._keys = TenantKeys(tenant, provider)

    def epochs(self) -> list[Epoch]:
        """Give every epoch that there was, oldest first."""
        live = self._keys.epochs()
        known = {row["epoch"]: row for row in self._rows()}
        found = []
        for epoch in sorted({*known, *live}):
            row = {name: value for name, value in known.get(epoch, {}).items() if name in _TIMES}
            found.append(Epoch(epoch, _state(row, epoch in live), **row))
        return found

    def begin(self) -> int:
        """Begin a new epoch, unless a rotation is on its way; give the epoch that makes tokens now.

        Batches are waited for: each is masked under one epoch. Raises: UsageError without keys.
        """
        with exclusive(self._home.tenant_lock(self._tenant)):
            live = self._keys.epochs()
            if not live:
                raise UsageError(f"tenant {self._tenant} has no keys: `lockhouse tenant list` shows who has")
            if not self.is_running():
                # No table needs the last rotation's any more.
                self._drop_map()
                self._note(live[-1], replaced_at=self._now())
                self._note(live[-1] + 1, began_at=self._now())
            newest = max(row["epoch"] for row in self._rows())
            self._provider.create_root(self._tenant, newest)
            return int(newest)

    def is_running(self) -> bool:
        """Whether some tokens are still to be made anew."""
        return any(row["replaced_at"] and not row["renewed_at"] for row in self._rows())

    def renew_keys(self) -> int:
        """Wrap subject keys, and make the device registry's tokens, under the present epoch."""
        subjects = SubjectKeys(self._home.keys, self._keys)
        return subjects.rewrap() + self._devices.renew_tokens()

    def table_keys(self) -> list[str]:
        """Name the tables with tokens, in the order in which they are renewed."""
        found = [info.key for info in self._tables.listing(self._tenant) if info.zone in RENEWED_ZONES]
        return [key for key in found if self._columns(key).tokens]

    def map_tokens(self, key: str) -> int:
        """Add a table's old tokens to the map, each with the present one; give how many."""
        mapped = 0
        for name, domain in self._columns(key).domains.items():
            keys = self._epoch_keys(domain)
            with self._tables.reading(self._tenant, key) as table:
                tokens = table.select(pl.col(name).unique()).collect(engine="streaming")[name].drop_nulls()
            old = tokens.filter(~is_current(tokens, keys))
            for start in range(0, len(old), _MAPPED_AT_ONCE):
                mapped += self._map(domain, old[start : start + _MAPPED_AT_ONCE], keys)
        return mapped

    def map_cells(self) -> int:
        """Add the old tokens of the vault's values to the map; give how many."""
        return sum(
            self._add_to_map(str(domain[0]), rows.select("old_token", "new_token"))
            for cells in self._vault.renewals()
            for domain, rows in cells.group_by("domain")
        )

    def renew_cells(self) -> int:
        """Bind the vault's cells to present tokens; the map has to be whole. Gives how many."""
        if not self._vault.holds_old_tokens():
            return 0
        return self._vault.renew(self._present_heads(), self._clock())

    def renew_table(self, key: str) -> Renewed:
        """Make a table's tokens anew, a partition at a time; others may write between two of them."""
        spec, files, rows = self._spec(key), 0, 0
        columns = self._columns(key)
        with self._tables.rewriting(self._tenant, spec) as table:
            partitions = {tuple(part.items()) for part in _describe_files(table).values()}
        for part in sorted(partitions):
            with self._tables.rewriting(self._tenant, spec) as table:
                exchanged, count = self._renew_partition(table, spec, dict(part), columns)
            files, rows = files + exchanged, rows + count
        return Renewed(key, files, rows)

    def dates_since(self, table: str) -> list[date]:
        """Give the event dates of the rows that arrived while the rotation was on its way."""
        replaced = [row for row in self._rows() if row["replaced_at"] and not row["renewed_at"]]
        # A batch that was on its way had its hour before.
        since = min(datetime.fromisoformat(row["replaced_at"]) for row in replaced) - timedelta(hours=1)
        with self._tables.reading(self._tenant, table) as rows:
            arrived = rows.filter(pl.col("received_at") >= since)
            found = arrived.select(pl.col("event_hour").dt.date().unique().sort()).collect(engine="streaming")
        dates: list[date] = found["event_hour"].to_list()
        return dates

    def finish(self) -> None:
        """Delete the files with old tokens; the replaced epochs now wait for their end.

        Raises: BusyError where an old token came in between: then the tables are to be renewed again.
        """
        self._refuse_tokens_of(set(self._keys.epochs()[:-1]))
        cells = [VAULT_CELLS.key] if self._tables.exists(self._tenant, VAULT_CELLS.key) else []
        for key in [*self.table_keys(), *cells]:
            self._tables.vacuum(self._tenant, key, 0)
        now = self._clock()
        for row in self._rows():
            if row["replaced_at"] and not row["renewed_at"]:
                ends = (now + self._horizon).isoformat(timespec="seconds")
                self._note(row["epoch"], renewed_at=self._now(), ends_at=ends)

    def retire(self, *, at_once: bool = False) -> list[int]:
        """Destroy the roots of epochs whose time is over, or of all that are replaced; give which.

        Raises: BusyError where a token of theirs is still in a table.
        """
        now, live = self._now(), set(self._keys.epochs())
        due = [
            row["epoch"]
            for row in self._rows()
            if row["epoch"] in live and row["renewed_at"] and (at_once or str(row["ends_at"]) <= now)
        ]
        if due:
            self._refuse_tokens_of(set(due))
            if not self.is_running():
                self._drop_map()
        for epoch in due:
            self._provider.destroy_root(self._tenant, epoch)
            self._note(epoch, destroyed_at=self._now())
        return due

    def _drop_map(self) -> None:
        if self._tables.exists(self._tenant, TOKEN_MAP.key):
            self._tables.drop(self._tenant, TOKEN_MAP.key)

    def _refuse_tokens_of(self, epochs: set[int]) -> None:
        """Raise BusyError where a table still holds a token of one of these epochs."""
        if epochs and self._vault.holds_old_tokens():
            raise BusyError(f"{VAULT_CELLS.key} holds tokens of an old epoch: `lockhouse keys rotate` again")
        for key in self.table_keys():
            folder, columns = self._tables.path(self._tenant, key), self._columns(key)
            with self._tables.rewriting(self._tenant, self._spec(key)) as table:
                for name in _describe_files(table):
                    if self._holds_tokens_of(folder / unquote(name), columns, epochs):
                        raise BusyError(f"{key} holds tokens of an old epoch: `lockhouse keys rotate` again")

    def _renew_partition(
        self, table: DeltaTable, spec: TableSpec, part: dict[str, str], columns: TokenColumns
    ) -> tuple[int, int]:
        folder = self._tables.path(self._tenant, spec.key)
        actions: list[AddAction | RemoveAction] = []
        rows, replaced = 0, set(self._keys.epochs()[:-1])
        for name, values in _describe_files(table).items():
            path = folder / unquote(name)
            if values == part and self._holds_tokens_of(path, columns, replaced):
                actions += [self._renew_file(folder, spec, path, part, columns), _removal(name, path, part)]
                rows += int(pq.read_metadata(path).num_rows)
        if actions:
            self._tables.exchange_files(table, spec, actions)
        return len(actions) // 2, rows

    def _renew_file(
        self, folder: Path, spec: TableSpec, path: Path, part: Mapping[str, str], columns: TokenColumns
    ) -> AddAction:
        keys = {domain: self._epoch_keys(domain) for domain in columns.tokens.values()}
        present = {domain: self._present_heads(domain) for domain in columns.vaulted.values()}
        prefix_key = self._keys.prefix_key()
        with pq.ParquetFile(path, read_dictionary=columns.names, pre_buffer=False) as file:
            # Files from before a column was declared lack it.
            there = columns.among(file.schema_arrow.names)
            parts = (
                renew_rows(file.read_row_group(at), there, keys, prefix_key, present)
                for at in range(file.num_row_groups)
            )
            prefix = path.name.partition("-")[0]
            return write_parts(folder, spec, parts, part, prefix, adds_rows=False)

    def _holds_tokens_of(self, path: Path, columns: TokenColumns, epochs: set[int]) -> bool:
        """Whether a file holds a token of one of these epochs."""
        with pq.ParquetFile(path, read_dictionary=columns.names, pre_buffer=False) as file:
            there = columns.among(file.schema_arrow.names).tokens
            old = {domain: self._keys.token_key_ids(domain, epochs) for domain in there.values()}
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=list(there))
                for name, domain in there.items():
                    tokens = pl.Series(rows[name].combine_chunks().unique(), dtype=pl.String)
                    if has_live_key(tokens, old[domain]).any():
                        return True
        return False

    def _map(self, domain: str, old: pl.Series, keys: EpochKeys) -> int:
        made = {"old_token": old.str.slice(0, HEAD_CHARACTERS), "new_token": renew_tokens(old, keys)}
        return self._add_to_map(domain, pl.DataFrame(made).unique("old_token"))

    def _add_to_map(self, domain: str, rows: pl.DataFrame) -> int:
        if self._tables.exists(self._tenant, TOKEN_MAP.key):
            with self._tables.reading(self._tenant, TOKEN_MAP.key) as table:
                known = table.filter(pl.col("domain") == domain).select("old_token").collect()
            rows = rows.join(known, on="old_token", how="anti")
        if rows.height:
            at = self._clock()
            commit = Commit(f"map/{domain}/{at.isoformat()}", int(at.timestamp() * 1000), {"domain": domain})
            self._tables.append(self._tenant, TOKEN_MAP, rows.with_columns(domain=pl.lit(domain)), commit)
        return rows.height

    def _present_heads(self, domain: str | None = None) -> dict[str, str]:
        """Give the joinable part of the present token for that of each old one, of a domain or of all."""
        if not self._tables.exists(self._tenant, TOKEN_MAP.key):
            return {}
        with self._tables.reading(self._tenant, TOKEN_MAP.key) as table:
            chosen = table.filter(pl.col("domain") == domain) if domain else table
            heads = chosen.select("old_token", pl.col("new_token").str.slice(0, HEAD_CHARACTERS)).collect()
        return dict(heads.iter_rows())

    def _epoch_keys(self, domain: str) -> EpochKeys:
        return EpochKeys(self._keys.live_token_keys(domain), self._keys.token_key(domain))

    def _columns(self, key: str) -> TokenColumns:
        names = self._tables.schema(self._tenant, key).names
        tokens = {name: domain_of(key, name) for name in names if name.endswith("_token")}
        vaulted = {name: domain for name, domain in tokens.items() if is_in_vault(key, name)}
        domains = {name: domain for name, domain in tokens.items() if name not in vaulted}
        beside = {f"{name.removesuffix('_token')}_prefix": name for name in domains}
        prefixes = {prefix: name for prefix, name in beside.items() if prefix in names}
        return TokenColumns(domains, prefixes, vaulted)

    def _spec(self, key: str) -> TableSpec:
        """Give a table's specification; a mart's is read from the table itself."""
        for spec in every_table():
            if spec.key == key:
                return spec
        return _mart_spec(key, self._tables, self._tenant)

    def _rows(self) -> list[dict[str, Any]]:
        query = sa.select(EPOCHS).filter_by(tenant=self._tenant).order_by(EPOCHS.c.epoch)
        return self._database.rows(query)

    def _note(self, epoch: int, **times: str) -> None:
        at = (EPOCHS.c.tenant == self._tenant) & (EPOCHS.c.epoch == epoch)
        with self._database.begin() as connection:
            if connection.execute(sa.update(EPOCHS).where(at).values(**times)).rowcount == 0:
                connection.execute(EPOCHS.insert().values(tenant=self._tenant, epoch=epoch, **times))

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")


_TIMES = ("began_at", "replaced_at", "renewed_at", "ends_at", "destroyed_at")


def _state(row: Mapping[str, Any], is_live: bool) -> str:
    if not is_live:
        return "destroyed"
    if not row.get("replaced_at"):
        return "current"
    return "ending" if row["renewed_at"] else "renewing"


def _mart_spec(key: str, tables: Tables, tenant: str) -> TableSpec:
    zone, name = key.split(".", 1)
    described = tables.describe(tenant, key)
    columns = tuple(
        column(one.name, one.type, "", nullable=True, in_statistics=one.name in described.statistics)
        for one in tables.schema(tenant, key)
    )
    return TableSpec(zone, name, "", "", columns, described.partition_by)


def _describe_files(table: DeltaTable) -> dict[str, dict[str, str]]:
    """Give the data files of a table by their name in the log, each with its partition's values as text."""
    names = table.metadata().partition_columns
    files: dict[str, dict[str, str]] = {}
    for row in pl.DataFrame(pa.table(table.get_add_actions(flatten=True))).iter_rows(named=True):
        values = {name: row[f"partition.{name}"] for name in names}
        files[row["path"]] = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
        }
    return files


def _removal(name: str, path: Path, part: Mapping[str, str]) -> RemoveAction:
    from deltalake.transaction import RemoveAction

    # A vacuum compares it with the machine's own clock.
    removed_at_ms = int(time.time() * 1000)
    return RemoveAction(name, False, removed_at_ms, path.stat().st_size, dict(part))
