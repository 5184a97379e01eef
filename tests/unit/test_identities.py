"""Pseudonyms: stable over time and over how they are computed, told apart by key, domain and place."""

from __future__ import annotations

import hashlib
import hmac
import uuid

import polars as pl
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from transforms.pii.ciphers import derive_key
from transforms.pii.identities import (
    delivery_digest,
    each_id,
    event_id_bytes,
    named_event_ids,
    numbered_event_ids,
    subject_ref,
    subject_referrer,
    subject_refs,
    uuid_bytes,
    uuid_rows,
    uuid_texts,
)

KEY = bytes(range(32))
DELIVERY = bytes(range(100, 116))


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def mac(*parts: bytes, key: bytes = KEY) -> bytes:
    return hmac.new(key, framed(*parts), hashlib.sha256).digest()[:16]


def test_a_subjects_reference_is_a_keyed_digest():
    assert subject_ref(KEY, "user", "7") == mac(b"user", b"7")
    assert len({subject_ref(KEY, *parts) for parts in (("user", "7"), ("use", "r7"), ("device", "7"))}) == 3
    assert subject_ref(bytes(32), "user", "7") != subject_ref(KEY, "user", "7")


def test_a_column_of_subjects_asks_once_for_each():
    asked: list[str] = []

    def ref_of(one: str) -> bytes:
        asked.append(one)
        return subject_ref(KEY, "user", one)

    ids = pl.Series("user_id", ["b", "a", "b", "é", "a"])
    refs = subject_refs(ids, ref_of)
    assert refs.to_list() == [subject_ref(KEY, "user", one) for one in ids]
    assert sorted(asked) == ["a", "b", "é"]


def test_no_subjects_have_no_references():
    assert subject_refs(pl.Series([], dtype=pl.String), subject_referrer(KEY, "user")).to_list() == []


def test_numbered_ids_are_an_enciphered_number_as_a_uuid_of_version_8():
    numbers = [0, 1, 255, 256, 70_000, 2**40]
    ids = numbered_event_ids(KEY, DELIVERY, numbers)
    aes = Cipher(
        algorithms.AES(derive_key(KEY, 32, "event", DELIVERY.hex())),
        modes.ECB(),  # noqa: S305 - the bare block function
    ).encryptor()
    for number, text in zip(numbers, uuid_texts(ids).to_pylist(), strict=True):
        digest = bytearray(aes.update(number.to_bytes(16, "big")))
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        assert text == str(uuid.UUID(bytes=bytes(digest)))
        assert uuid.UUID(text).version == 8


def test_numbered_ids_do_not_depend_on_what_is_asked_together():
    together = numbered_event_ids(KEY, DELIVERY, range(100))
    assert (together[40:60] == numbered_event_ids(KEY, DELIVERY, range(40, 60))).all()
    assert len(set(each_id(together))) == 100
    assert not set(each_id(together)) & set(each_id(numbered_event_ids(KEY, bytes(16), range(100))))
    assert each_id(numbered_event_ids(KEY, DELIVERY, [])) == []


@pytest.mark.parametrize(
    "name", ["424cdd21-063a-43a7-b91b-7ca1a833afae", "424CDD21-063A-43A7-B91B-7CA1A833AFAE"]
)
def test_a_name_that_is_a_uuid_stays(name: str):
    assert uuid_texts(named_event_ids(KEY, [name])).to_pylist() == [name.lower()]


@pytest.mark.parametrize(
    "name", ["", "alice@example.org", "424cdd21063a43a7b91b7ca1a833afae", "é\n", "x" * 9999]
)
def test_any_other_name_is_digested(name: str):
    (made,) = uuid_texts(named_event_ids(KEY, [name])).to_pylist()
    digest = bytearray(mac(b"event", name.encode()))
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    assert made == str(uuid.UUID(bytes=bytes(digest)))


def test_names_of_both_kinds_keep_their_order():
    names = ["b", "424cdd21-063a-43a7-b91b-7ca1a833afae", "a", "b"]
    together = each_id(named_event_ids(KEY, names))
    assert together == [named_event_ids(KEY, [name]).tobytes() for name in names]
    assert each_id(named_event_ids(KEY, [])) == []


def test_ids_become_bytes_and_back():
    rows = numbered_event_ids(KEY, DELIVERY, range(50))
    ids = pl.Series(uuid_texts(rows), dtype=pl.String)
    expected = [uuid.UUID(text).bytes for text in ids]
    assert (uuid_rows(ids) == rows).all() and each_id(rows[::-1]) == expected[::-1]
    assert event_id_bytes(ids) == expected == [uuid_bytes(text) for text in ids]
    assert event_id_bytes(ids[7:9]) == expected[7:9]
    assert event_id_bytes(pl.concat([ids[30:], ids[:30]], rechunk=False)) == expected[30:] + expected[:30]
    assert event_id_bytes(ids.gather([3, 1])) == [expected[3], expected[1]]
    assert event_id_bytes(pl.Series([], dtype=pl.String)) == []


def test_a_byte_of_an_id_may_be_zero_anywhere():
    zeros = pl.Series(["00000000-0000-0000-0000-000000000000", "ff000000-0000-8000-8000-000000000000"])
    assert event_id_bytes(zeros) == [bytes(16), b"\xff" + bytes(5) + b"\x80\x00\x80" + bytes(7)]


def test_a_deliverys_digest_is_keyed():
    digest = bytes(range(32))
    assert delivery_digest(KEY, digest) == mac(b"delivery", digest)
