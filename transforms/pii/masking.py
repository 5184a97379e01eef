"""From checked records to the columns of a masked table: each strategy of the contract, by column.

`seal` is not here: it needs the subject's own key and is done beside the raw record (`sealing.py`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from transforms.parsing import UNKNOWN
from transforms.pii import siv
from transforms.pii.contracts import Contract, Field, Output
from transforms.pii.identities import starts_of_runs
from transforms.pii.siv import SivKey

REDACTED = "[redacted]"
# An event this far from its arrival says more about a clock than about the event (decision 9).
OLDEST = pl.duration(days=30)
NEWEST = pl.duration(hours=1)


def mask_records(frame: pl.DataFrame, contract: Contract, keys: Mapping[str, SivKey]) -> pl.DataFrame:
    """Make the masked columns of checked records.

    Shape: `frame` has the contract's fields in canonical form; the result has a row for each, with
    the columns that `Output.column` names, in the contract's order, then `unknown_count`. Nulls stay
    null. `keys` maps each join domain to its token key.
    """
    columns: list[pl.Series] = []
    for declared in contract.fields:
        if declared.name == contract.event_time:
            continue
        for output in declared.outputs:
            columns += _masked(frame[declared.name], declared, output, keys)
    unknown = frame[UNKNOWN].is_not_null().cast(pl.Int32)
    return pl.DataFrame([*columns, unknown.alias("unknown_count")])


def _masked(values: pl.Series, declared: Field, output: Output, keys: Mapping[str, SivKey]) -> list[pl.Series]:
    name = output.column(declared.name)
    match output.strategy:
        case "keep":
            return [values, *_derived(values, declared)]
        case "token" | "vault" | "hash":
            key = keys[str(declared.domain)]
            keep = output.strategy == "token"
            return [_tokens(as_text(values), key, keep).alias(name)]
        case "truncate" | "generalise":
            return [_COARSE[str(output.detail)](values).alias(name)]
        case "redact":
            shown = pl.when(values.is_not_null()).then(pl.lit(REDACTED)).alias(name)
            return [pl.select(shown).to_series()]
        case _:
            return []


def _tokens(values: pl.Series, key: SivKey, keep_ciphertext: bool) -> pl.Series:
    """Make tokens; of values that stand together in runs, as a subject's do, one for each run."""
    starts = starts_of_runs(values)
    if len(starts) * 2 > len(values):
        return siv.encrypt_column(values, key, keep_ciphertext=keep_ciphertext)
    made = siv.encrypt_column(values.gather(starts), key, keep_ciphertext=keep_ciphertext)
    lengths = np.diff(starts, append=len(values))
    return made.gather(np.repeat(np.arange(len(made)), lengths))


def as_text(values: pl.Series) -> pl.Series:
    """Write values of any type as the text that is tokenised."""
    return values if values.dtype == pl.String else values.cast(pl.String)


def _derived(values: pl.Series, declared: Field) -> list[pl.Series]:
    """Split a version into sortable numbers; parts that it does not have are null."""
    if declared.derive != "version":
        return []
    parts = values.str.split_exact(".", 3).struct.unnest()
    names = [f"{declared.name}_{part}" for part in ("major", "minor", "patch")]
    return [parts.to_series(at).cast(pl.Int32).alias(name) for at, name in enumerate(names)]


def _net24(values: pl.Series) -> pl.Series:
    """Give the /24 of an IPv4 address; null for IPv6."""
    network = values.str.strip_chars_end("0123456789") + "0/24"
    return network.set(_is_ipv6(values), None)


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
    return values.str.contains(":", literal=True).fill_null(False)


def _domain(values: pl.Series) -> pl.Series:
    return values.str.extract("@([^@]+)$")


def _date_part(width: int) -> Callable[[pl.Series], pl.Series]:
    """Cut an ISO date after its year (4) or month (7)."""
    return lambda values: as_text(values).str.slice(0, width)


def _bucket(size: int) -> Callable[[pl.Series], pl.Series]:
    """Give the lower bound of a number's bucket."""
    return lambda values: values // size * size


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
