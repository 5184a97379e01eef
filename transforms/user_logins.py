"""The served copy of logins: which columns `user_logins` has, rows for it, and digests to compare it by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import polars as pl

from transforms.pii.contracts import Contract
from transforms.tables import masked_table

# Between the parts of a row's text, and in the place of a null: neither is in any column's values.
SEPARATOR, ABSENT = "\x1f", "\\N"
# So many hexadecimal digits of an MD5 digest fit a signed 64-bit number.
DIGEST_DIGITS = 15


@dataclass(frozen=True)
class ServedColumn:
    """A column of the served table: its SQL type, and the masked column that it is copied from."""

    name: str
    source: str
    type: str
    is_nullable: bool = False
    note: str = ""


COLUMNS = (
    ServedColumn("event_id", "event_id", "uuid"),
    ServedColumn("tenant", "tenant", "text"),
    ServedColumn("user_id", "user_id_token", "text"),
    ServedColumn("device_type", "device_type", "text"),
    ServedColumn("masked_ip", "ip_token", "text"),
    ServedColumn("masked_device_id", "device_id_token", "text"),
    ServedColumn("locale", "locale", "text", is_nullable=True),
    ServedColumn("app_version", "app_version", "text"),
    ServedColumn("app_major", "app_version_major", "integer", is_nullable=True),
    ServedColumn("app_minor", "app_version_minor", "integer", is_nullable=True),
    ServedColumn("app_patch", "app_version_patch", "integer", is_nullable=True),
    ServedColumn("create_date", "occurred_at", "timestamptz"),
    ServedColumn("received_at", "received_at", "timestamptz"),
)


def describe_columns(contract: Contract) -> dict[str, str]:
    """Give each column's meaning, from the contract, and what it holds of people."""
    masked = {one.name: one for one in masked_table(contract).columns}
    described = {}
    for one in COLUMNS:
        source = masked[one.source]
        described[one.name] = f"{source.description} [pii: {source.pii}]" if source.pii else source.description
    return described


def served_rows(masked: pl.DataFrame) -> pl.DataFrame:
    """Give masked rows as the served table has them.

    Shape: the columns of COLUMNS in their order; a row for each row.
    """
    return masked.select(pl.col(one.source).alias(one.name) for one in COLUMNS)


def rows_csv(rows: pl.DataFrame) -> bytes:
    """Write served rows as PostgreSQL's COPY reads them: CSV with times of its own form."""
    times = [one.name for one in COLUMNS if one.type == "timestamptz"]
    shown = rows.with_columns(pl.col(times).dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00"))
    return shown.write_csv(include_header=False, null_value=ABSENT, quote_style="non_numeric").encode()


def digest_rows(rows: pl.DataFrame) -> tuple[int, int]:
    """Give the number of served rows and a digest of all, whatever their order.

    The sum of each row's MD5, cut to 60 bits: PostgreSQL computes the same. It finds accidents; nobody
    who could forge it could not write the table itself.
    """
    texts = rows.select(pl.concat_str(_text_of(one) for one in COLUMNS).alias("text"))["text"]
    return len(texts), sum(_digest(text) for text in texts)


def _text_of(column: ServedColumn) -> pl.Expr:
    value = pl.col(column.name)
    if column.type == "timestamptz":
        value = value.dt.epoch("us")
    text = value.cast(pl.String).fill_null(ABSENT)
    return text + pl.lit(SEPARATOR)


def _digest(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:DIGEST_DIGITS], 16)


_POLARS: dict[str, pl.DataType] = {"integer": pl.Int32(), "timestamptz": pl.Datetime("us", "UTC")}


def no_rows() -> pl.DataFrame:
    """Give the served table's columns without a row."""
    return pl.DataFrame(schema={one.name: _POLARS.get(one.type, pl.String()) for one in COLUMNS})
