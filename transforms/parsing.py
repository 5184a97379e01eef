"""From the exact bytes of records to typed, checked columns, with a verdict for every record.

Records are decoded one by one into a typed structure that the contract describes, so that no
record's fate or place can depend on its neighbour's; the checks that follow run over columns.
A verdict names the column and what was expected, never what was met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl

from transforms.pii.canonical import canonicalise
from transforms.pii.contracts import Contract, Field

ROW = "_row"
UNKNOWN = "_unknown"
# Records that are decoded without looking at each: one bad record slows down only these, and what
# was decoded is read while it is still near the processor.
_STEP = 4096

_UNDECODABLE = (msgspec.DecodeError, RecursionError, UnicodeError)
_TYPES: dict[str, tuple[Any, pl.DataType]] = {
    "string": (str, pl.String()),
    "integer": (int, pl.Int64()),
    "number": (float, pl.Float64()),
    "boolean": (bool, pl.Boolean()),
    "timestamp": (str, pl.String()),
}


@dataclass
class Parsed:
    """What came of a list of payloads.

    Shape: `frame` has a row for every accepted record, with `_row` (its index among the payloads),
    the declared fields in canonical form and `_unknown` (JSON of the undeclared fields, null
    where there are none). `rejected` maps the index of every other record to its reason.
    """

    frame: pl.DataFrame
    rejected: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Decoders:
    strict: Callable[[bytes], Any]
    tolerant: Callable[[bytes], Any]
    getters: tuple[Callable[[Any], Any], ...]


def parse_records(payloads: Sequence[bytes], contract: Contract) -> Parsed:
    """Decode and check records against their contract. Every payload is accepted or rejected."""
    rejected: dict[int, str] = {}
    frames = [
        _decode(start, payloads[start : start + _STEP], contract, rejected)
        for start in range(0, max(len(payloads), 1), _STEP)
    ]
    return _checked(pl.concat(frames, rechunk=True), contract, rejected)


def _decode(
    start: int, payloads: Sequence[bytes], contract: Contract, rejected: dict[int, str]
) -> pl.DataFrame:
    """Decode a step of records, the first of them with the number `start`."""
    # Where all are good, a constant column and a range: from lists they would cost a fifth of the whole.
    numbers = pl.Series(ROW, np.arange(start, start + len(payloads)))
    unknown = pl.Series(UNKNOWN, [None], dtype=pl.Binary).new_from_index(0, len(payloads))
    try:
        structures = list(map(_decoders(contract).strict, payloads))
    except _UNDECODABLE:
        each = [_decode_one(payload, contract) for payload in payloads]
        rejected.update((row, one) for row, one in enumerate(each, start) if isinstance(one, str))
        good = [(row, one) for row, one in enumerate(each, start) if not isinstance(one, str)]
        numbers = pl.Series(ROW, [row for row, _ in good], dtype=pl.Int64)
        structures = [structure for _, (structure, _) in good]
        unknown = pl.Series(UNKNOWN, [undeclared for _, (_, undeclared) in good], dtype=pl.Binary)
    columns = [
        pl.Series(declared.name, list(map(getter, structures)), dtype=_polars_type(declared))
        for declared, getter in zip(contract.fields, _decoders(contract).getters, strict=True)
    ]
    return pl.DataFrame([numbers, *columns, unknown])


def _polars_type(declared: Field) -> pl.DataType:
    return _TYPES[declared.logical_type][1]


def _decode_one(payload: bytes, contract: Contract) -> tuple[Any, bytes | None] | str:
    """Decode one record on its own: its structure and its undeclared fields, or what is wrong with it."""
    try:
        structure = _decoders(contract).tolerant(payload)
        undeclared = _undeclared(payload, contract)
    except _UNDECODABLE as error:
        return _reason(error)
    if undeclared and contract.unknown_fields == "reject":
        return f"{len(undeclared)} undeclared field(s), which this contract rejects"
    return structure, msgspec.json.encode(undeclared) if undeclared else None


def _undeclared(payload: bytes, contract: Contract) -> dict[str, msgspec.Raw]:
    fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    for declared in contract.fields:
        fields.pop(declared.name, None)
    return fields


def _reason(error: Exception) -> str:
    """Say what was wrong without a byte of what was met: paths may hold a producer's own names."""
    text = str(error)
    column = re.search(r"at `\$\.([a-z0-9_]+)`$", text)
    expected = re.match(r"Expected `([a-z |]+)`, got `([a-z]+)`", text)
    missing = re.match(r"Object missing required field `([a-z0-9_]+)`", text)
    if missing:
        return f"column {missing[1]}: required, but absent"
    if column and expected:
        return f"column {column[1]}: expected {expected[1]}, met {expected[2]}"
    if expected:
        return f"expected a JSON {expected[1]}, met {expected[2]}"
    return "not well-formed JSON"


