"""Columns that are taken apart into distinct values come together again as they were."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transforms.coding import back_to_rows, distinct_of, number_close, smallest_kind

TEXTS = st.lists(
    st.none() | st.sampled_from(["", "a", "b", "\u00e9", "x" * 40]) | st.text(max_size=3), max_size=60
)


@given(TEXTS, st.integers(1, 20))
def test_a_column_is_what_its_distinct_values_come_to(values: list[str | None], times: int):
    column = pl.Series("it", values * times, dtype=pl.String)
    distinct, codes = distinct_of(column)
    assert back_to_rows(distinct, codes).to_pylist() == column.to_list()
    if codes is not None:
        assert distinct.null_count() == 0 and distinct.is_unique().all()


@given(TEXTS, st.integers(1, 20))
def test_what_two_values_become_is_no_dictionary(values: list[str | None], times: int):
    """A file's dictionary must not name one value twice, nor hold a null."""
    column = pl.Series("it", values * times, dtype=pl.String)
    distinct, codes = distinct_of(column)
    first = back_to_rows(distinct.str.slice(0, 1), codes)
    gone = back_to_rows(distinct.set(distinct == "a", None), codes)
    assert first.to_pylist() == column.str.slice(0, 1).to_list()
    assert gone.to_pylist() == [None if value == "a" else value for value in column]
    for made in (first, gone):
        if pa.types.is_dictionary(made.type):
            kept = made.dictionary.to_pylist()
            assert None not in kept and len(kept) == len(set(kept))


@given(st.sampled_from(["u1", "i2", ">u2", "i4", "i8"]), st.data())
def test_numbers_that_lie_close_together_have_codes_in_their_order(kind, data):
    bounds = np.iinfo(kind)
    least = data.draw(st.integers(bounds.min, bounds.max))
    most = data.draw(st.integers(least, min(bounds.max, least + 65_535)))
    values = data.draw(st.lists(st.integers(least, most), min_size=1, max_size=50))
    codes, distinct = number_close(np.array(values, kind))
    assert distinct.tolist() == sorted(set(values))
    assert distinct[codes].tolist() == values
    assert distinct.dtype == np.dtype(kind).newbyteorder("=") and codes.dtype == smallest_kind(len(distinct))


@pytest.mark.parametrize("rows", [65_535, 65_536, 65_537, 200_000])
def test_all_of_many_rows_have_codes(rows):
    values = np.random.default_rng(rows).integers(-40, 1_500, rows).astype(np.int32)
    codes, distinct = number_close(values)
    assert (distinct[codes] == values).all()


@given(st.integers(-(2**63), 2**63 - 1 - 65_536))
@example(-(2**63))
@example(0)
def test_numbers_that_lie_far_apart_have_none(least):
    assert number_close(np.array([least, least + 65_536])) is None
    assert number_close(np.array([-(2**63), 2**63 - 1])) is None
    assert number_close(np.array([least, least + 65_535])) is not None
