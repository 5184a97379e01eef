"""Finding values in every form, and taking bytes apart: what is seen, what is refused, what is bounded."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import os
import random
import string
import urllib.parse
import zlib
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import UndecodedError, UsageError
from transforms.pii.leak_streams import REACH_BYTES, WINDOW_BYTES, coded_streams, recognise, unescaped, windows
from transforms.pii.leaks import Decoder, LeakMatcher, Limits, decoded

VALUES = [
    "Anna.Müller@example.org",
    "203.0.113.77",
    'Quo"te/Slash\\Back',
    "Zoë 😀 Straße",
    "aa:bb:cc:00:11:22",
    "Kurz",
    "1234567890123",
]
MATCHER = LeakMatcher(VALUES)
EVERY = list(range(len(VALUES)))


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - test data


def zstd(content: bytes, level: int = 3) -> bytes:
    packed: bytes = pa.Codec("zstd", level).compress(content, asbytes=True)
    return packed


def zstd_stream(content: bytes) -> bytes:
    """A frame without its size in the header, as stream writers make it."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def seen(content: bytes, matcher: LeakMatcher = MATCHER) -> dict[str, list[int]]:
    found: dict[str, set[int]] = {}
    for place, piece in decoded(content, ""):
        if indexes := matcher.find(piece):
            found.setdefault(place, set()).update(indexes)
    return {place: sorted(indexes) for place, indexes in found.items()}


def seen_somewhere(content: bytes, matcher: LeakMatcher = MATCHER) -> list[int]:
    return sorted({index for indexes in seen(content, matcher).values() for index in indexes})


