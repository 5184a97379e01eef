"""Columns by codes: the distinct values, and for each row its value's number, in as few bytes as that takes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Column: TypeAlias = "pa.Array[Any]"
Codes: TypeAlias = "npt.NDArray[Any]"


def constant(value: object, kind: pa.DataType, rows: int) -> Column:
    """Give a column that holds one value throughout, or only nulls."""
    distinct: Column = pa.array([] if value is None else [value], kind)
    return _coded(np.zeros(rows, np.uint8), np.zeros(rows, bool) if value is None else None, distinct)


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
    narrow = np.where(valid, codes, 0).astype(smallest_kind(len(distinct)))
    if of_rows is not None:
        narrow, valid = narrow[of_rows], valid if valid.all() else valid[of_rows]
    return _coded(narrow, None if valid.all() else valid, distinct)


def smallest_kind(count: int) -> type[np.unsignedinteger[Any]]:
    """Give the narrowest numbers that tell so many values apart."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


def _coded(codes: Codes, valid: Codes | None, distinct: Column) -> Column:
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little").data)
    buffers = [bitmap, pa.py_buffer(codes.data)]
    numbers: Any = pa.Array.from_buffers(pa.from_numpy_dtype(codes.dtype), len(codes), buffers)
    return pa.DictionaryArray.from_arrays(numbers, distinct)
