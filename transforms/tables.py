"""What each Delta table looks like: columns with their meaning, partitions, what may be in statistics.

Specifications are compiled from contracts; the store, the catalog, dbt's sources and the reference
pages all read them. Pure: nothing here touches a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from transforms.coding import constant
from transforms.pii.contracts import EVENT_TIME, VERSION_PARTS, Contract, Field, Output

TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `pii` says what stands in it of a person: `token`, `vault`, `hash`, `coarse`, `sealed`, `pseudonym`, or
    None for nothing. Only columns with None may appear in a table's statistics. `is_unique` says
    that nearly every row has a value of its own: a dictionary of them would only cost. `of_contract`
    says that the column comes and goes with the contract's fields, so that older rows may lack it.
    `domain` is the join domain of tokens that can be opened. `is_rising` says that numbers come mostly
    in order, so that they are written as their differences.
    """

    name: str
    type: pa.DataType
    description: str
    pii: str | None = None
    nullable: bool = False
    in_statistics: bool = False
    is_unique: bool = False
    of_contract: bool = False
    domain: str | None = None
    is_rising: bool = False


@dataclass(frozen=True)
class TableSpec:
    """One table: where it lives, what it holds, how its files are cut."""

    zone: str
    name: str
    description: str
    owner: str
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ("received_date",)
    compression: str = "ZSTD"
    # Of large rows; of small ones a row group has more.
    row_group_rows: int | None = None
    # Most columns repeat few values: appends write their codes as such (`transforms/parquet.py`).
    is_coded: bool = False

    @property
    def key(self) -> str:
        """The table's name in SQL and messages, such as `masked.logins`."""
        return f"{self.zone}.{self.name}"

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema; no view types, which other readers of Delta refuse.

        A contract's required field is checked before it is masked; in the table it may be null all the
        same, since rows from before the field was declared have none.
        """
        return pa.schema(
            [pa.field(one.name, one.type, nullable=one.nullable or one.of_contract) for one in self.columns]
        )

    @property
    def statistics(self) -> tuple[str, ...]:
        """The columns whose smallest and largest values may stand in the Delta log."""
        return tuple(one.name for one in self.columns if one.in_statistics and one.pii is None)

    @property
    def unique(self) -> tuple[str, ...]:
        """The columns that are written plainly: no dictionary, no smallest and largest value."""
        return tuple(one.name for one in self.columns if one.is_unique)

    @property
    def rising(self) -> tuple[str, ...]:
        """The columns that are written as differences."""
        return tuple(one.name for one in self.columns if one.is_rising)

    @property
    def personal(self) -> tuple[str, ...]:
        """The columns that hold something made of personal data."""
        return tuple(one.name for one in self.columns if one.pii is not None)

    def conform(self, rows: pl.DataFrame | pa.Table) -> pa.Table:
        """Give rows in the table's column order and types; dictionaries of an Arrow table of many rows stay.

        Raises: pyarrow.ArrowInvalid where a column does not fit, ValueError where one has a null that it
        may not have; the message names the column only.
        """
        names = [one.name for one in self.columns]
        if isinstance(rows, pl.DataFrame):
            ordered = rows.select(names).to_arrow(compat_level=pl.CompatLevel.oldest())
        else:
            ordered = rows.select(names)
        lacking = [one.name for one in self.columns if not one.nullable and ordered[one.name].null_count]
        if lacking:
            raise ValueError(f"columns {lacking} have nulls")
        if self.row_group_rows:
            # They would be written out anew for each group of a few rows.
            return ordered.cast(self.schema)
        return ordered.cast(pa.schema([_fitting(ordered.schema.field(one.name), one) for one in self.schema]))


def _fitting(there: pa.Field[Any], wanted: pa.Field[Any]) -> pa.Field[Any]:
    """Give the field to cast to: a dictionary needs no writing out."""
    kind = there.type
    is_spread = pa.types.is_dictionary(kind) and kind.value_type == wanted.type
    return wanted.with_type(kind) if is_spread else wanted


def with_arrival(rows: pa.Table, tenant: str, arrival: tuple[datetime, str, int]) -> pa.Table:
    """Add the columns that are the same for all rows of a chunk: tenant, arrival, batch, chunk."""
    received_at, batch_id, chunk = arrival
    shared: dict[str, tuple[object, pa.DataType]] = {
        "tenant": (tenant, pa.large_string()),
        "received_at": (received_at, TIME),
        "received_date": (received_at.date(), pa.date32()),
        "received_hour": (received_at.replace(minute=0, second=0, microsecond=0), TIME),
        "batch_id": (batch_id, pa.large_string()),
        "chunk": (chunk, pa.int32()),
    }
    for name, (value, kind) in shared.items():
        rows = rows.append_column(name, constant(value, kind, rows.num_rows))
    return rows


def arrived_in(start: datetime) -> pl.Expr:
    """Select the rows that arrived in the hour from `start`; by their date whole partitions are passed over."""
    arrived = (pl.col("received_at") >= start) & (pl.col("received_at") < start + timedelta(hours=1))
    return (pl.col("received_date") == start.date()) & arrived


def arrived_in_text(start: datetime) -> str:
    """Say the same of a masked table in SQL, for a write that replaces them."""
    # A typed literal would be nanoseconds, which Delta's file skipping cannot compare.
    return f"received_date = '{start:%Y-%m-%d}' and received_hour = '{start:%Y-%m-%dT%H:%M:%S}Z'"


def column(
    name: str,
    kind: pa.DataType,
    description: str,
    *,
    pii: str | None = None,
    nullable: bool = False,
    in_statistics: bool = False,
    is_unique: bool = False,
    domain: str | None = None,
    is_rising: bool = False,
) -> Column:
    """Declare a column."""
    return Column(
        name, kind, description, pii, nullable, in_statistics, is_unique, domain=domain, is_rising=is_rising
    )


_EVENT_ID = column(
    "event_id",
    pa.large_string(),
    "The event's id: a UUID, stable over deliveries and retries.",
    is_unique=True,
)
TENANT = column("tenant", pa.large_string(), "The tenant to whom the record belongs.")
ARRIVAL = (
    column("received_at", TIME, "When the batch arrived, UTC.", in_statistics=True),
    column("received_date", pa.date32(), "The UTC date of arrival."),
)
BATCH = (
    column("batch_id", pa.large_string(), "The batch that brought the record."),
    column("chunk", pa.int32(), "Which commit of the batch wrote it, from 0.", in_statistics=True),
)


def raw_table(contract: Contract) -> TableSpec:
    """Specify the raw table of a source: the exact bytes of each record, sealed for its subject."""
    return TableSpec(
        "raw",
        contract.source,
        f"{contract.title}: every record as received, sealed under its data subject's own key.",
        contract.owner,
        (
            _EVENT_ID,
            TENANT,
            column("source", pa.large_string(), "The contract that the record follows."),
            *ARRIVAL,
            *BATCH,
            column("taken_at", TIME, "When a receiver took it from its queue; null for files.", nullable=True),
            column("subject_ref", pa.large_binary(), "Keyed pseudonym of the data subject.", pii="pseudonym"),
            column(
                "record",
                pa.large_binary(),
                "The record's bytes in an envelope.",
                pii="sealed",
                is_unique=True,
            ),
        ),
        # Ciphertext does not compress; trying costs more than the other columns give back.
        compression="UNCOMPRESSED",
    )


def masked_table(contract: Contract) -> TableSpec:
    """Specify the masked table of a source: typed columns, personal ones replaced."""
    return TableSpec(
        "masked",
        contract.source,
        f"{contract.title}: typed columns, personal values replaced by tokens and coarse forms.",
        contract.owner,
        (
            _EVENT_ID,
            TENANT,
            *ARRIVAL,
            column("received_hour", TIME, "The hour of arrival, UTC.", in_statistics=True),
            column(
                EVENT_TIME,
                TIME,
                "When it happened, UTC; else when a receiver took it from its queue; else the arrival.",
                in_statistics=True,
                is_rising=True,
            ),
            column("event_hour", TIME, "The hour in which it happened, UTC.", in_statistics=True),
            column(
                "clock_skewed",
                pa.bool_(),
                "Whether `occurred_at` lies more than 30 days before or 1 hour after the arrival.",
            ),
            *BATCH,
            *(
                replace(one, of_contract=True)
                for declared in contract.fields
                for one in _masked_columns(contract, declared)
            ),
            column(
                "unknown_count", pa.int32(), "1 where undeclared fields came along, else 0.", in_statistics=True
            ),
            column(
                "unknown_sealed",
                pa.large_binary(),
                "The undeclared fields as JSON, sealed for the data subject.",
                pii="sealed",
                nullable=True,
                is_unique=True,
            ),
        ),
        ("received_date", "clock_skewed"),
        is_coded=True,
    )


_OUTPUT_KINDS = {
    "token": "token",
    "vault": "vault",
    "hash": "hash",
    "truncate": "coarse",
    "generalise": "coarse",
    "seal": "sealed",
    "redact": "redacted",
}
_COARSE_NOTES = {
    "net24": "as its /24 network; null for IPv6",
    "net48": "as its /48 network; null for IPv4",
    "domain": "as the domain alone",
    "year": "as its year",
    "month": "as its month",
    "bucket10": "as the lower bound of its ten",
    "bucket100": "as the lower bound of its hundred",
}
_OUTPUT_NOTES = {
    "token": "as a reversible token; its first 28 characters join",
    "vault": "as 28 characters that join; the value lies in the vault, sealed for the data subject",
    "hash": "as a join-only token that cannot be opened",
    "seal": "sealed for the data subject",
    "redact": "withheld",
}


def _masked_columns(contract: Contract, declared: Field) -> list[Column]:
    if declared.name == contract.event_time:
        return []
    nullable = not declared.required
    columns = []
    for output in declared.outputs:
        if output.strategy == "drop":
            continue
        columns.append(_masked_column(declared, output))
        if output.strategy == "keep" and declared.derive == "version":
            columns += [
                column(
                    f"{declared.name}_{part}",
                    pa.int32(),
                    f"The {part} part of `{declared.name}` as a number; null where there is none.",
                    nullable=nullable or part != "major",
                )
                for part in VERSION_PARTS
            ]
    return columns


_KEPT_TYPES: dict[str, pa.DataType] = {
    "string": pa.large_string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": TIME,
}


def _masked_column(declared: Field, output: Output) -> Column:
    kind = _KEPT_TYPES[declared.logical_type] if output.strategy == "keep" else pa.large_string()
    if output.strategy == "seal":
        kind = pa.large_binary()
    if str(output.detail).startswith("bucket"):
        kind = _KEPT_TYPES[declared.logical_type]
    note = _OUTPUT_NOTES.get(output.strategy) or _COARSE_NOTES.get(str(output.detail), "")
    sentence = declared.description.rstrip(".")
    return Column(
        output.column(declared.name),
        kind,
        f"{sentence}, {note}." if note else declared.description,
        pii=_OUTPUT_KINDS.get(output.strategy, "kept" if declared.is_personal else None),
        # A coarse form of a present value may be absent: an IPv6 address has no /24.
        nullable=not declared.required or output.strategy == "truncate",
        domain=declared.domain if output.strategy in ("token", "vault") else None,
    )


VAULT_CELLS = TableSpec(
    "vault",
    "cells",
    "Values of vault fields, each once for its data subject, sealed under the subject's own key. No query "
    "reaches it; a reveal does.",
    "privacy",
    (
        TENANT,
        column("domain", pa.large_string(), "The join domain of the token."),
        column("token", pa.large_string(), "The joinable part of the value's token.", pii="token"),
        column("subject_ref", pa.large_binary(), "Keyed pseudonym of the data subject.", pii="pseudonym"),
        column(
            "subject_token",
            pa.large_string(),
            "The joinable part of the token of the subject's id: masked tables name the subject by it.",
            pii="token",
        ),
        *ARRIVAL,
        column("cell", pa.large_binary(), "The value in an envelope.", pii="sealed", is_unique=True),
    ),
)


def quarantine_table(contract: Contract) -> TableSpec:
    """Specify the quarantine of a contract's source."""
    return quarantine_of(contract.source, contract.title, contract.owner)