class TestForms:
    @pytest.mark.parametrize(
        "write",
        [
            lambda value: value.encode(),
            lambda value: value.encode("utf-16-le"),
            lambda value: value.encode("utf-16-be"),
            lambda value: json.dumps(value).encode(),
            lambda value: json.dumps(value, ensure_ascii=False).encode(),
            lambda value: json.dumps(value).replace("/", "\\/").encode(),
            lambda value: json.dumps(json.dumps({"min": value})).encode(),
            lambda value: urllib.parse.quote(value, safe="").encode(),
            lambda value: urllib.parse.quote(urllib.parse.quote(value, safe=""), safe="").encode(),
            lambda value: urllib.parse.quote_plus(value).encode(),
            lambda value: value.encode().hex().encode(),
            lambda value: value.encode().hex().upper().encode(),
            lambda value: value.upper().encode(),
            lambda value: value.lower().encode(),
        ],
        ids=range(14),
    )
    def test_is_found(self, write: Any) -> None:
        for index, value in enumerate(VALUES):
            assert index in MATCHER.find(b"before " + write(value) + b" after"), value

    @pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
    @pytest.mark.parametrize("before", range(4))
    @pytest.mark.parametrize("after", range(4))
    def test_base64_at_every_alignment(self, encode: Any, before: int, after: int) -> None:
        for index, value in enumerate(VALUES):
            coded = encode(b"\xb7" * before + value.encode() + b"\xe5" * after)
            for text in (coded, coded.rstrip(b"="), b'"' + coded + b'"'):
                assert MATCHER.find(text) == [index]

    def test_base64_of_other_neighbours_is_none(self) -> None:
        shifted = base64.b64encode(b"xKurz")
        # The same whole characters, other bits at the edge: not this value.
        assert LeakMatcher(["Kurz"]).find(shifted[:1] + b"A" + shifted[2:]) == []
        assert LeakMatcher(["Kurz"]).find(shifted) == [0]

    def test_decomposed_letters(self) -> None:
        assert MATCHER.find("Zoe\u0308 😀 Straße".encode()) == [3]
        assert MATCHER.find("Anna.Müller@example.org".encode("latin-1")) == [0]

    def test_long_values_in_any_case_short_ones_in_likely_cases(self) -> None:
        assert MATCHER.find(b"aA:Bb:cC:00:11:22") == [4]
        assert MATCHER.find(b"KURZ") == MATCHER.find(b"kurz") == [5]
        assert MATCHER.find(b"kUrZ") == []

    def test_values_within_values_and_alike(self) -> None:
        matcher = LeakMatcher(["anna", "Hannah", "ANNA", "nnah"])
        assert matcher.find(b"Hannah") == [0, 1, 2, 3]

    def test_short_values_as_whole_words(self) -> None:
        matcher = LeakMatcher(["anna", "cam-17", VALUES[0]], whole_words=True)
        for content in (b"Hannah", b"xanna1", b"cam-170", b"h" * (1 << 20) + b"anna"):
            assert matcher.find(content) == []
        for content in (b"anna", b'{"user":"Anna"}', b"." * (1 << 20) + b"anna", b"anna\0" + b"x" * (1 << 20)):
            assert matcher.find(content) == [0]
        assert matcher.find(b"/cam-17/cam-17_2026.pcap") == [1]
        assert matcher.find(b"x" + VALUES[0].encode() + b"y") == [2]

    @pytest.mark.parametrize("value", ["", "abc", "x" * 1025, "lone\ud800half"])
    def test_refused_values_are_not_repeated(self, value: str) -> None:
        with pytest.raises(UsageError, match="value 1") as caught:
            LeakMatcher(["fine", value])
        assert not value or value not in str(caught.value)

    def test_no_values_find_nothing(self) -> None:
        assert LeakMatcher([]).find(b"anything") == []
        assert MATCHER.find(b"") == []

    def test_across_slices(self) -> None:
        for at in range((1 << 20) - 30, (1 << 20) + 5):
            content = bytearray(b".") * ((1 << 20) + 100)
            content[at : at + len(VALUES[1])] = VALUES[1].encode()
            assert MATCHER.find(bytes(content)) == [1]

    def test_longest_value_fits_the_overlap_of_windows(self) -> None:
        value = "😀" * 1024
        assert len(urllib.parse.quote(urllib.parse.quote(value))) <= REACH_BYTES
        assert len(json.dumps(json.dumps(value))) <= REACH_BYTES

    def test_ten_thousand_values(self) -> None:
        source = seeded(11)
        words = ["".join(source.choices(string.ascii_lowercase, k=12)) + "@example.net" for _ in range(10_000)]
        matcher = LeakMatcher(words)
        chosen = sorted(source.sample(range(10_000), 300))
        text = "\n".join(words[index].title() for index in chosen).encode()
        assert matcher.find(text) == chosen
        assert matcher.find(os.urandom(1 << 20)) == []
        assert matcher.find(base64.b64encode(os.urandom(1 << 20))) == []


class TestEscapes:
    def test_escapes_of_plain_letters(self) -> None:
        assert seen_somewhere(rb"\u0032\u0030\u0033.0.113.77") == [1]
        assert seen_somewhere(b"%32%30%33%2E0.113.77") == [1]
        assert seen_somewhere(rb"Zo\\\\u00EB \\ud83d\\ude00 Stra\u00dfe") == [3]

    def test_many_and_few_escapes_give_the_same(self) -> None:
        few = b'{\\"ip\\":\\"203%2E0.113.77\\"}'
        for content in (few, few * 1500, few + b"." * 10_000 + few):
            assert 1 in MATCHER.find(unescaped(content))

    def test_nothing_to_undo(self) -> None:
        assert unescaped(b"plain, 100 % sure") == b""

    def test_windows_overlap_and_cover(self) -> None:
        content = os.urandom(WINDOW_BYTES * 2 + 17)
        parts = list(windows(io.BytesIO(content)))
        assert b"".join(window[known:] for _, known, window in parts) == content
        assert all(content[at : at + len(window)] == window for at, _, window in parts)
        assert [known for _, known, _ in parts] == [0, REACH_BYTES, REACH_BYTES]


