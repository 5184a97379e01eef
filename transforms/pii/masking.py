"""From checked records to the columns of a masked table: each strategy of the contract, by column.

`seal` is not here: it needs the subject's own key and is done beside the raw record (`sealing.py`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from transforms.coding import Coded, to_arrow
from transforms.parsing import UNKNOWN
from transforms.pii.contracts import VERSION_PARTS, Contract, Field, Output
from transforms.pii.siv import SivKey, encrypt_column

REDACTED = "[redacted]"
# An event this far from its arrival says more about a clock than about the event (decision 9).
OLDEST = pl.duration(days=30)
NEWEST = pl.duration(hours=1)


def mask_records(columns: Mapping[str, Coded], contract: Contract, keys: Mapping[str, SivKey]) -> pa.Table:
    """Make the masked columns of checked records; of values that repeat, each is masked once.

    Shape: `columns` has the contract's fields in canonical form and `_unknown`; the result has a row for
    each of theirs, with the columns that `Output.column` names, in the contract's order, then `unknown_count`.
    Nulls stay null; texts that repeat are dictionaries. `keys` maps each join domain to its token key.
    """
    masked: dict[str, pa.Array[Any]] = {}
    for declared in contract.fields:
        if declared.name == contract.event_time:
            continue
        column = columns[declared.name]
        for output in declared.outputs:
            made = _masked(column.values, declared, output, keys)
            masked |= {one.name: column.become(one).to_arrow() for one in made}
    unknown = columns[UNKNOWN].is_there.cast(pl.Int32)
    return pa.table({**masked, "unknown_count": unknown.to_arrow()})


def _masked(values: pl.Series, declared: Field, output: Output, keys: Mapping[str, SivKey]) -> list[pl.Series]:
    name = output.column(declared.name)
    match output.strategy:
        case "keep":
            return [values.alias(name), *_derived(values, declared)]
        case "token" | "vault" | "hash":
            key = keys[str(declared.domain)]
            keep = output.strategy == "token"
            return [encrypt_column(as_text(values), key, keep_ciphertext=keep).alias(name)]
        case "truncate" | "generalise":
            return [_COARSE[str(output.detail)](values).alias(name)]
        case "redact":
            shown = pl.when(values.is_not_null()).then(pl.lit(REDACTED)).alias(name)
            return [pl.select(shown).to_series()]
        case _:
            return []


def as_text(values: pl.Series) -> pl.Series:
    """Write values of any type as the text that is tokenised."""
    return values if values.dtype == pl.String else values.cast(pl.String)


def _derived(values: pl.Series, declared: Field) -> list[pl.Series]:
    """Split a version into sortable numbers; parts that it does not have, or that are none, are null."""
    if declared.derive != "version":
        return []
    parts = values.str.split_exact(".", 3).struct.unnest()
    names = [f"{declared.name}_{part}" for part in VERSION_PARTS]
    return [parts.to_series(at).cast(pl.Int32, strict=False).alias(name) for at, name in enumerate(names)]


def _net24(values: pl.Series) -> pl.Series:
    """Give the /24 of an IPv4 address; null for IPv6."""
    # Arrow trims in a sixth of the time.
    begun = pc.ascii_rtrim(to_arrow(values), characters="0123456789")
    network = pl.Series(begun, dtype=pl.String) + "0/24"
    is_ipv6 = _is_ipv6(values)
    return network.set(is_ipv6, None) if is_ipv6.any() else network


def _net48(values: pl.Series) -> pl.Series:
    """Give the /48 of an IPv6 address; null for IPv4."""
    is_ipv6 = _is_ipv6(values)
    if not is_ipv6.any():
        return values.clear(len(values))
    sixes = values.filter(is_ipv6).unique()
    networks = pl.Series([str(ipaddress.ip_network((six, 48), strict=False)) for six in sixes], dtype=pl.String)
    return values.replace_strict(sixes, networks, default=None, return_dtype=pl.String)


def _is_ipv6(values: pl.Series) -> pl.Series:
    """Tell IPv6 from IPv4 in canonical form; a null is neither."""
    texts = to_arrow(values).buffers()[2]
    if texts is None or not (np.frombuffer(memoryview(texts), np.uint8) == ord(":")).any():
        # A look at all bytes at once takes a tenth of one at each value.
        return pl.Series([False]).new_from_index(0, len(values))
    return values.str.contains(":", literal=True).fill_null(False)


def _domain(values: pl.Series) -> pl.Series:
    return values.str.extract("@([^@]+)$")


def _date_part(width: int) -> Callable[[pl.Series], pl.Series]:
    """Cut an ISO date after its year (4) or month (7)."""
    return lambda values: as_text(values).str.slice(0, width)


def _bucket(size: int) -> Callable[[pl.Series], pl.Series]:
    """Give the lower bound of a number's bucket; null where it is below the least integer of 64 bits."""

    def lower_bound(values: pl.Series) -> pl.Series:
        bound = values // size * size
        return bound.set(bound > values, None) if values.dtype.is_integer() else bound

    return lower_bound


_COARSE: dict[str, Callable[[pl.Series], pl.Series]] = {
    "net24": _net24,
    "net48": _net48,
    "domain": _domain,
    "year": _date_part(4),
    "month": _date_part(7),
    "bucket10": _bucket(10),
    "bucket100": _bucket(100),
}


def place_in_time(masked: pl.DataFrame) -> pl.DataFrame:
    """Add what follows from `occurred_at` and `received_at`: hours, date, and a clock's error.

    Shape: the same rows, with `received_date`, `received_hour`, `event_hour`, `clock_skewed` added.
    """
    arrived, happened = pl.col("received_at"), pl.col("occurred_at")
    return masked.with_columns(
        received_date=arrived.dt.date(),
        received_hour=arrived.dt.truncate("1h"),
        event_hour=happened.dt.truncate("1h"),
        clock_skewed=(happened < arrived - OLDEST) | (happened > arrived + NEWEST),
    )