def quarantine_of(source: str, title: str, owner: str) -> TableSpec:
    """Specify the quarantine of a source: what was not accepted, sealed, with the reason."""
    return TableSpec(
        "quarantine",
        source,
        f"{title}: what was not accepted, sealed, with the reason and the place.",
        owner,
        (
            column("entry_id", pa.large_string(), "The entry's id: a UUID, stable over retries."),
            TENANT,
            column("source", pa.large_string(), "The contract that it was held against."),
            *ARRIVAL,
            *BATCH,
            column("file", pa.int32(), "The file's number in its batch."),
            column("record_number", pa.int64(), "The record's number in its file, from 0.", nullable=True),
            column("offset", pa.int64(), "The byte of the plain text at which it begins."),
            column("part", pa.int32(), "Long content lies in several rows; this one's number, from 0."),
            column("size_bytes", pa.int64(), "The size of this part's content."),
            column("reason", pa.large_string(), "What was expected, by column; never what was met."),
            column(
                "content",
                pa.large_binary(),
                "The bytes, sealed under the quarantine key of the day.",
                pii="sealed",
            ),
            column("file_name", pa.large_binary(), "The file's original name, sealed.", pii="sealed"),
        ),
    )


def table_specs(contract: Contract) -> tuple[TableSpec, ...]:
    """Give every table that a source's records land in, in the order of the data's way."""
    return raw_table(contract), quarantine_table(contract), masked_table(contract)


TOKEN_MAP = TableSpec(
    "vault",
    "token_map",
    "From the tokens of an epoch that was replaced to the present ones, for as long as it lives: queries see "
    "one token for one value while tables are renewed.",
    "privacy",
    (
        column("domain", pa.large_string(), "The join domain."),
        column("old_token", pa.large_string(), "The old token's joinable 28 characters.", pii="token"),
        column("new_token", pa.large_string(), "The present token.", pii="token"),
    ),
    ("domain",),
)
