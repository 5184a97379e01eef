"""Envelopes of values of some size."""

from __future__ import annotations

import platform
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.sealing_room import SealingRoom, keep_freed_memory
from transforms.errors import DecryptionError
from transforms.pii.ciphers import GCM_NONCE_BYTES, gcm_encrypt
from transforms.pii.envelope import Place, open_many, seal
from transforms.pii.large_values import largest_sealed_bytes, open_large, seal_large

KEY, OTHER, KEY_ID = bytes(range(32)), bytes(range(1, 33)), b"\x0a\x0b\x0c\x0d"
PLACE = Place("acme", "raw.capture_blocks", "records")
NOISE = random.Random(7).randbytes(200_000)  # noqa: S311 - data that does not compress
TEXT = b"".join(b'{"temp":%d,"hum":%d}' % (at * 7919 % 1000, at * 31 % 97) for at in range(10_000))
# Ciphertext behind headers that repeat, as packets over TLS are.
PACKETS = b"".join(b"\x17\x03\x03\x00\x60" * 10 + NOISE[at : at + 90] for at in range(0, 180_000, 90))


def sealed(values: list[bytes], keys: list[bytes] | None = None) -> tuple[list[memoryview], list[bytes]]:
    places = PLACE.of_each([bytes([at]) * 16 for at in range(len(values))])
    nonces = bytes(at % 251 for at in range(GCM_NONCE_BYTES * len(values)))
    room = memoryview(bytearray(largest_sealed_bytes(values)))
    return seal_large(values, keys or [KEY] * len(values), KEY_ID, nonces, places, room), places


@given(st.lists(st.binary(max_size=3000) | st.sampled_from([NOISE, TEXT, PACKETS]), max_size=6))
def test_what_is_sealed_opens(values: list[bytes]):
    keys = [KEY if at % 2 else OTHER for at in range(len(values))]
    envelopes, places = sealed(values, keys)
    assert open_many(envelopes, keys, places) == values


def test_an_envelope_is_the_one_of_the_platform():
    short, place = NOISE[:500], PLACE.of(bytes(16))
    nonce = bytes(range(GCM_NONCE_BYTES))
    room = memoryview(bytearray(largest_sealed_bytes([short])))
    assert seal_large([short], [KEY], KEY_ID, nonce, [place], room) == [seal(short, KEY, KEY_ID, nonce, place)]


@pytest.mark.parametrize("values", [[NOISE], [TEXT, TEXT], [PACKETS], [PACKETS, TEXT, NOISE]])
def test_no_value_is_much_larger_than_with_the_usual_compression(values: list[bytes]):
    envelopes, places = sealed(values)
    usual = [seal(value, KEY, KEY_ID, bytes(12), place) for value, place in zip(values, places, strict=True)]
    assert sum(map(len, envelopes)) <= 1.02 * sum(map(len, usual))


def test_text_keeps_its_table_of_letters():
    (alone,), _ = sealed([TEXT])
    # Between packets that have none, text is not half as small: the choice is one for all.
    assert len(alone) < 0.35 * len(TEXT)


def test_envelopes_open_at_their_place_only():
    envelopes, places = sealed([TEXT, PACKETS])
    with pytest.raises(DecryptionError):
        open_many(envelopes, [KEY, KEY], places[::-1])
    envelopes[1][40] ^= 1
    with pytest.raises(DecryptionError):
        open_many(envelopes, [KEY, KEY], places)


def test_columns_that_do_not_run_in_parallel_are_no_columns():
    room = memoryview(bytearray(largest_sealed_bytes([TEXT, TEXT])))
    with pytest.raises(ValueError, match="zip"):
        seal_large([TEXT, TEXT], [KEY], KEY_ID, bytes(24), PLACE.of_each([bytes(16)] * 2), room)


def test_room_is_given_once_until_it_is_cleared():
    room = SealingRoom()
    first = room.offer(1000)
    first[:3] = b"abc"
    room.keep(3)
    second = room.offer(1000)
    second[:3] = b"def"
    room.keep(3)
    assert bytes(first[:6]) == b"abcdef"
    large = room.offer(64 << 20)
    large[:1] = large[-1:] = b"x"
    room.keep(64 << 20)
    assert len(room.offer(1000)) >= 1000
    assert bytes(first[:6]) == b"abcdef" and large[0] == ord("x")
    room.clear()
    room.offer(1000)[:3] = b"ghi"
    assert bytes(first[:6]) == b"ghidef"


def test_memory_that_is_freed_is_kept_for_what_comes_next():
    program = """
import ctypes
import resource
from stores.sealing_room import SealingRoom, keep_freed_memory
SealingRoom()
if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages are few, where they are the rule
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (1, 5, 20):
        bytearray(b"x") * (size << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(keep_freed_memory()), touched(), touched())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    is_kept, first, second = map(int, ran.stdout.split())
    assert is_kept == (platform.libc_ver()[0] == "glibc")
    assert first > 4096 and (second < 64 or not is_kept)


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory.__wrapped__()
    assert SealingRoom().offer(10)


@pytest.mark.parametrize("value", [NOISE[:500], NOISE, TEXT, PACKETS])
def test_one_opens_in_room_that_is_used_again(value: bytes):
    room = memoryview(bytearray(2 * len(value) + 100))
    (first, second), (place, other) = sealed([value, value[::-1]])
    opened = open_large(first, KEY, place, room)
    assert open_large(second, KEY, other, room) == value[::-1]
    assert opened == value
    usual = seal(value, KEY, KEY_ID, bytes(12), place)
    assert open_large(memoryview(usual), KEY, place, room) == value


@pytest.mark.parametrize("at", [0, 1, 3, 10, 40, -1])
def test_no_changed_byte_opens(at: int):
    (envelope,), (place,) = sealed([TEXT])
    envelope[at] ^= 1
    with pytest.raises(DecryptionError):
        open_large(envelope, KEY, place, memoryview(bytearray(len(envelope))))


@pytest.mark.parametrize("size", [0, 5, 17, 18, 33, 34, 100])
def test_a_cut_envelope_does_not_open(size: int):
    (envelope,), (place,) = sealed([TEXT])
    with pytest.raises(DecryptionError):
        open_large(envelope[:size], KEY, place, memoryview(bytearray(len(envelope))))


def test_another_key_or_an_unknown_version_does_not_open():
    (envelope,), (place,) = sealed([TEXT])
    room = memoryview(bytearray(len(envelope)))
    with pytest.raises(DecryptionError):
        open_large(envelope, OTHER, place, room)
    head = b"\x02\x00" + KEY_ID
    made = head + bytes(12) + gcm_encrypt(KEY, bytes(12), TEXT, head + place)
    with pytest.raises(DecryptionError):
        open_large(memoryview(made), KEY, place, memoryview(bytearray(len(made))))
