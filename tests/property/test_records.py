"""Whatever a delivery looks like: the same records, each where it says it is, and no byte lost."""

from __future__ import annotations

import gzip
import io
import json
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stores.contracts import load_contract
from transforms import records
from transforms.parsing import ROW, parse_records
from transforms.records import Piece, read_records

LOGINS = load_contract("logins")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
OBJECTS = st.dictionaries(st.text(max_size=4) | st.sampled_from(['"', "\\", "[]", "{,"]), VALUES, max_size=4)
BLOCK = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])


def read(content: bytes, block: int) -> list[Piece]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", block)
        return list(read_records(io.BytesIO(content)))


def payloads_of(pieces: list[Piece]) -> list[bytes]:
    return [payload for piece in pieces for payload in piece.payloads]


def stands_where_it_says(plain: bytes, pieces: list[Piece]) -> bool:
    return all(
        plain[at : at + len(payload)] == payload
        for piece in pieces
        for payload, at in zip(piece.payloads, piece.offsets, strict=True)
    )


def as_lines(values: list[object], between: str = "\n") -> bytes:
    return between.join(json.dumps(value) for value in values).encode()


def members(content: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    return b"".join(gzip.compress(content[a:b], 1) for a, b in pairwise(places))


@given(
    values=st.lists(OBJECTS, min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n\t"]),
    cuts=st.lists(st.integers(0), max_size=3),
    block=BLOCK,
)
def test_lines_in_any_wrapping_give_the_same_records(values, end, cuts, block):
    plain = as_lines(values, end)
    expected = [json.dumps(value).encode() for value in values]
    for content in (plain, members(plain, cuts), pa.Codec("zstd").compress(plain, asbytes=True)):
        pieces = read(content, block)
        assert payloads_of(pieces) == expected
        assert stands_where_it_says(plain, pieces)
        assert all(piece.damage is None for piece in pieces)


@given(
    values=st.lists(VALUES, max_size=8),
    indent=st.sampled_from([None, 1, 4, "\t"]),
    ascii_only=st.booleans(),
    cuts=st.lists(st.integers(0), max_size=3),
    block=BLOCK,
)
def test_arrays_in_any_layout_give_the_same_records(values, indent, ascii_only, cuts, block):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    plain = text.encode(errors="surrogatepass")
    for content in (plain, members(plain, cuts), pa.Codec("zstd").compress(plain, asbytes=True)):
        pieces = read(content, block)
        found = [json.loads(one.decode(errors="surrogatepass")) for one in payloads_of(pieces)]
        assert found == values
        assert stands_where_it_says(plain, pieces)
        assert all(piece.damage is None for piece in pieces)


@given(
    values=st.lists(OBJECTS, min_size=1, max_size=6),
    as_array=st.booleans(),
    at=st.integers(0),
    damage=st.binary(max_size=6),
    cut=st.booleans(),
    block=BLOCK,
)
@example(values=[{}], as_array=False, at=0, damage=b"\xef\xbb\xbf", cut=False, block=1)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_byte_of_a_damaged_delivery_is_lost(values, as_array, at, damage, cut, block):
    whole = json.dumps(values).encode() if as_array else as_lines(values)
    at %= len(whole) + 1
    content = whole[:at] + damage + (b"" if cut else whole[at:])
    pieces = read(content, block)
    assert stands_where_it_says(content, pieces)
    rest = pieces[-1].damage if pieces else None
    if rest is not None and rest.rest is None:
        return  # the file itself is kept
    kept = bytearray(content)
    if content.startswith(b"\xef\xbb\xbf"):
        kept[:3] = b"   "  # a byte order mark is no part of the first record
    for piece in pieces:
        for payload, offset in zip(piece.payloads, piece.offsets, strict=True):
            kept[offset : offset + len(payload)] = b" " * len(payload)
    if rest is not None:
        assert content[rest.offset :] == rest.rest
        del kept[rest.offset :]
    # What is in no record is what stands between records.
    assert set(kept) <= set(b" \t\r\n,[]")


@given(content=st.binary(max_size=200), block=BLOCK)
def test_no_bytes_at_all_raise_anything(content, block):
    for head in (b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"[", b'{"'):
        pieces = read(head + content, block)
        assert all(piece.damage is None for piece in pieces[:-1])


GOOD = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "locale": "RU",
    "device_id": "593-47-5928",
}
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "ip": SCALARS | st.sampled_from(["2001:DB8::1", "::ffff:1.2.3.4", "1.2.3.04"]),
        "user_id": SCALARS | st.just("{424CDD21063A43A7B91B7CA1A833AFAE}"),
        "locale": SCALARS,
        "device_id": st.text(max_size=130),
        "occurred_at": SCALARS | st.sampled_from(["2026-02-03T04:05:06Z", "2026-02-03T04:05:06"]),
        "more": VALUES,
    },
)
LOGIN_BYTES = st.one_of(
    CHANGES.map(lambda change: json.dumps({**GOOD, **change}).encode()),
    st.sampled_from([b"", b"{}", b"[]", b"1", b'{"user_id"', json.dumps(GOOD).encode() + b"x"]),
    st.binary(max_size=20),
)


@given(payloads=st.lists(LOGIN_BYTES, max_size=8))
def test_a_records_verdict_does_not_depend_on_its_neighbours(payloads):
    together = parse_records(payloads, LOGINS)
    rows = {row[ROW]: row for row in together.to_frame().iter_rows(named=True)}
    assert sorted([*rows, *together.rejected]) == list(range(len(payloads)))
    for number, payload in enumerate(payloads):
        alone = parse_records([payload], LOGINS)
        assert alone.rejected.get(0) == together.rejected.get(number)
        if number in rows:
            assert alone.to_frame().row(0, named=True) == {**rows[number], ROW: 0}
