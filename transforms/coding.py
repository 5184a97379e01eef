"""Columns by codes: the distinct values, and for each row its value's number, in as few bytes as that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        # Where no place is looked at twice to see whether it is one, that takes half of the time.
        narrow = narrow.take(of_rows, mode="wrap")
        valid = valid if valid.all() else valid.take(of_rows, mode="wrap")
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
        narrow[cut] = codes.take(_places(values[cut], least), mode="wrap")
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
    return _dictionary(numbers, distinct)


def with_values(column: Any, distinct: Column) -> Column:  # noqa: ANN401 - a dictionary column
    """Give a dictionary column's codes other values, as many in the same order."""
    return _dictionary(column.indices, distinct)


def _dictionary(codes: Any, distinct: Column) -> Column:  # noqa: ANN401 - an array of integers
    # Arrow would look, row by row, whether there is a value for the code: these are places among the values.
    return pa.DictionaryArray.from_arrays(codes, distinct, safe=False)


def to_arrow(values: pl.Series) -> Any:  # noqa: ANN401 - an array of whatever the column holds
    """Give a column as the tables have it: texts whole and behind their lengths, no views."""
    return values.to_arrow(compat_level=pl.CompatLevel.oldest())


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


@dataclass(frozen=True)
class Coded:
    """A column as its distinct values, and for each row which of them it has.

    Shape: values that are all there and all different, and int32 codes with the column's nulls. Where
    hardly a value repeats, or they are no texts: a value for each row, and no codes.
    """

    values: pl.Series
    codes: Column | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.values if self.codes is None else self.codes)

    def take(self, rows: npt.NDArray[np.int64]) -> Coded:
        """Give the rows at these places; values that none of them has are left out."""
        if self.codes is None:
            return Coded(self.values.gather(rows))
        codes = self.codes.take(rows)
        is_met = np.zeros(len(self.values), bool)
        is_met[codes.drop_null().to_numpy()] = True
        if is_met.all():
            return Coded(self.values, codes)
        places = pa.array(np.cumsum(is_met, dtype=np.int32) - 1)
        return Coded(self.values.filter(pl.Series(is_met)), places.take(codes))

    def become(self, values: pl.Series) -> Coded:
        """Give the same rows with other values in the places of these; nulls stay what they are.

        Texts that have become the same are one value, and those that have become null are none.
        """
        if self.codes is None or values.dtype != pl.String:
            return Coded(self.spread(values))
        if not values.null_count() and values.n_unique() == len(values):
            return Coded(values, self.codes)
        distinct, codes = number_texts(values)
        return Coded(distinct, codes.take(self.codes))

    def spread(self, values: pl.Series) -> pl.Series:
        """Give each row what stands in the place of its value; null where it has none."""
        if self.codes is None:
            return values
        if values.is_empty():
            return values.clear(len(self))
        return values.gather(pl.Series(self.codes))

    def to_series(self) -> pl.Series:
        """Give the column row by row."""
        return self.spread(self.values)

    def to_arrow(self) -> Column:
        """Give an Arrow column: a dictionary where there are codes, as Parquet writes them."""
        column = to_arrow(self.values)
        return column if self.codes is None else _dictionary(self.codes, column)

    @property
    def is_there(self) -> pl.Series:
        """Tell which rows have a value."""
        return self.values.is_not_null() if self.codes is None else pl.Series(self.codes.is_valid())

    def numbered(self) -> tuple[pl.Series, Column]:
        """Give the distinct values and each row's code, also where hardly a text repeats."""
        return number_texts(self.values) if self.codes is None else (self.values, self.codes)


def distinct_of(values: pl.Series) -> Coded:
    """Take a column of texts that repeat apart; other columns stay as they are, without codes."""
    if values.dtype != pl.String or hardly_repeats(values):
        return Coded(values)
    if (values == values[:1]).all(ignore_nulls=False):
        return Coded(values[:1], pa.array(np.zeros(len(values), np.int32)))
    return Coded(*number_texts(values))


def number_texts(values: pl.Series) -> tuple[pl.Series, Column]:
    """Give the distinct texts, in the order that they are met, and which of them each row has."""
    encoded: Any = to_arrow(values).dictionary_encode()
    return pl.Series(values.name, encoded.dictionary, dtype=pl.String), encoded.indices


def join_texts(parts: Sequence[Column], rows: int) -> Coded:
    """Make one column of the parts in which its texts were read; the first tells whether they repeat."""
    whole: Any = pa.chunked_array(parts)
    if not rows or estimate_distinct(len(parts[0].unique()), len(parts[0])) > rows // 2 > 0:
        return Coded(pl.Series(whole, dtype=pl.String).rechunk())
    encoded = whole.dictionary_encode()
    # The parts share one dictionary.
    codes: Any = pa.concat_arrays([part.indices for part in encoded.chunks])
    return Coded(pl.Series(encoded.chunk(0).dictionary, dtype=pl.String), codes)
