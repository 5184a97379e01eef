"""Numbers for rows that agree, so that a caller works on distinct ones only. Nothing is sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transforms.coding import cuts

Numbers: TypeAlias = "NDArray[np.int64]"
Words: TypeAlias = "NDArray[np.uint64]"

# Odd numbers of 64 random bits, as many as there are words at most.
_FACTORS = np.array(
    (
        0x9E3779B97F4A7C15,
        0xD1B54A32D192ED03,
        0xABC98388FB8FAC03,
        0x8CB92BA72F3D8DD7,
        0xDB4F0B9175AE2165,
        0xB5AD4ECEDA1CE2A9,
        0xC2B2AE3D27D4EB4F,
        0xA0761D6478BD642F,
    ),
    np.uint64,
)


def number_values(values: Numbers) -> tuple[Numbers, Numbers]:
    """Give numbers to the distinct values, in the order that they are met; and the values by number."""
    encoded = pa.array(values).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, cast("Any", encoded.dictionary).to_numpy(zero_copy_only=False)


def numbers_of(codes: pl.Series) -> Numbers:
    """Give codes as numbers, -1 for a null."""
    return codes.cast(pl.Int64).fill_null(-1).to_numpy()


def number_rows(words: Sequence[Words]) -> tuple[Numbers, Numbers]:
    """Give rows that agree in each of some columns one number.

    Shape: up to eight columns in; a number for each row, in the order that they are met, and by number
    the first row that has it.
    """
    codes, firsts = _first_of_each(number_values(_sums(words).view(np.int64))[0])
    if _agree(words, codes, firsts):
        return codes, firsts
    return _first_of_each(_number_exactly(words))


class KnownRows:
    """Rows that keep their numbers, to be met again."""

    def __init__(self) -> None:
        """Begin with none."""
        self._words: list[Words] = []
        self._known_sums = np.empty(0, np.uint64)

    def __len__(self) -> int:
        """Count them."""
        return len(self._known_sums)

    def find(self, words: Sequence[Words]) -> Numbers:
        """Give each row's number, -1 for one that is not known."""
        if not len(self):
            return np.full(len(words[0]), -1)
        found = pc.index_in(pa.array(_sums(words)), value_set=pa.array(self._known_sums))
        numbers = np.asarray(found.fill_null(-1).to_numpy().astype(np.int64))
        for known, word in zip(self._words, words, strict=True):
            numbers[known[numbers] != word] = -1
        return numbers

    def add(self, words: Sequence[Words]) -> Numbers:
        """Give rows that are not known, all of them distinct, the next numbers."""
        sums = _sums(words)
        numbers = np.arange(len(self), len(self) + len(sums))
        self._known_sums = np.append(self._known_sums, sums)
        before = self._words or [np.empty(0, np.uint64)] * len(words)
        self._words = [np.append(known, word) for known, word in zip(before, words, strict=True)]
        return numbers


def _sums(words: Sequence[Words]) -> Words:
    """Add the words of each row, each times its factor: one hash table instead of one for each word.

    Where two rows have the same sum, which takes intent or 2**32 distinct ones, words tell them apart.
    """
    sums = np.zeros(len(words[0]), np.uint64)
    for cut in cuts(len(sums)):
        for word, factor in zip(words, _FACTORS, strict=False):
            sums[cut] += word[cut] * factor
    return sums


def _agree(words: Sequence[Words], codes: Numbers, firsts: Numbers) -> bool:
    """Whether each row says what the first one with its number says."""
    known = [(word, word[firsts]) for word in words]
    # Where no place is looked at twice to see whether it is one, that takes two thirds of the time.
    return all(
        (first.take(codes[cut], mode="wrap") == word[cut]).all()
        for cut in cuts(len(codes))
        for word, first in known
    )


def _first_of_each(codes: Numbers) -> tuple[Numbers, Numbers]:
    """Give the codes, and the first place of each."""
    firsts = np.empty(int(codes.max(initial=-1)) + 1, np.int64)
    places = np.arange(len(codes))
    # Of several values for one place the last one stays: from behind, that is the first row.
    firsts[codes[::-1]] = places[::-1]
    return codes, firsts


def _number_exactly(words: Sequence[Words]) -> Numbers:
    """Give numbers by all bytes of the rows; slower, and for whatever is in them."""
    octets = np.ascontiguousarray(np.stack(words, axis=1))
    kind, buffers = pa.binary(8 * len(words)), [None, pa.py_buffer(octets.reshape(-1).data)]
    encoded: Any = pa.Array.from_buffers(kind, len(octets), buffers).dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))
