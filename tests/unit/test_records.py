"""From bytes to records: every shape of a delivery, and every way in which one can be damaged."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pytest

from transforms import records
from transforms.records import Damage, Piece, is_message, open_message, read_records

ONE, TWO = b'{"a":1}', b'{"b": [1, {"c": "]},{"}], "d": "\\\\\\""}'


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def read(content: bytes) -> tuple[list[bytes], list[int], Damage | None]:
    pieces = list(read_records(io.BytesIO(content)))
    numbers = [piece.first for piece in pieces]
    assert numbers == [sum(len(one.payloads) for one in pieces[:at]) for at in range(len(pieces))]
    assert all(piece.damage is None for piece in pieces[:-1])
    payloads = [payload for piece in pieces for payload in piece.payloads]
    offsets = [offset for piece in pieces for offset in piece.offsets]
    assert len(payloads) == len(offsets)
    return payloads, offsets, pieces[-1].damage if pieces else None


def whole(content: bytes) -> list[bytes]:
    payloads, offsets, damage = read(content)
    assert damage is None
    assert [content[at : at + len(one)] for one, at in zip(payloads, offsets, strict=True)] == payloads
    return payloads


@pytest.fixture(params=["at once", "byte by byte"], autouse=True)
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "byte by byte":
        monkeypatch.setattr(records, "BLOCK_BYTES", 1)
    yield


@pytest.mark.parametrize(
    "content",
    [
        ONE + b"\n" + TWO,
        ONE + b"\n" + TWO + b"\n",
        ONE + b"\r\n" + TWO + b"\r\n",
        b"\n\n" + ONE + b"\n \t\r\n\n" + TWO + b"\n\n",
        b"  " + ONE + b"\n" + TWO + b"\t",
        b"[" + ONE + b"," + TWO + b"]",
        b" [\n  " + ONE + b" ,\n  " + TWO + b"\n]\n",
        b"[\r\n\t" + ONE + b"\r\n,\r\n\t" + TWO + b"\r\n]  \r\n",
    ],
)
def test_a_delivery_is_lines_or_one_array_with_any_blanks(content: bytes):
    assert whole(content) == [ONE, TWO]


def test_a_byte_order_mark_is_no_part_of_the_first_record():
    bom = b"\xef\xbb\xbf"
    assert read(bom + ONE + b"\n" + TWO) == ([ONE, TWO], [3, 3 + len(ONE) + 1], None)
    assert read(bom + b"[" + ONE + b"]") == ([ONE], [4], None)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_compression_is_told_by_content(pack):
    plain = ONE + b"\n" + TWO + b"\n"
    assert read(pack(plain)) == read(plain)


def test_gzip_of_several_members_is_one_text():
    packed = gzip.compress(ONE[:3]) + gzip.compress(b"") + gzip.compress(ONE[3:] + b"\n" + TWO)
    assert read(packed)[0] == [ONE, TWO]


def test_an_empty_array_has_no_records_and_no_damage():
    assert read(b"[]") == ([], [], None)
    assert read(b" [ \n ] \n") == ([], [], None)


def test_an_absent_element_is_a_record_that_will_be_refused():
    assert read(b"[1,]")[0] == [b"1", b""]
    assert read(b"[,1]")[0] == [b"", b"1"]


def test_elements_may_be_of_any_kind():
    values = [None, True, -1.5e3, 'a,"]\\', [], {}, [[1, 2], {"x": [","]}], "\\\\", 'end\\"']
    assert [json.loads(one) for one in whole(json.dumps(values).encode())] == values


@pytest.mark.parametrize("backslashes", range(6))
def test_a_quote_is_escaped_by_an_odd_number_of_backslashes(backslashes: int):
    text = json.dumps(["\\" * backslashes + '",[', "x"]).encode()
    assert [json.loads(one) for one in whole(text)] == ["\\" * backslashes + '",[', "x"]


# --- Damage: nothing is lost


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_kept_as_such(content: bytes):
    payloads, _, damage = read(content)
    assert payloads == []
    assert damage is not None and (damage.offset, damage.rest) == (0, None)


@pytest.mark.parametrize(
    "content", [b"<xml/>", b"user,ip\n1,2\n", b"\x00\x01", b"\xff\xfe[\x00]\x00", b'"text"']
)
def test_what_is_no_json_is_kept_whole(content: bytes):
    payloads, _, damage = read(content)
    assert payloads == []
    assert damage == Damage("neither JSON lines nor a JSON array", 0, None)


def test_an_array_that_does_not_end_gives_its_records_and_the_rest():
    content = b"[" + ONE + b", " + TWO + b', {"cut": "he'
    payloads, _, damage = read(content)
    assert payloads == [ONE, TWO]
    assert damage is not None and damage.reason == "the JSON array does not end"
    assert content[damage.offset :] == damage.rest == b' {"cut": "he'


def test_text_after_an_array_is_kept():
    content = b"[" + ONE + b"] oops"
    payloads, _, damage = read(content)
    assert payloads == [ONE]
    assert damage is not None and content[damage.offset :] == damage.rest == b" oops"


def test_a_second_array_is_not_taken_for_records():
    payloads, _, damage = read(b"[" + ONE + b"]\n[" + TWO + b"]\n")
    assert payloads == [ONE]
    assert damage is not None and damage.rest == b"\n[" + TWO + b"]\n"


def test_a_truncated_gzip_gives_what_came_out():
    lines = b"".join(b'{"n":%d}\n' % (n * 7919 % 100_003) for n in range(50_000))
    packed = gzip.compress(lines)
    payloads, _, damage = read(packed[: len(packed) // 2])
    assert 0 < len(payloads) < 50_000
    assert b"\n".join(payloads) == lines[: len(b"\n".join(payloads))]
    assert damage is not None and (damage.reason, damage.rest) == ("truncated gzip", None)


def test_rubbish_behind_a_gzip_member_is_damage():
    payloads, _, damage = read(gzip.compress(ONE + b"\n") + b"rubbish")
    assert payloads == [ONE]
    assert damage is not None and damage.rest is None


@pytest.mark.parametrize("keep", [5, -6])
def test_damaged_containers_raise_nothing(keep: int):
    for packed in (gzip.compress((ONE + b"\n") * 9), zstd((ONE + b"\n") * 9)):
        _, _, damage = read(packed[:keep])
        assert damage is not None and damage.rest is None


def test_damage_inside_an_array_leaves_the_elements_before():
    packed = gzip.compress(b"[" + ONE + b",") + b"rubbish"
    payloads, _, damage = read(packed)
    assert payloads == [ONE]
    assert damage is not None and damage.reason == "damaged gzip"


# --- Bounds


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 8)
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 64)
    monkeypatch.setattr(records, "MAX_REST_BYTES", 400)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("opening", "between"), [(b"", b"\n"), (b"[", b",")])
def test_a_record_that_is_too_long_stops_the_reading(opening: bytes, between: bytes):
    giant = b'{"x":"' + b"y" * 200 + b'"}'
    content = opening + ONE + between + giant + between + TWO
    payloads, _, damage = read(content)
    assert payloads == [ONE]
    assert damage is not None and damage.reason == "a record of more than 64 bytes"
    assert content[damage.offset :] == damage.rest


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("opening", [b"{", b"["])
def test_a_rest_that_is_too_long_is_kept_as_its_file(opening: bytes):
    _, _, damage = read(opening + b'"' + b"y" * 1000)
    assert damage is not None and damage.rest is None
    assert damage.reason == "a record of more than 64 bytes"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("opening", [b"{", b"["])
def test_a_damaged_container_behind_a_long_record_raises_nothing(opening: bytes):
    _, _, damage = read(gzip.compress(opening + b'"' + b"y" * 300)[:-4])
    assert damage is not None and damage.rest is None


@pytest.mark.usefixtures("small")
def test_nothing_but_blanks_is_not_read_to_its_end():
    stream = io.BytesIO(b" " * 1000 + ONE)
    (piece,) = read_records(stream)
    assert piece == Piece(0, [], [], Damage("the file is empty", 0, None))
    assert stream.tell() < 100


def test_a_bomb_stops_at_the_limit():
    packed = gzip.compress((ONE + b"\n") * 1000)
    pieces = list(read_records(io.BytesIO(packed), max_bytes=500))
    assert pieces[-1].damage is not None
    assert pieces[-1].damage.reason == "expands to more than 500 bytes"
    assert sum(len(piece.payloads) for piece in pieces) <= 63


# --- Queue messages


def test_a_queue_message_is_known_by_its_two_fields():
    message = json.dumps({"MessageId": "m-1", "ReceiptHandle": "r", "Body": '{"a": "é"}'}).encode()
    assert is_message(message)
    assert open_message(message)[:2] == ("m-1", '{"a": "é"}'.encode())


@pytest.mark.parametrize(
    ("told", "moment"), [("", None), (',"ReceivedAt":1500', 1500), (',"ReceivedAt":null', None)]
)
def test_a_message_tells_when_it_was_received_where_a_receiver_wrote_it(told: str, moment: int | None):
    assert open_message(b'{"MessageId":"m","Body":"x"%s}' % told.encode()).received_ms == moment


@pytest.mark.parametrize("moment", [b"-1", b'"now"', b"1.5", b"253402300800000", b"9" * 400])
def test_a_moment_that_is_none_makes_no_message(moment: bytes):
    assert not is_message(b'{"MessageId":"m","Body":"x","ReceivedAt":%s}' % moment)


@pytest.mark.parametrize(
    "payload",
    [b"", b"1", b"null", b"{}", ONE, b'{"MessageId":1,"Body":"x"}', b'{"MessageId":"m"}', b"[" * 100_000],
)
def test_anything_else_is_no_message(payload: bytes):
    assert not is_message(payload)


@pytest.mark.parametrize(("content", "good"), [(b"[}{}]", []), (b'[{"a":1},}]', [ONE]), (b'[{"a":1}}', [])])
def test_a_brace_closes_no_array_and_no_byte_is_lost(content: bytes, good: list[bytes]):
    payloads, _, damage = read(content)
    assert payloads == good
    assert damage is not None and damage.rest is not None
    assert content[damage.offset :] == damage.rest
    assert content[: damage.offset].strip(b"[,") == b"".join(good)
