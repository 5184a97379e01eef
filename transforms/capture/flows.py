"""Addresses and flows, masked once for all packets of a batch: from chunk to chunk, most talk goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from transforms.capture.community import distinct_flows, words_of_directions
from transforms.capture.layers import distinct_addresses, fields_to_frame, format_ips
from transforms.capture.links import Fields, Mask
from transforms.capture.numbering import KnownRows, Numbers, number_rows, numbers_of
from transforms.capture.prefixes import encrypt_prefixes
from transforms.coding import Column, to_arrow
from transforms.pii.siv import SivKey, encrypt_column

# Some 40 MB of tokens and numbers. Where a chunk brings it to more, the next one begins anew.
_MOST_DIRECTIONS = 1 << 18
_NO_TEXTS: Any = pa.array([], pa.large_string())
_OF_FLOWS = (
    "ip_version",
    "src_ip_high",
    "src_ip_low",
    "dst_ip_high",
    "dst_ip_low",
    "protocol",
    "src_port",
    "dst_port",
    "icmp_type",
    "icmp_code",
)


@dataclass(frozen=True)
class MaskedEnds:
    """Who talks to whom in some rows, masked.

    Shape: for each row the number of its source's token, its destination's and its flow's, -1 where it
    has none; tokens by number, none that no row has, and addresses once more, prefix-preserving.
    """

    src: Numbers
    dst: Numbers
    flow: Numbers
    tokens: Column
    prefixes: Column
    flow_tokens: Column


class FlowMasker:
    """Masks addresses and flows, and remembers them while it lives."""

    def __init__(self, ip_key: SivKey, flow_key: SivKey, prefix_key: bytes) -> None:
        """Begin with none known."""
        self._ip_key, self._flow_key, self._prefix_key = ip_key, flow_key, prefix_key
        self._forget()

    def _forget(self) -> None:
        self._directions = KnownRows()
        # Source, destination and flow of each direction.
        self._numbers = np.empty((3, 0), np.int64)
        self._tokens, self._flows, self._prefixes = _KnownTexts(), _KnownTexts(), _NO_TEXTS

    def mask(self, columns: Mapping[str, Fields], valid: Mapping[str, Mask]) -> MaskedEnds:
        """Mask the ends of rows; each direction that is new is looked into once.

        A flow's Community ID is a token too: a bare one is a digest that can be guessed.
        Shape: columns that `read_fields` gives, those of IP, ports and ICMP among them.
        """
        words = words_of_directions(columns, valid)
        directions, firsts = number_rows(words)
        words = [word[firsts] for word in words]
        known = self._directions.find(words)
        new = np.flatnonzero(known < 0)
        if new.size:
            known[new] = self._directions.add([word[new] for word in words])
            rows = firsts[new]
            fields = {name: columns[name][rows] for name in _OF_FLOWS}
            self._learn(fields_to_frame(fields, {group: mask[rows] for group, mask in valid.items()}))
        src, dst, flow = self._numbers[:, known]
        (src, dst), ends = _only_met(len(self._prefixes), src, dst)
        (flow,), flows = _only_met(len(self._flows.texts), flow)
        taken = self._tokens.texts.take(ends), self._prefixes.take(ends), self._flows.texts.take(flows)
        if len(self._directions) > _MOST_DIRECTIONS:
            self._forget()
        return MaskedEnds(src[directions], dst[directions], flow[directions], *taken)

    def _learn(self, layers: pl.DataFrame) -> None:
        """Mask what is new, and number it behind what is known."""
        codes, distinct = distinct_addresses(layers)
        ends, new = self._tokens.number(to_arrow(encrypt_column(format_ips(distinct), self._ip_key)))
        prefixes = to_arrow(format_ips(encrypt_prefixes(distinct[new], self._prefix_key)))
        self._prefixes = pa.concat_arrays([self._prefixes, prefixes])
        code, ids = distinct_flows(layers)
        flows, _ = self._flows.number(to_arrow(encrypt_column(ids, self._flow_key)))
        numbers = [_looked_up(ends, codes[0]), _looked_up(ends, codes[1]), _looked_up(flows, code)]
        self._numbers = np.concatenate((self._numbers, numbers), axis=1)


class _KnownTexts:
    """Texts that keep their numbers, to be met again."""

    def __init__(self) -> None:
        self.texts = _NO_TEXTS

    def number(self, texts: Any) -> tuple[Numbers, Numbers]:  # noqa: ANN401 - an array of texts
        """Give distinct texts the numbers that they have, or the next ones; and the places of those."""
        found = pc.index_in(texts, value_set=self.texts)
        numbers = found.fill_null(0).to_numpy().astype(np.int64)
        new = np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))
        numbers[new] = len(self.texts) + np.arange(len(new))
        self.texts = pa.concat_arrays([self.texts, texts.take(new)])
        return numbers, new


def _looked_up(numbers: Numbers, codes: pl.Series) -> Numbers:
    """Give each code's number; -1 for a null."""
    return np.asarray(np.append(numbers, -1)[numbers_of(codes)])


def _only_met(count: int, *columns: Numbers) -> tuple[list[Numbers], Numbers]:
    """Give numbers to those that some row has: the columns in these numbers, and what had which before."""
    is_met = np.zeros(count + 1, bool)
    for column in columns:
        is_met[column] = True
    # The last place stands for what a row does not have, whose number is -1.
    is_met[-1] = False
    numbers = np.cumsum(is_met) - 1
    numbers[-1] = -1
    return [numbers[column] for column in columns], np.flatnonzero(is_met)
