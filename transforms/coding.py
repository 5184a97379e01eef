"""Columns by codes: the distinct values, and for each row its value's number, in as few bytes as that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = "pa.Array[Any]"
Codes: TypeAlias = "npt.NDArray[Any]"

_SAMPLE_ROWS = 4096
_NEAR_ROWS = 1 << 16
# Numbers that lie closer together than this are looked up in a table of as many entries.
_MOST_SPAN = 1 << 16


def cuts(rows: int, at_once: int = _NEAR_ROWS) -> Iterator[slice]:
    """Cut rows into so many at once, that what is made of them on the way stays near the processor.

    Memory that is taken anew for millions of rows costs more than what is computed in it.
    """
    return (slice(first, min(first + at_once, rows)) for first in range(0, rows, at_once))


def constant(value: object, kind: pa.DataType, rows: int) -> Column:
    """Give a column that holds one value throughout, or only nulls."""
    codes = np.zeros(rows, np.uint8)
    if value is None:
        return _coded(codes, pa.py_buffer(bytes(-(-rows // 8))), pa.array([], kind))
    return _coded(codes, None, pa.array([value], kind))


def spread(codes: Codes, distinct: Column, of_rows: npt.NDArray[np.int64] | None = None) -> Column:
    """Give a dictionary column by codes into its distinct values; a code below 0 is a null.

    Shape: a code for each row; or fewer of them, and each row's place among them in `of_rows`.
    """
    rows = len(codes if of_rows is None else of_rows)
    valid = codes >= 0
    if not valid.any():
        return constant(None, distinct.type, rows)
    if len(distinct) == 1 and valid.all():
        return constant(distinct[0].as_py(), distinct.type, rows)
    known = codes if valid.all() else np.where(valid, codes, 0)
    narrow = known.astype(smallest_kind(len(distinct)), copy=False)
    if of_rows is not None:
        narrow, valid = narrow[of_rows], valid if valid.all() else valid[of_rows]
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").data)
    return _coded(narrow, bitmap, distinct)


def number_close(values: npt.NDArray[Any]) -> tuple[Codes, npt.NDArray[Any]] | None:
    """Give numbers that lie close together codes, in their order, and the distinct ones by code.

    Shape: at least one integer in. None where the least and the most are 65,536 apart or more.
    """
    least = int(values.min())
    if int(values.max()) - least >= _MOST_SPAN:
        return None
    is_met = np.zeros(_MOST_SPAN, bool)
    for cut in cuts(len(values)):
        is_met[_places(values[cut], least)] = True
    met = np.flatnonzero(is_met)
    codes = (np.cumsum(is_met, dtype=np.int32) - 1).astype(smallest_kind(len(met)))
    narrow = np.empty(len(values), codes.dtype)
    for cut in cuts(len(values)):
        narrow[cut] = codes[_places(values[cut], least)]
    return narrow, (met + least).astype(values.dtype.newbyteorder("="))


def _places(values: npt.NDArray[Any], least: int) -> npt.NDArray[np.intp]:
    # numpy looks up by its own kind of index several times as fast as by any other.
    places = values.astype(np.intp)
    places -= least
    return places


def smallest_kind(count: int) -> type[np.unsignedinteger[Any]]:
    """Give the narrowest numbers that tell so many values apart."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


def _coded(codes: Codes, bitmap: pa.Buffer | None, distinct: Column) -> Column:
    buffers = [bitmap, pa.py_buffer(codes.data)]
    numbers: Any = pa.Array.from_buffers(pa.from_numpy_dtype(codes.dtype), len(codes), buffers)
    return pa.DictionaryArray.from_arrays(numbers, distinct)


def hardly_repeats(values: pa.Array[Any] | pa.ChunkedArray[Any] | pl.Series) -> bool:
    """Whether most of a column's values are distinct, by a look at the first of them."""
    sample = values[:_SAMPLE_ROWS]
    met = sample.n_unique() if isinstance(sample, pl.Series) else pc.count_distinct(sample).as_py()
    return estimate_distinct(met, len(sample)) > len(values) // 2 > 0


def estimate_distinct(met: int, looked_at: int) -> float:
    """Estimate how many distinct values there are in all from those among some; equally frequent ones.

    Of n values, looking m times meets n (1 - e^(-m/n)). That rises with n: the n is found by halving.
    """
    if met >= looked_at:
        return math.inf
    low, high = float(met), float(met * looked_at)
    while high - low > max(1e-3 * low, 1e-6):
        middle = (low + high) / 2
        expected = -middle * math.expm1(-looked_at / middle)
        low, high = (middle, high) if expected < met else (low, middle)
    return high


def distinct_of(values: pl.Series) -> tuple[pl.Series, pa.Array[Any] | None]:
    """Give the distinct values of texts that repeat, and the place of each row's among them.

    Shape: a series without nulls, int32 codes with the column's nulls. Other columns come back as they
    are, without codes. `back_to_rows` makes a column of what came of the distinct values.
    """
    if values.dtype != pl.String or hardly_repeats(values):
        return values, None
    if (values == values[:1]).all(ignore_nulls=False):
        return values[:1], pa.array(np.zeros(len(values), np.int32))
    return number_texts(values)


def number_texts(values: pl.Series) -> tuple[pl.Series, pa.Array[Any]]:
    """Give the distinct texts, in the order that they are met, and which of them each row has."""
    encoded: Any = values.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    return pl.Series(values.name, encoded.dictionary, dtype=pl.String), encoded.indices


def back_to_rows(values: pl.Series, codes: pa.Array[Any] | None) -> pa.Array[Any]:
    """Give an Arrow column of values at the places that codes name: a dictionary, where one can be.

    A file's dictionary holds no null, and nothing twice.
    """
    column = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    if codes is None:
        return column
    if values.dtype == pl.String and not values.null_count() and values.is_unique().all():
        return pa.DictionaryArray.from_arrays(codes, column)
    return column.take(codes)
