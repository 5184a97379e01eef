"""Columns that are taken apart into distinct values come together again as they were."""

import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.coding import back_to_rows, distinct_of

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
