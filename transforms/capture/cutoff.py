"""A cut-off for each flow: beyond so many bytes, packets keep their headers and lose their payload.

Most bytes of a busy line are in few long flows that nobody reads to their end.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.capture.community import distinct_flows
from transforms.capture.packets import HEADER_BYTES, Packets
from transforms.capture.spans import gather_spans, write_headers

Ints: TypeAlias = "NDArray[np.int64]"


def cut_flows(
    packets: Packets, layers: pl.DataFrame, limit_bytes: int, seen: MutableMapping[str, int]
) -> tuple[Packets, int]:
    """Cut the payload of packets whose flow has had `limit_bytes` captured already.

    `seen` counts the bytes of each flow, by its Community ID, and is brought up to date. Original lengths
    stay; packets of no flow stay whole. Gives the packets, and how many bytes were cut.
    """
    codes, names = distinct_flows(layers)
    if not len(names) or not len(packets):
        return packets, 0
    flow = codes.fill_null(-1).to_numpy()
    captured = packets.headers["captured"].astype(np.int64)
    before = np.array([seen.get(name, 0) for name in names], np.int64)[flow] + _earlier_bytes(flow, captured)
    totals = np.bincount(flow[flow >= 0], captured[flow >= 0], minlength=len(names))
    for name, total in zip(names, totals.tolist(), strict=True):
        seen[name] = seen.get(name, 0) + int(total)
    heads = layers["payload_offset"].cast(pl.Int64).fill_null(-1).to_numpy() - HEADER_BYTES
    kept = np.where((flow >= 0) & (before >= limit_bytes) & (heads >= 0), np.minimum(heads, captured), captured)
    cut = int((captured - kept).sum())
    if not cut:
        return packets, 0
    begins = packets.starts[:-1]
    records, starts = gather_spans(packets.records, begins, begins + HEADER_BYTES + kept)
    headers = packets.headers.copy()
    headers["captured"] = kept
    write_headers(records, starts[:-1], headers)
    return Packets(packets.interface, records, starts, packets.era), cut


def _earlier_bytes(flow: Ints, captured: Ints) -> Ints:
    """Sum what each packet's flow had before it, among these packets."""
    order = np.argsort(flow, kind="stable")
    sums = np.cumsum(captured[order]) - captured[order]
    begins = np.concatenate(([True], flow[order][1:] != flow[order][:-1]))
    sums -= np.maximum.accumulate(np.where(begins, sums, 0))
    earlier: Ints = np.empty_like(sums)
    earlier[order] = sums
    return earlier
