"""The envelope: golden bytes, both ways to seal alike, and nothing that opens in the wrong place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transforms.errors import DecryptionError
from transforms.pii import envelope
from transforms.pii.envelope import (
    Place,
    key_id_of,
    open_many,
    open_sealed,
    seal,
    seal_column,
    seal_many,
)

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "vectors" / "envelope.json").read_text())[
    "vectors"
]
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
KEY_ID, NONCE = b"\x0a\x0b\x0c\x0d", bytes(range(200, 212))
PLACE = Place("acme", "raw.logins", "record")
RECORD = bytes(range(16))
SHORT, LONG = b'{"ip":"192.0.2.7"}', b'{"ip":"192.0.2.7"}' * 100
RANDOM = random.Random(7).randbytes(2000)  # noqa: S311 - data that does not compress


def sealed_column(
    plaintexts: list[bytes], keys: list[bytes], key_id: bytes, nonces: bytes, place: Place, ids: list[bytes]
) -> list[bytes]:
    rows = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)
    runs = [(key, len(list(run))) for key, run in groupby(keys)]
    lengths = [length for _, length in runs]
    return seal_column(plaintexts, [key for key, _ in runs], lengths, key_id, nonces, place, rows).to_pylist()


def parts(vector: dict[str, Any]) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    plain = bytes.fromhex(vector["plaintext"]) * vector.get("times", 1)
    key, key_id, nonce = (bytes.fromhex(vector[name]) for name in ("key", "key_id", "nonce"))
    place = Place(vector["tenant"], vector["table"], vector["column"]).of(bytes.fromhex(vector["record_id"]))
    return plain, key, key_id, nonce, place


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors(vector: dict[str, Any]):
    plain, key, key_id, nonce, place = parts(vector)
    envelope = bytes.fromhex(vector["envelope"])
    if vector["reproducible"]:
        assert seal(plain, key, key_id, nonce, place) == envelope
        assert seal_many([plain], [key], key_id, nonce, [place]) == [envelope]
        where, record = Place(vector["tenant"], vector["table"], vector["column"]), vector["record_id"]
        if len(record) == 32:
            assert sealed_column([plain], [key], key_id, nonce, where, [bytes.fromhex(record)]) == [envelope]
    assert open_sealed(envelope, key, place) == plain
    assert open_many([envelope], [key], [place]) == [plain]
    assert key_id_of(envelope) == key_id


def test_the_layout_is_that_of_the_decision():
    envelope = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    associated = b"\x01\x00" + KEY_ID
    for part in (b"acme", b"raw.logins", b"record", RECORD):
        associated += len(part).to_bytes(4, "big") + part
    assert envelope == b"\x01\x00" + KEY_ID + NONCE + AESGCM(KEY).encrypt(NONCE, SHORT, associated)


def test_long_values_are_compressed_where_that_saves():
    place = PLACE.of(RECORD)
    packed, plain = seal(LONG, KEY, KEY_ID, NONCE, place), seal(RANDOM, KEY, KEY_ID, NONCE, place)
    assert packed[1] == 1 and len(packed) < len(LONG) // 2
    assert plain[1] == 0 and len(plain) == len(RANDOM) + 34
    assert [open_sealed(one, KEY, place) for one in (packed, plain)] == [LONG, RANDOM]


@pytest.mark.parametrize(
    "plaintexts",
    [[], [b""], [SHORT] * 3, [SHORT, LONG, b"", RANDOM, SHORT], [SHORT] * 13],
    ids=["none", "empty", "short", "mixed", "steps"],
)
def test_a_column_is_sealed_as_its_values_are(plaintexts: list[bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(envelope, "_STEP", 4)
    keys = ([KEY, OTHER, OTHER, KEY, KEY] * 3)[: len(plaintexts)]
    nonces = bytes(range(12 * len(plaintexts)))
    ids = [bytes([at]) * 16 for at in range(len(plaintexts))]
    places = PLACE.of_each(ids)
    assert places == [PLACE.of(one) for one in ids]
    sealed = seal_many(plaintexts, keys, KEY_ID, nonces, places)
    assert sealed_column(plaintexts, keys, KEY_ID, nonces, PLACE, ids) == sealed
    assert sealed == [
        seal(plain, key, KEY_ID, nonces[12 * at : 12 * at + 12], place)
        for at, (plain, key, place) in enumerate(zip(plaintexts, keys, places, strict=True))
    ]
    assert open_many(sealed, keys, places) == plaintexts


def test_equal_keys_need_not_be_one_object():
    keys = [bytes(bytearray(KEY)) for _ in range(3)]
    places = PLACE.of_each([RECORD] * 3)
    sealed = seal_many([SHORT] * 3, keys, KEY_ID, bytes(range(36)), places)
    assert open_many(sealed, [KEY] * 3, places) == [SHORT] * 3


def test_columns_that_do_not_run_in_parallel_are_no_columns():
    with pytest.raises(ValueError, match="zip"):
        seal_many([SHORT, SHORT], [KEY], KEY_ID, bytes(24), PLACE.of_each([RECORD, RECORD]))
    with pytest.raises(ValueError, match="zip"):
        seal_many([SHORT, SHORT], [KEY, KEY], KEY_ID, bytes(12), PLACE.of_each([RECORD, RECORD]))

    cases = ((2, 1, 24, 2), (2, 3, 24, 2), (2, 2, 12, 2), (2, 2, 24, 1), (1, 2, 24, 2), (3, 2, 24, 2))
    for values, keys, nonces, ids in cases:
        with pytest.raises(ValueError, match=r"parallel|zip|more values"):
            seal_column(
                [SHORT] * values,
                [KEY] * keys,
                [1] * keys,
                KEY_ID,
                bytes(nonces),
                PLACE,
                np.zeros((ids, 16), np.uint8),
            )


# --- What must not open


def opens_one(envelope: bytes, key: bytes, place: bytes) -> bytes:
    return open_sealed(envelope, key, place)


def opens_column(envelope: bytes, key: bytes, place: bytes) -> bytes:
    good = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    return open_many([good, envelope], [KEY, key], [PLACE.of(RECORD), place])[1]


BOTH = pytest.mark.parametrize("opens", [opens_one, opens_column])
Opens = Callable[[bytes, bytes, bytes], bytes]


@BOTH
def test_another_key_does_not_open(opens: Opens):
    envelope = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    with pytest.raises(DecryptionError):
        opens(envelope, OTHER, PLACE.of(RECORD))


@BOTH
@pytest.mark.parametrize(
    "place",
    [
        PLACE.of(RECORD[::-1]),
        Place("acm", "eraw.logins", "record").of(RECORD),
        Place("other", "raw.logins", "record").of(RECORD),
        Place("acme", "raw.devices", "record").of(RECORD),
        Place("acme", "raw.logins", "content").of(RECORD),
        Place("acme", "raw.logins", "record").of(RECORD + b"x"),
        b"",
    ],
)
def test_no_envelope_opens_elsewhere(opens: Opens, place: bytes):
    envelope = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    with pytest.raises(DecryptionError):
        opens(envelope, KEY, place)


@BOTH
@pytest.mark.parametrize("value", [SHORT, LONG])
def test_no_changed_byte_is_taken(opens: Opens, value: bytes):
    envelope = seal(value, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 1
        with pytest.raises(DecryptionError):
            opens(bytes(changed), KEY, PLACE.of(RECORD))


@BOTH
def test_no_cut_envelope_is_taken(opens: Opens):
    envelope = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    for size in range(len(envelope)):
        with pytest.raises(DecryptionError):
            opens(envelope[:size], KEY, PLACE.of(RECORD))
    with pytest.raises(DecryptionError):
        opens(envelope + b"x", KEY, PLACE.of(RECORD))


@BOTH
@pytest.mark.parametrize(
    "body", [b"1234567", (1 << 60).to_bytes(8, "big") + b"x", (5).to_bytes(8, "big") + b"no zstd"]
)
def test_a_sealed_body_that_does_not_decompress_is_refused(opens: Opens, body: bytes):
    place = PLACE.of(RECORD)
    header = b"\x01\x01" + KEY_ID
    envelope = header + NONCE + AESGCM(KEY).encrypt(NONCE, body, header + place)
    with pytest.raises(DecryptionError):
        opens(envelope, KEY, place)


@BOTH
def test_an_unknown_version_is_refused_even_when_sealed(opens: Opens):
    place = PLACE.of(RECORD)
    header = b"\x02\x00" + KEY_ID
    envelope = header + NONCE + AESGCM(KEY).encrypt(NONCE, SHORT, header + place)
    with pytest.raises(DecryptionError):
        opens(envelope, KEY, place)


def test_errors_show_nothing():
    envelope = seal(SHORT, KEY, KEY_ID, NONCE, PLACE.of(RECORD))
    with pytest.raises(DecryptionError) as caught:
        open_sealed(envelope, OTHER, PLACE.of(RECORD))
    assert "192.0.2.7" not in str(caught.value)
    assert KEY.hex() not in str(caught.value)