class TestStreams:
    BODY = "\n".join(VALUES).encode()

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            (gzip.compress(BODY), "gzip stream"),
            (gzip.compress(b"first") + b"\0" * 3 + gzip.compress(BODY), "gzip stream"),
            (gzip.compress(BODY) + b"rubbish", "gzip stream"),
            (zlib.compress(BODY, 0) + b"rubbish", "zlib stream"),
            (zlib.compress(BODY, 9), "zlib stream"),
            (zstd(BODY), "zstd stream"),
            (zstd_stream(BODY), "zstd stream"),
            (zstd(b"first") + zstd_stream(BODY) + b"rubbish", "zstd stream"),
            (b"\x50\x2a\x4d\x18\3\0\0\0abc" + zstd(BODY), "zstd stream"),
            (b"x" * 120 + zstd(BODY) + b"rubbish", "zstd stream at 120"),
            (gzip.compress(zstd(zlib.compress(BODY))), "gzip stream, zstd stream, zlib stream"),
            (b'{"state": "' + base64.b64encode(zlib.compress(BODY)) + b'"}', "base64, zlib stream"),
            (b"b64:" + base64.urlsafe_b64encode(gzip.compress(BODY)), "base64, gzip stream"),
            (base64.encodebytes(zstd(BODY)), "base64, zstd stream"),
        ],
        ids=range(14),
    )
    def test_is_taken_apart(self, content: bytes, place: str) -> None:
        assert seen(content)[place] == EVERY

    def test_frames_behind_rubbish_behind_a_frame(self) -> None:
        assert seen_somewhere(zstd(b"first") + b"rubbish" + zstd(self.BODY)) == EVERY

    def test_large_streams_pass_in_windows(self) -> None:
        filler = seeded(3).randbytes(WINDOW_BYTES // 2)
        body = filler * 5 + self.BODY + filler
        for content in (gzip.compress(body, 1), zstd(body), gzip.compress(zstd(body), 0)):
            assert seen_somewhere(content) == EVERY

    def test_frames_inside_a_large_stream(self) -> None:
        filler = seeded(3).randbytes(WINDOW_BYTES)
        assert seen_somewhere(gzip.compress(filler + zstd(self.BODY) + filler, 1)) == EVERY

    def test_value_across_windows_of_a_stream(self) -> None:
        value = VALUES[1].encode()
        for shift in (1, 7, len(value)):
            body = b"." * (WINDOW_BYTES - shift) + value + b"." * 1000
            assert seen_somewhere(zstd(body)) == [1]

    @pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, zstd, zstd_stream])
    def test_cut_streams_are_said(self, pack: Any) -> None:
        body = self.BODY + seeded(5).randbytes(300_000)
        with pytest.raises(UndecodedError, match="cut short"):
            seen(pack(body)[:-150_000])

    def test_what_came_before_the_cut_is_given(self) -> None:
        body = self.BODY + seeded(5).randbytes(300_000)
        for pack in (gzip.compress, zlib.compress, zstd_stream):
            decoder = Decoder(0)
            pieces = decoder.unpack(io.BytesIO(pack(body)[:-100_000]))
            assert {index for _, piece in pieces for index in MATCHER.find(piece)} == set(EVERY)
            assert len(decoder.undecoded) == 1

    def test_damage_in_the_middle_is_said(self) -> None:
        for pack in (gzip.compress, zstd):
            content = bytearray(pack(json.dumps(list(range(100_000))).encode()))
            content[len(content) // 2 :] = b"\xff" * (len(content) // 2)
            with pytest.raises(UndecodedError):
                seen(bytes(content))

    def test_chance_is_no_stream(self) -> None:
        source = seeded(7)
        for head in (b"x\x9c", b"x\x01", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff"):
            for size in (0, 3, 14, 100, 5000):
                assert seen(head + source.randbytes(size)) == {}

    def test_chance_among_sealed_bytes_is_no_stream(self) -> None:
        """A lake has terabytes of them, and an erasure ends only where all was looked into."""
        source = seeded(8)
        for _ in range(2000):
            assert seen(b"sealed" + b"\x28\xb5\x2f\xfd" + source.randbytes(300)) == {}

    def test_a_short_random_value_is_no_stream(self) -> None:
        source = seeded(9)
        ids = pa.array([b"\x1f\x8b\x08" + source.randbytes(13) for _ in range(500)])
        decoder = Decoder(0)
        assert list(decoder.cells(ids, "column c"))
        assert decoder.undecoded == []

    @pytest.mark.parametrize("pack", [gzip.compress, zstd])
    @pytest.mark.parametrize(
        "damage", [lambda stream: stream[:-40], lambda stream: stream[:99] + b"\xff" * 999]
    )
    def test_a_damaged_stream_in_a_cell_is_said(self, pack: Any, damage: Any) -> None:
        stream = damage(pack(json.dumps(list(range(1000))).encode()))
        decoder = Decoder(0)
        list(decoder.cells(pa.array([b"first", None, stream]), "column c"))
        assert [one.reason for one in decoder.undecoded]

    def test_a_damaged_stream_among_other_bytes_is_said_where_it_is_long(self) -> None:
        stream = bytearray(zstd(json.dumps(list(range(200_000))).encode()))
        stream[-1000:] = b"\xff" * 1000
        with pytest.raises(UndecodedError, match="zstd stream at 6"):
            seen(b"before" + stream)

    @pytest.mark.parametrize(
        "content",
        [
            b"PK\x03\x04...",
            bz2.compress(b"text"),
            b"%PDF-1.7",
            b"PARE1234",
            b"12345678DUCK",
            gzip.compress(b"SQLite format 3\0"),
            gzip.compress(b"PAR1" + b"\0" * WINDOW_BYTES),
        ],
        ids=range(7),
    )
    def test_closed_containers_are_said(self, content: bytes) -> None:
        with pytest.raises(UndecodedError, match="not decoded"):
            seen(content)

    def test_formats_by_their_head(self) -> None:
        assert recognise(b"") == recognise(b"\xff" * 32) == ""
        assert list(coded_streams(b"eJwAAAAAAAAAAAAA and H4sIplain")) == []


class TestBounds:
    def unpacked(self, content: bytes, limits: Limits) -> tuple[int, list[str]]:
        decoder = Decoder(len(content), limits)
        size = sum(len(piece) for _, piece in decoder.unpack(io.BytesIO(content)))
        return size, [one.reason for one in decoder.undecoded]

    @pytest.mark.parametrize("pack", [lambda body: gzip.compress(body, 1), zlib.compress, zstd])
    def test_bombs_end_at_the_bound(self, pack: Any) -> None:
        content = pack(bytes(100 << 20))
        size, reasons = self.unpacked(content, Limits(total_bytes=8 << 20, ratio=1))
        assert size < 20 << 20
        assert len(reasons) == 1
        assert "bound" in reasons[0]

    def test_a_bomb_does_not_hide_what_stands_beside_it(self) -> None:
        content = zstd(bytes(100 << 20)) + VALUES[1].encode()
        decoder = Decoder(len(content), Limits(total_bytes=1 << 20, ratio=1))
        found = {index for _, piece in decoder.unpack(io.BytesIO(content)) for index in MATCHER.find(piece)}
        assert found == {1}
        assert decoder.undecoded

    def test_nothing_more_is_decoded_behind_the_bound(self) -> None:
        table = pa.table({"a": ["x" * 1000] * 100, "b": ["y" * 1000] * 100})
        content = parquet(table, compression="zstd", use_dictionary=False)
        decoder = Decoder(0, Limits(total_bytes=2000, ratio=1))
        assert [place for place, _ in decoder.unpack(io.BytesIO(content))][-1] == "key-value metadata"
        assert len(decoder.undecoded) == 1
        assert list(decoder.cells(pa.array(["more"]), "cell")) == []

    def test_depth(self) -> None:
        content = VALUES[1].encode()
        for _ in range(9):
            content = gzip.compress(content)
        assert any("deeper" in reason for reason in self.unpacked(content, Limits())[1])
        assert self.unpacked(content, Limits(depth=9))[1] == []

    def test_parquet_bomb(self) -> None:
        column = pa.array(["x" * 1000] * 100_000)
        content = parquet(pa.table({"c": column}), compression="zstd", use_dictionary=False)
        size, reasons = self.unpacked(content, Limits(total_bytes=2 << 20, ratio=1))
        assert size < 40 << 20
        assert "bound" in reasons[0]
        assert "bound on a row group" in self.unpacked(content, Limits(row_group_bytes=1))[1][0]

    def test_the_error_names_no_value(self) -> None:
        with pytest.raises(UndecodedError) as caught:
            list(decoded(gzip.compress(VALUES[1].encode())[:-4], "body"))
        assert str(caught.value) == "body, gzip stream: a stream that is cut short"


def every_type(values: list[str]) -> pa.Table:
    """A table with each value in a column of its own kind."""
    first, second, third, fourth, fifth, sixth, seventh = values
    return pa.table(
        {
            "plain": pa.array([first]),
            "view": pa.array([second], pa.string_view()),
            "bytes": pa.array([third.encode()], pa.large_binary()),
            "list": pa.array([[{"inner": [fourth]}]]),
            "map": pa.array([[("key", fifth)]], pa.map_(pa.string(), pa.string())),
            "categories": pa.array([sixth]).dictionary_encode(),
            "number": pa.array([int(seventh)]),
        }
    )


class TestColumns:
    @pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
    @pytest.mark.parametrize("use_dictionary", [True, False])
    def test_every_type_and_codec(self, compression: str, use_dictionary: bool) -> None:
        content = parquet(
            every_type(VALUES), compression=compression, use_dictionary=use_dictionary, write_statistics=False
        )
        found = seen(content)
        columns = {place: indexes for place, indexes in found.items() if place.startswith("column ")}
        assert sorted(index for indexes in columns.values() for index in indexes) == EVERY
        assert columns["column plain, row group 0"] == [0]
        assert columns["column list.list.element.inner.list.element, row group 0"] == [3]

    @pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
    def test_encodings_of_bytes(self, encoding: str) -> None:
        table = pa.table({"c": pa.array(sorted([*VALUES, "203.0.113.76", "Anna.Mü"]))})
        content = parquet(table, use_dictionary=False, column_encoding={"c": encoding}, compression="zstd")
        assert seen(content)["column c, row group 0"] == EVERY

    def test_dictionary_entries_that_no_row_uses(self) -> None:
        column = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["used", *VALUES]))
        for compression in ("zstd", "gzip"):
            content = parquet(pa.table({"c": column}), compression=compression, write_statistics=False)
            assert seen(content)["column c, row group 0"] == EVERY

    def test_statistics_and_metadata(self) -> None:
        schema = pa.schema([pa.field("c", pa.string(), metadata={"note": VALUES[4]})], {"made by": VALUES[0]})
        content = parquet(pa.table({"c": [VALUES[1], VALUES[1]]}, schema=schema), compression="zstd")
        found = seen(content)
        assert found["column c, row group 0, statistics"] == [1]
        assert found["key-value metadata"] == [0, 4]

    def test_row_groups_and_batches(self) -> None:
        rows = [f"row {number}" for number in range(200_000)]
        for index, value in enumerate(VALUES):
            rows[index * 28_000] = value
        content = parquet(pa.table({"c": rows}), compression="zstd", row_group_size=70_000)
        found = seen(content)
        assert {place[-1] for place in found if place.startswith("column c, row group")} >= set("012")
        assert seen_somewhere(content) == EVERY

    def test_streams_and_json_in_cells(self) -> None:
        packed = [
            gzip.compress(VALUES[0].encode()),
            zlib.compress(VALUES[1].encode()),
            zstd(VALUES[3].encode()),
        ]
        nested = parquet(pa.table({"c": [VALUES[4]]}), compression="zstd", write_statistics=False)
        escaped = b'"\\u004b\\u0075\\u0072\\u007a"'
        content = parquet(pa.table({"c": pa.array([*packed, nested, escaped])}), compression="snappy")
        assert seen_somewhere(content) == [0, 1, 3, 4, 5]

    def test_neighbours_make_no_value(self) -> None:
        content = parquet(pa.table({"c": list("1234567890123"), "d": list("203.0.113.77 ")}))
        assert seen(content) == {}
        matcher = LeakMatcher(["abcd"])
        assert seen(parquet(pa.table({"c": list("abcd")})), matcher) == {}

    def test_other_types_are_no_trouble(self) -> None:
        table = pa.table(
            {
                "day": pa.array([date(2026, 3, 1), None]),
                "at": pa.array([0, None], pa.timestamp("us", "UTC")),
                "flag": pa.array([True, None]),
                "took": pa.array([1, 2], pa.duration("us")),
                "none": pa.array([None, None], pa.null()),
                "exact": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
                "fixed": pa.array([b"1234", None], pa.binary(4)),
                "ratio": pa.array([0.5, None], pa.float64()),
                "empty": pa.array([[], None], pa.list_(pa.string())),
            }
        )
        assert seen(parquet(table), LeakMatcher(["2026-03-01", "1970-01-01 00:00:00"])).keys() >= {
            "column day, row group 0",
            "column at, row group 0",
        }
        assert seen(parquet(table.slice(0, 0))) == {}

    def test_numbers_are_written_out_only_for_values_that_could_be_numbers(self) -> None:
        column = pa.array([1234567890123, 7])
        for values, is_found in ((["1234567890123"], True), (["user-1234567890123"], False)):
            matcher = LeakMatcher(values)
            decoder = Decoder(1 << 20, writes_numbers=matcher.finds_numbers)
            pieces = [content for _, content in decoder.cells(column, "column")]
            assert (matcher.finds_numbers, any(map(matcher.find, pieces))) == (is_found, is_found)
            assert [place for place, _ in decoder.cells(pa.array(["text"]), "column")] == ["column"]

    def test_extensions_are_their_storage(self) -> None:
        column = pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "kind", "vendor"), pa.array(VALUES))
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, pa.schema([("c", column.type)])) as stream:
            stream.write_batch(pa.record_batch([column], ["c"]))
        assert seen(sink.getvalue())["column c"] == EVERY

    def test_types_that_cannot_be_written_out_are_said(self) -> None:
        decoder = Decoder(0)
        spans = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
        assert list(decoder.cells(spans, "column c")) == []
        assert "month_day_nano" in decoder.undecoded[0].reason

    def test_text_that_is_no_utf8(self) -> None:
        broken = pa.array([b"\xff" + VALUES[1].encode()]).view(pa.string())
        content = parquet(pa.table({"c": broken}), compression="zstd", use_dictionary=False)
        found = seen(content)
        assert found["column c, row group 0"] == found["raw bytes"] == [1]

    @pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
    def test_arrow_files_and_streams(self, compression: str | None) -> None:
        table = every_type(VALUES)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        for writer in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = io.BytesIO()
            with writer(sink, table.schema, options=options) as stream:
                stream.write_table(table)
            assert seen_somewhere(sink.getvalue()) == EVERY
            assert seen_somewhere(gzip.compress(sink.getvalue())) == EVERY

    def test_parquet_without_its_end(self) -> None:
        content = parquet(pa.table({"c": VALUES}), compression="zstd", use_dictionary=False)
        decoder = Decoder(0)
        pieces = decoder.unpack(io.BytesIO(content[:-30]))
        assert {index for _, piece in pieces for index in MATCHER.find(piece)} == set(EVERY)
        assert "Parquet" in decoder.undecoded[0].place

    def test_damaged_pages_are_said(self) -> None:
        content = parquet(pa.table({"c": ["text" * 50] * 50}), compression="zstd", use_dictionary=False)
        content = content.replace(b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff")
        with pytest.raises(UndecodedError, match="column c"):
            seen(content)

    def test_damaged_arrow_is_said(self) -> None:
        with pytest.raises(UndecodedError, match="Arrow"):
            seen(b"ARROW1\0\0" + b"\0" * 100)
