"""Envelopes of values of some size: compressed with parameters of our own, sealed where they will lie.

The envelope is that of `envelope.py`, and opened there. What differs is how it is made: in memory that
the caller uses again. Memory that is new costs as much as what is done in it: to
encrypt 60 MB took 0.055 CPU s into bytes objects, and 0.018 s into the same place each time.

Source: RFC 8878 (zstd); its parameters are explained in zstd.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from transforms.errors import DecryptionError
from transforms.pii.ciphers import GCM_NONCE_BYTES, GCM_TAG_BYTES, gcm_decrypt_into, gcm_encrypt_into
from transforms.pii.envelope import (
    COMPRESS_FROM,
    COMPRESSED,
    HEADER_BYTES,
    VERSION,
    decompress_value,
    write_header,
)

if TYPE_CHECKING:
    from backports.zstd import ZstdCompressor

Value: TypeAlias = "bytes | memoryview"

_SIZE_BYTES = 8
_HEAD_BYTES = HEADER_BYTES + GCM_NONCE_BYTES
_AROUND_BYTES = _HEAD_BYTES + GCM_TAG_BYTES
# Matches of four bytes and more, found through a table of 32 KiB, which stays near the processor. Packets
# of connected things, against level 1 as it is: 3 % smaller, and not slower.
_LEVEL, _MIN_MATCH, _HASH_LOG = 1, 4, 13
# For the fast strategy: 2 looks at every third place instead of every second one, and leaves what does
# not match as it stands; 0 makes a table of letters for it.
_NOISE, _TEXT = 2, 0
# Pieces of a call's values that are looked at to tell whether what does not match is text or noise: one
# for so many bytes, which is compressed twice.
_MOST_SAMPLES, _SAMPLE_BYTES, _SAMPLED_BYTES = 4, 16 << 10, 512 << 10
_MOST_GROWTH = 1.03


def seal_large(
    plaintexts: Sequence[Value],
    keys: Sequence[bytes],
    key_id: bytes,
    nonces: bytes,
    places: Sequence[bytes],
    room: memoryview,
) -> list[memoryview]:
    """Seal a column as `seal_many` does, each value compressed where that saves.

    Shape: one envelope for each value, back to back from the beginning of `room`; `nonces` holds 12
    bytes a value. Units: `room` has `largest_sealed_bytes`, of which some will be left.
    """
    compressor = _compressor(has_noise=_is_noise(plaintexts))
    each: list[bytes] = np.frombuffer(nonces, f"V{GCM_NONCE_BYTES}").tolist()
    envelopes = []
    for plaintext, key, nonce, place in zip(plaintexts, keys, each, places, strict=True):
        flags, value = _compress(compressor, plaintext)
        header = write_header(flags, key_id)
        envelope = room[: _AROUND_BYTES + len(value)]
        envelope[:_HEAD_BYTES] = header + nonce
        gcm_encrypt_into(key, nonce, value, header + place, envelope[_HEAD_BYTES:])
        envelopes.append(envelope)
        room = room[len(envelope) :]
    return envelopes


def largest_sealed_bytes(plaintexts: Sequence[Value]) -> int:
    """Say how many bytes the envelopes of some values need, if nothing of them can be compressed."""
    return sum(map(len, plaintexts)) + _AROUND_BYTES * len(plaintexts)


def _compress(compressor: ZstdCompressor, plaintext: Value) -> tuple[int, Value]:
    """Give a value's flags, and what is sealed of it."""
    if len(plaintext) >= COMPRESS_FROM:
        packed = _frame(compressor, plaintext)
        if _SIZE_BYTES + len(packed) < len(plaintext):
            return COMPRESSED, len(plaintext).to_bytes(_SIZE_BYTES, "big") + packed
    return 0, plaintext


def open_large(envelope: memoryview, key: bytes, place: bytes, room: memoryview) -> memoryview:
    """Open one envelope, however it was sealed; `room` has its size at least, and is used for a moment.

    Raises: DecryptionError for another key or place, an unknown version, and any changed byte.
    """
    header, nonce = bytes(envelope[:HEADER_BYTES]), envelope[HEADER_BYTES:_HEAD_BYTES]
    opened = room[: max(0, len(envelope) - _AROUND_BYTES)]
    gcm_decrypt_into(key, nonce, envelope[_HEAD_BYTES:], header + place, opened)
    if header[0] != VERSION:
        raise DecryptionError("the envelope")
    # Arrow's memory for what comes out of zstd, since it is given back and taken again without a fault.
    return decompress_value(opened) if header[1] & COMPRESSED else memoryview(bytes(opened))


def _is_noise(plaintexts: Sequence[Value]) -> bool:
    """Whether a close look and a table of letters would save little: what does not match is ciphertext, say.

    Without them, packets of connected things over TLS are compressed in two thirds of the time.
    """
    large = [plaintext for plaintext in plaintexts if len(plaintext) >= _SAMPLE_BYTES]
    if not large:
        return False
    with_table, without = _compressor(has_noise=False), _compressor(has_noise=True)
    count = min(_MOST_SAMPLES, 1 + sum(map(len, large)) // _SAMPLED_BYTES)
    sizes = [0, 0]
    for number in range(count):
        # From other values, and other places in them: what opens a connection is no sample of it.
        plaintext = large[number * len(large) // count]
        at = (len(plaintext) - _SAMPLE_BYTES) * (2 * number + 1) // (2 * count)
        sample = memoryview(plaintext)[at : at + _SAMPLE_BYTES]
        sizes[0] += len(_frame(with_table, sample))
        sizes[1] += len(_frame(without, sample))
    return sizes[1] <= _MOST_GROWTH * sizes[0]


@cache
def _compressor(*, has_noise: bool) -> ZstdCompressor:
    """Give a compressor, made once; it lets one thread in at a time."""
    from backports.zstd import CompressionParameter, ZstdCompressor

    return ZstdCompressor(
        options={
            CompressionParameter.compression_level: _LEVEL,
            CompressionParameter.min_match: _MIN_MATCH,
            CompressionParameter.hash_log: _HASH_LOG,
            CompressionParameter.target_length: _NOISE if has_noise else _TEXT,
        }
    )


def _frame(compressor: ZstdCompressor, plaintext: Value) -> bytes:
    return compressor.compress(plaintext, mode=compressor.FLUSH_FRAME)
