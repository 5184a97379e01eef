"""Columns that are taken apart into distinct values come together again as they were."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transforms.coding import Coded, distinct_of, join_texts, number_close, smallest_kind

TEXTS = st.lists(
    st.none() | st.sampled_from(["", "a", "b", "\u00e9", "x" * 40]) | st.text(max_size=3), max_size=60
)


def is_sound(column: Coded) -> bool:
    """Whether values are there once each, where there are codes, and each of them in some row."""
    if column.codes is None:
        return True
    there = column.codes.drop_null().to_pylist()
    return column.values.null_count() == 0 and set(there) == set(range(column.values.n_unique()))


@given(TEXTS, st.integers(1, 20))
def test_a_column_is_what_its_distinct_values_come_to(values: list[str | None], times: int):
    column = pl.Series("it", values * times, dtype=pl.String)
    coded = distinct_of(column)
    assert coded.to_series().to_list() == coded.to_arrow().to_pylist() == column.to_list()
    assert coded.is_there.to_list() == column.is_not_null().to_list()
    assert len(coded) == len(column)
    distinct, codes = coded.numbered()
    assert distinct.gather(codes.to_pylist()).to_list() == column.to_list()


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 20))
def test_parts_that_are_joined_are_one_column(parts: list[list[str | None]], times: int):
    texts = [pa.array(part * times, pa.large_string()) for part in parts]
    whole = [value for part in texts for value in part.to_pylist()]
    joined = join_texts(texts, len(whole))
    assert joined.to_series().to_list() == joined.to_arrow().to_pylist() == whole
    assert joined.values.dtype == pl.String and is_sound(joined)


@given(TEXTS, st.integers(1, 20), st.randoms())
def test_rows_that_are_taken_bring_their_values_and_no_other(values, times, random):
    """A value that only a rejected record has must not come into a table's dictionary."""
    column = distinct_of(pl.Series("it", values * times, dtype=pl.String))
    rows = [row for row in range(len(column)) if random.random() < 0.5]
    random.shuffle(rows)
    taken = column.take(np.array(rows, np.int64))
    assert taken.to_series().to_list() == [(values * times)[row] for row in rows]
    assert is_sound(taken)


@given(TEXTS, st.integers(1, 20))
def test_what_two_values_become_is_one_and_what_becomes_null_is_none(values: list[str | None], times: int):
    """A file's dictionary must not name one value twice, nor hold a null."""
    column = pl.Series("it", values * times, dtype=pl.String)
    coded = distinct_of(column)
    first = coded.become(coded.values.str.slice(0, 1))
    gone = coded.become(coded.values.set(coded.values == "a", None))
    sizes = coded.become(coded.values.str.len_chars())
    assert first.to_arrow().to_pylist() == column.str.slice(0, 1).to_list()
    assert gone.to_arrow().to_pylist() == [None if value == "a" else value for value in column]
    assert sizes.to_arrow().to_pylist() == column.str.len_chars().to_list()
    assert is_sound(first) and is_sound(gone)


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