@lru_cache(maxsize=64)
def _decoders(contract: Contract) -> _Decoders:
    """Build the typed structures of a contract; slots get plain names, since a field may be `class`."""
    slots = tuple(f"f{number}" for number in range(len(contract.fields)))
    renames = dict(zip(slots, (declared.name for declared in contract.fields), strict=True))
    # Required fields come first: a structure's defaults have to stand at its end.
    members = sorted(
        (_member(slot, declared) for slot, declared in zip(slots, contract.fields, strict=True)), key=len
    )
    strict, tolerant = (
        msgspec.json.Decoder(
            msgspec.defstruct("Record", members, rename=renames, forbid_unknown_fields=forbid, gc=False)
        ).decode
        for forbid in (True, False)
    )
    return _Decoders(strict, tolerant, tuple(map(attrgetter, slots)))


def _member(slot: str, declared: Field) -> tuple[Any, ...]:
    python_type = _TYPES[declared.logical_type][0]
    return (slot, python_type) if declared.required else (slot, python_type | None, None)


def _checked(frame: pl.DataFrame, contract: Contract, rejected: dict[int, str]) -> Parsed:
    """Bring every column to its canonical form and turn away the rows that hold something else."""
    canonical, faults = {}, []
    for declared in contract.fields:
        column = _canonical_column(frame[declared.name], declared)
        canonical[declared.name] = column
        bad = frame[declared.name].is_not_null() & column.is_null()
        if bad.any():
            faults.append(pl.when(pl.lit(bad)).then(pl.lit(_expectation(declared))))
    checked = frame.with_columns(**canonical)
    if not faults:
        return Parsed(checked, rejected)
    reasons = checked.select(pl.col(ROW), pl.coalesce(faults).alias("reason"))
    wrong = reasons.filter(pl.col("reason").is_not_null())
    rejected.update(dict(wrong.iter_rows()))
    return Parsed(checked.filter(reasons["reason"].is_null()), rejected)


def _canonical_column(values: pl.Series, declared: Field) -> pl.Series:
    """Give the canonical values, null where a value is not what the contract says."""
    if declared.logical_type == "timestamp":
        return _timestamps(values)
    if declared.logical_type != "string":
        return values
    texts = canonicalise(values, declared.format)
    sizes = texts.str.len_bytes()
    fits = sizes.is_between(1, declared.max_length)
    # Characters are counted only where their bytes are more than the characters may be.
    if not fits.all(ignore_nulls=True):
        fits = (sizes > 0) & (texts.str.len_chars() <= declared.max_length)
    if declared.pattern is not None:
        fits &= texts.str.contains(f"^(?:{declared.pattern})$")
    return texts if fits.all(ignore_nulls=True) else texts.set(~fits.fill_null(True), None)


def _timestamps(values: pl.Series) -> pl.Series:
    """Read RFC 3339 with an offset. Units: microseconds, UTC."""
    if values.null_count() == len(values):
        return values.cast(pl.Datetime("us", "UTC"))
    texts = values.str.replace("[Zz]$", "+00:00").str.replace("^(.{10})[ t]", "${1}T")
    return texts.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)


def _expectation(declared: Field) -> str:
    wanted = {
        "ip": "an IP address",
        "uuid": "a UUID",
        "mac": "a MAC address",
        "email": "an e-mail address",
        "account": "the name of an account",
        "phone": "a phone number that begins with + and the country",
        "date": "a date of the calendar, YYYY-MM-DD",
    }.get(declared.format or "")
    if declared.logical_type == "timestamp":
        wanted = "an RFC 3339 time with an offset"
    elif declared.pattern is not None:
        wanted = f"text that matches {declared.pattern}"
    return f"column {declared.name}: expected {wanted or f'1 to {declared.max_length} characters'}"
