"""Chunks: cut by size over the borders of files, the same for the same files, places kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transforms.chunks import Chunk, Fault, cut_chunks
from transforms.records import Damage, Piece


def piece(*payloads: bytes, first: int = 0, damage: Damage | None = None) -> Piece:
    return Piece(first, list(payloads), [first * 100 + at * 10 for at in range(len(payloads))], damage)


def message(name: str, body: str) -> bytes:
    return json.dumps({"MessageId": name, "Body": body}).encode()


def only(*pieces: tuple[int, Piece]) -> Chunk:
    (chunk,) = cut_chunks(pieces, 1 << 20)
    return chunk


def test_small_files_share_a_chunk_and_keep_their_places():
    chunk = only((0, piece(b"{1}", b"{2}")), (3, piece(b"{3}")))
    assert (chunk.number, chunk.payloads, chunk.files.tolist()) == (0, [b"{1}", b"{2}", b"{3}"], [0, 0, 3])
    assert (chunk.records.tolist(), chunk.offsets.tolist(), chunk.names) == ([0, 1, 0], [0, 10, 0], {})


def test_a_large_file_is_cut_where_its_pieces_end():
    pieces = [(0, piece(b"x" * 6, b"y" * 6, first=at)) for at in (0, 2, 4, 6, 8)]
    chunks = list(cut_chunks(pieces, 20))
    assert [chunk.number for chunk in chunks] == [0, 1, 2]
    assert [chunk.records.tolist() for chunk in chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [chunk.size_bytes for chunk in chunks] == [24, 24, 12]


def test_the_same_pieces_give_the_same_chunks():
    pieces = [(file, piece(b"x" * 9, b"y" * 5)) for file in range(7)]
    assert list(cut_chunks(pieces, 30)) == list(cut_chunks(iter(pieces), 30))


@pytest.mark.parametrize("pieces", [[], [(0, piece())]])
def test_nothing_gives_no_chunk(pieces: list[tuple[int, Piece]]):
    assert list(cut_chunks(pieces, 10)) == []


def test_damage_is_a_fault_behind_the_good_beginning():
    chunk = only((2, piece(b"{1}", damage=Damage("cut", 33, b"rest"))))
    assert chunk.payloads == [b"{1}"]
    assert chunk.faults == [Fault(2, 1, 33, "cut", b"rest")]
    assert chunk.size_bytes == 7


def test_a_file_of_nothing_but_damage_makes_a_chunk():
    chunk = only((0, piece(damage=Damage("damaged gzip", 0, None))))
    assert not chunk.is_empty
    assert chunk.faults == [Fault(0, 0, 0, "damaged gzip", None)]


def test_messages_are_opened_and_give_their_names():
    chunk = only((0, piece(b'{"plain":1}')), (1, piece(message("m-1", "{1}"), message("", "{2}"))))
    assert chunk.payloads == [b'{"plain":1}', b"{1}", b"{2}"]
    assert chunk.names == {1: "m-1", 2: ""}


def test_a_file_is_of_messages_or_not_by_its_first_record():
    wrapped = message("m-1", "{1}")
    chunk = only((0, piece(b"{0}", wrapped)), (1, piece(wrapped)), (1, piece(b"{2}", first=1)))
    assert chunk.payloads == [b"{0}", wrapped, b"{1}"]
    assert chunk.names == {2: "m-1"}
    assert chunk.faults == [Fault(1, 1, 100, "not a queue message, unlike the first of its file", b"{2}")]


def test_a_message_without_a_body_is_a_fault_and_no_end():
    chunk = only((0, piece(message("m-1", "{1}"), b'{"MessageId":"m-2"}', message("m-3", "{3}"))))
    assert chunk.payloads == [b"{1}", b"{3}"]
    assert chunk.records.tolist() == [0, 2]
    assert [fault.record for fault in chunk.faults] == [1]


def test_payloads_come_in_the_order_that_is_asked_for():
    chunk = Chunk(0, [b"%d" % number for number in range(1300)])
    rows = np.random.default_rng(1).permutation(1300)
    assert list(chunk.payloads_in(rows)) == [b"%d" % number for number in rows.tolist()]
    assert list(chunk.payloads_in(rows[:0])) == []
