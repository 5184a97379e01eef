"""What is remembered of a batch's flows is what would be masked packet by packet."""

import ipaddress
import struct
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_packets import ADDRESSES, ethernet, frames, packets_of
from transforms.capture import flows, numbering
from transforms.capture.community import community_ids
from transforms.capture.flows import FlowMasker
from transforms.capture.layers import read_fields, read_layers
from transforms.capture.prefixes import encrypt_prefixes
from transforms.pii.siv import SivKey, encrypt_column

IP_KEY = SivKey(bytes(range(64)), b"\0\0\0\1", (b"acme|ip",))
FLOW_KEY = SivKey(bytes(range(64)), b"\0\0\0\2", (b"acme|flow",))
PREFIX_KEY = bytes(range(32))
IPV4 = struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0)
PORTS = struct.pack(">4H", 40_000, 53, 8, 0)
COLLIDING = np.zeros(8, np.uint64)


def masker():
    return FlowMasker(IP_KEY, FLOW_KEY, PREFIX_KEY)


def address_of(high, low):
    """As Python writes it; IPv4 out of ::ffff:0:0/96."""
    address = ipaddress.IPv6Address((high << 64) | low)
    return str(address.ipv4_mapped or address)


def expected_of(layers):
    """Mask row by row: source, destination, both prefix-preserving, the flow."""
    columns = []
    for side in ("src", "dst"):
        pairs = list(zip(layers[f"{side}_ip_high"], layers[f"{side}_ip_low"], strict=True))
        texts = [None if low is None else address_of(high, low) for high, low in pairs]
        columns.append(encrypt_column(pl.Series(texts, dtype=pl.String), IP_KEY).to_list())
        octets = [((high or 0) << 64 | (low or 0)).to_bytes(16, "big") for high, low in pairs]
        masked = encrypt_prefixes(np.frombuffer(b"".join(octets), np.uint8).reshape(-1, 16), PREFIX_KEY)
        halves = [divmod(int.from_bytes(row.tobytes(), "big"), 1 << 64) for row in masked]
        columns.append(
            [None if low is None else address_of(*half) for (_, low), half in zip(pairs, halves, strict=True)]
        )
    return [*columns, encrypt_column(community_ids(layers), FLOW_KEY).to_list()]


def spread(numbers, texts):
    known = texts.to_pylist()
    return [None if number < 0 else known[number] for number in numbers.tolist()]


@pytest.mark.parametrize(("factors", "most"), [(None, 1 << 18), (COLLIDING, 2)])
@given(chunks=st.lists(st.lists(frames(), min_size=1, max_size=8), min_size=1, max_size=3))
def test_each_chunk_is_masked_as_if_it_were_alone(chunks, factors, most):
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(flows, "_MOST_DIRECTIONS", most)
        if factors is not None:
            # As if packets were made so that different directions have the same sum.
            changed.setattr(numbering, "_FACTORS", factors)
        remembering = masker()
        for sent in chunks:
            packets = packets_of(sent)
            ends = remembering.mask(*read_fields(packets))
            src, src_prefix, dst, dst_prefix, flow = expected_of(read_layers(packets))
            assert spread(ends.src, ends.tokens) == src
            assert spread(ends.dst, ends.tokens) == dst
            assert spread(ends.src, ends.prefixes) == src_prefix
            assert spread(ends.dst, ends.prefixes) == dst_prefix
            assert spread(ends.flow, ends.flow_tokens) == flow
            # A file holds its dictionaries whole: of what other chunks have, there must be nothing.
            assert sorted(ends.tokens.to_pylist()) == sorted({*src, *dst} - {None})
            assert sorted(ends.flow_tokens.to_pylist()) == sorted({*flow} - {None})


def test_what_is_known_is_not_masked_again():
    packets = packets_of([ethernet(IPV4 + ADDRESSES[at] + ADDRESSES[2] + PORTS, 0x0800) for at in (0, 1)])
    remembering, fields = masker(), read_fields(packets)
    first = remembering.mask(*fields)
    with patch("transforms.capture.flows.encrypt_column", side_effect=AssertionError):
        again = remembering.mask(*fields)
    assert again.tokens.equals(first.tokens) and again.flow.tolist() == first.flow.tolist() == [0, 1]
