"""From the exact bytes of records to typed, checked columns, with a verdict for every record.

Records are decoded one by one into a typed structure that the contract describes, so that no
record's fate or place can depend on its neighbour's; the checks that follow run over columns.
A verdict names the column and what was expected, never what was met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from transforms.coding import Coded, join_texts
from transforms.pii.canonical import canonicalise
from transforms.pii.contracts import Contract, Field, whole_pattern

ROW = "_row"
UNKNOWN = "_unknown"
# Records that are decoded without looking at each: one bad record slows down only these, and what
# was decoded is read while it is still near the processor.
_STEP = 4096

# The first part becomes a number of a table, which may not be absent.
_VERSION = r"^[0-9]{1,9}(\.|$)"

# What Python has names for; bounds in a table's statistics are rounded up, and need names as well.
_FIRST_TIME, _LAST_TIME = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

_UNDECODABLE = (msgspec.DecodeError, RecursionError, UnicodeError)
# More than 64 bits are no integer of a table.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "string": (str, pa.large_string()),
    "integer": (_INTEGER, pa.int64()),
    "number": (float, pa.float64()),
    "boolean": (bool, pa.bool_()),
    "timestamp": (str, pa.large_string()),
}


@dataclass
class Parsed:
    """What came of a list of payloads.

    Shape: `fields` has a column of canonical values for each declared field, and `_unknown` (JSON of the
    undeclared fields, null where there are none), all with a row for every payload. `rows` are the
    places of the accepted ones; `rejected` maps the place of every other to its reason, and what `fields` holds
    there is of no meaning.
    """

    fields: Mapping[str, Coded]
    rows: npt.NDArray[np.int64]
    rejected: dict[int, str]

    def to_frame(self) -> pl.DataFrame:
        """Give the accepted records, with `_row`, as a frame: every text is written out for it."""
        columns = {name: column.take(self.rows).to_series() for name, column in self.fields.items()}
        return pl.DataFrame({ROW: self.rows, **columns})


@dataclass(frozen=True)
class _Decoders:
    strict: Callable[[bytes], Any]
    tolerant: Callable[[bytes], Any]
    getters: tuple[Callable[[Any], Any], ...]
    blank: Any


def parse_records(payloads: Sequence[bytes], contract: Contract) -> Parsed:
    """Decode and check records against their contract. Every payload is accepted or rejected."""
    rejected: dict[int, str] = {}
    steps = [
        _decode(start, payloads[start : start + _STEP], contract, rejected)
        for start in range(0, max(len(payloads), 1), _STEP)
    ]
    *parts, unknown = zip(*steps, strict=True)
    fields = {
        declared.name: _checked(_joined(columns, declared, len(payloads)), declared, rejected)
        for declared, columns in zip(contract.fields, parts, strict=True)
    }
    is_good = np.ones(len(payloads), bool)
    is_good[list(rejected)] = False
    return Parsed({**fields, UNKNOWN: _join_unknown(unknown)}, np.flatnonzero(is_good), rejected)


def _decode(
    start: int, payloads: Sequence[bytes], contract: Contract, rejected: dict[int, str]
) -> list[pa.Array[Any]]:
    """Decode a step of records, the first of them with the number `start`; what is undeclared comes last.

    Shape: a column for each field, nulls where a record is rejected.
    """
    decoders = _decoders(contract)
    unknown = pa.nulls(len(payloads), pa.large_binary())
    try:
        structures = list(map(decoders.strict, payloads))
    except _UNDECODABLE:
        each = [_decode_one(payload, contract) for payload in payloads]
        rejected.update((row, one) for row, one in enumerate(each, start) if isinstance(one, str))
        known = [(decoders.blank, None) if isinstance(one, str) else one for one in each]
        structures = [structure for structure, _ in known]
        unknown = pa.array([undeclared for _, undeclared in known], pa.large_binary())
    columns = [
        pa.array(list(map(getter, structures)), _TYPES[declared.logical_type][1])
        for declared, getter in zip(contract.fields, decoders.getters, strict=True)
    ]
    return [*columns, unknown]


def _joined(parts: Sequence[pa.Array[Any]], declared: Field, rows: int) -> Coded:
    if _TYPES[declared.logical_type][0] is str:
        return join_texts(parts, rows)
    return Coded(pl.Series(pa.chunked_array(parts)).rechunk())


def _join_unknown(parts: Sequence[pa.Array[Any]]) -> Coded:
    unknown = pa.chunked_array(parts)
    if unknown.null_count == len(unknown):
        return Coded(pl.Series([], dtype=pl.Binary), pa.nulls(len(unknown), pa.int32()))
    return Coded(pl.Series(unknown, dtype=pl.Binary).rechunk())


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
    too_long = re.match(r"Expected `int` [<>]= -?[0-9]+ - at `\$\.([a-z0-9_]+)`$", text)
    if missing:
        return f"column {missing[1]}: required, but absent"
    if too_long:
        return f"column {too_long[1]}: expected an integer of 64 bits"
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
    blank = msgspec.defstruct("Blank", [(slot, None, None) for slot in slots], gc=False)()
    return _Decoders(strict, tolerant, tuple(map(attrgetter, slots)), blank)


def _member(slot: str, declared: Field) -> tuple[Any, ...]:
    python_type = _TYPES[declared.logical_type][0]
    return (slot, python_type) if declared.required else (slot, python_type | None, None)


def _checked(column: Coded, declared: Field, rejected: dict[int, str]) -> Coded:
    """Bring a column to its canonical form; the rows that hold something else are rejected for it."""
    canonical = _canonical_column(column.values, declared)
    if canonical is column.values:
        return column
    is_bad = column.values.is_not_null() & canonical.is_null()
    if is_bad.any():
        for row in column.spread(is_bad).fill_null(False).arg_true():
            # What was found first stays.
            rejected.setdefault(row, _expectation(declared))
    return column.become(canonical)


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
        fits &= texts.str.contains(whole_pattern(declared.pattern))
    if declared.derive == "version":
        fits &= texts.str.contains(_VERSION)
    return texts if fits.all(ignore_nulls=True) else texts.set(~fits.fill_null(True), None)


def _timestamps(values: pl.Series) -> pl.Series:
    """Read RFC 3339 with an offset; null where it is none, or in UTC has no year of four digits.

    Units: microseconds, UTC.
    """
    if values.null_count() == len(values):
        return values.cast(pl.Datetime("us", "UTC"))
    texts = values.str.replace("[Zz]$", "+00:00").str.replace("^(.{10})[ t]", "${1}T")
    moments = texts.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    # A time that only polars can hold would stop the batch later.
    is_named = moments.is_between(_FIRST_TIME, _LAST_TIME).fill_null(True)
    return moments if is_named.all() else moments.set(~is_named, None)


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
        if declared.derive is not None:
            wanted += f", a {declared.derive} that begins with a number"
    return f"column {declared.name}: expected {wanted or f'1 to {declared.max_length} characters'}"
