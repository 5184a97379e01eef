"""Copies of many spans of bytes at once, and of headers into what was copied."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from transforms.capture.packets import HEADER_BYTES


def gather_spans(
    window: NDArray[np.uint8],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    order: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Copy spans of a window back to back, in their order or in another.

    Spans come in order and do not overlap; only the first may begin before the window, where
    zeros stand for what is missing.
    Shape: the bytes, writable, and where each span begins in them and, last, where they end.
    """
    import pyarrow as pa

    count = len(begins)
    if not (count if order is None else len(order)):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    if begins[0] < 0:
        missing = int(-begins[0])
        window = np.concatenate((np.zeros(missing, np.uint8), window))
        begins, ends = begins + missing, ends + missing
    # Every second element of this column is a span, the others are what lies between: Arrow copies
    # those that are taken, several times as fast as numpy can copy bytes of many lengths.
    places = np.zeros(2 * count + 1, np.int64)
    places[1::2], places[2::2] = begins, ends
    column = pa.Array.from_buffers(
        pa.large_binary(), 2 * count, [None, pa.py_buffer(places.data), pa.py_buffer(window.data)]
    )
    chosen = np.arange(1, 2 * count, 2) if order is None else 2 * order + 1
    _, places_out, values = column.take(chosen).buffers()
    starts = np.frombuffer(cast("memoryview", places_out), np.int64)[: len(chosen) + 1]
    return np.frombuffer(cast("memoryview", values), np.uint8)[: starts[-1]], starts


def write_headers(records: NDArray[np.uint8], starts: NDArray[np.int64], headers: NDArray[np.void]) -> None:
    """Write a header over the first 16 bytes of every record."""
    places = np.ndarray((len(records) - HEADER_BYTES + 1,), f"V{HEADER_BYTES}", records, strides=(1,))
    places[starts] = headers.view(f"V{HEADER_BYTES}")
