"""The envelope: how everything sealed looks, in every table and file.

    version 1 | flags 1 | key id 4 | nonce 12 | AES-256-GCM ciphertext | tag 16

Bit 0 of the flags says that the plaintext was compressed with zstd (its length, 8 bytes, before it).
The associated data are the header and the place: the length-prefixed tenant, table, column and
record id, so that no envelope opens in another row, column, table or tenant. Nonces come from the
caller: pure code has no randomness of its own, and golden vectors need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, repeat, starmap
from operator import add, call, itemgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import DecryptionError
from transforms.pii.ciphers import (
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    WRONG_TAG,
    gcm_decrypt,
    gcm_decryptor,
    gcm_encrypt,
    gcm_encryptor,
    length_prefixed,
)

Octets: TypeAlias = npt.NDArray[np.uint8]

VERSION = 1
COMPRESSED = 1
HEADER_BYTES = 6
# What an envelope has around its ciphertext.
_AROUND_BYTES = HEADER_BYTES + GCM_NONCE_BYTES + GCM_TAG_BYTES
# Below this, zstd's frame eats what it saves.
COMPRESS_FROM = 1024
# What surrounds so many values is put together at once; it stays near the processor until it is used.
_STEP = 512


class Place:
    """Where an envelope belongs: a tenant's table and column; the record id completes it.

    >>> Place("acme", "raw.logins", "record").of(b"id") != Place("acme", "raw.logins", "recor").of(b"did")
    True
    """

    def __init__(self, tenant: str, table: str, column: str) -> None:
        """Keep the part that all records share."""
        self._shared = length_prefixed(tenant.encode(), table.encode(), column.encode())

    def of(self, record_id: bytes) -> bytes:
        """Give the associated data for one record."""
        return self._shared + length_prefixed(record_id)

    def of_each(self, record_ids: Sequence[bytes]) -> list[bytes]:
        """Give the associated data for records whose ids all have 16 bytes."""
        shared = self.begin(16)
        return [shared + record_id for record_id in record_ids]

    def begin(self, id_bytes: int) -> bytes:
        """Give what the associated data of all records with ids of one length begin with."""
        return self._shared + id_bytes.to_bytes(4, "big")


def seal(plaintext: bytes, key: bytes, key_id: bytes, nonce: bytes, place: bytes) -> bytes:
    """Seal one value. `key` has 32 bytes, `key_id` 4, `nonce` 12 and never comes twice for a key."""
    flags, body = _compressed(plaintext)
    header = write_header(flags, key_id)
    return header + nonce + gcm_encrypt(key, nonce, body, header + place)


def seal_many(
    plaintexts: Sequence[bytes | memoryview],
    keys: Sequence[bytes],
    key_id: bytes,
    nonces: bytes,
    places: Sequence[bytes],
) -> list[bytes]:
    """Seal a column, each value under a key of its own row.

    `nonces` holds 12 bytes a value. Rows of one key should stand together: a key is set up once
    for each run, and only one is held.
    """
    headers, bodies = _prepared(plaintexts, key_id)
    each: list[bytes] = np.frombuffer(nonces, f"V{GCM_NONCE_BYTES}").tolist()
    sealed, held = [], None
    for key, header, nonce, body, place in zip(keys, headers, each, bodies, places, strict=True):
        if key is not held:
            held, encrypt = key, gcm_encryptor(key)
        sealed.append(encrypt(nonce, body, header + place))
    return list(map(add, map(add, headers, each), sealed))


def seal_column(
    plaintexts: Iterable[bytes | memoryview],
    keys: Iterable[bytes],
    runs: Sequence[int],
    key_id: bytes,
    nonces: bytes,
    place: Place,
    record_ids: Octets,
) -> pa.ChunkedArray[Any]:
    """Seal a column as `seal_many` does: each key seals a run of so many values.

    Shape: `nonces` holds 12 bytes a value, `record_ids` a row of 16; large_binary out. Values are taken
    when their turn comes, and once: they lie anywhere in memory.
    Raises: ValueError where the parts do not run in parallel.
    """
    count = len(record_ids)
    if sum(runs) != count or len(nonces) != GCM_NONCE_BYTES * count:
        raise ValueError("runs, nonces and record ids do not run in parallel")
    each = np.frombuffer(nonces, np.uint8).reshape(count, GCM_NONCE_BYTES)
    begun = np.frombuffer(write_header(0, key_id) + place.begin(16), np.uint8)
    # One key is set up at a time, when its run begins.
    encryptors = chain.from_iterable(map(repeat, map(gcm_encryptor, keys), runs))
    steps = [slice(start, start + _STEP) for start in range(0, count, _STEP)]
    coming = iter(plaintexts)
    sealed = [
        _sealed_step(list(islice(coming, _STEP)), encryptors, each[at], begun, record_ids[at]) for at in steps
    ]
    if next(coming, None) is not None:
        raise ValueError("there are more values than record ids")
    return pa.chunked_array(sealed, pa.large_binary())


def _sealed_step(
    plaintexts: list[bytes | memoryview],
    encryptors: Iterator[Callable[[bytes, bytes | memoryview, bytes], bytes]],
    nonces: Octets,
    begun: Octets,
    record_ids: Octets,
) -> pa.Array[Any]:
    """Seal the values of a step; `begun` is what their associated data begin with, flags left at 0."""
    # Copied at once, they are fetched many at a time; each call by itself would wait for its own.
    b"".join(plaintexts)
    count = len(record_ids)
    flags, bodies, sizes = _flagged(plaintexts)
    associated = np.hstack((np.broadcast_to(begun, (count, len(begun))), record_ids))
    associated[:, 1] = flags
    # C makes the calls: a loop that puts each call together costs 0.5 us a value beside its 1.2.
    calls = zip(islice(encryptors, count), _rows_of(nonces), bodies, _rows_of(associated), strict=True)
    parts = [b""] * (2 * count)
    parts[0::2] = _rows_of(associated[:, :HEADER_BYTES], nonces)
    parts[1::2] = starmap(call, calls)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(sizes + _AROUND_BYTES, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.data), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.large_binary(), count, buffers)


def _rows_of(*parts: Octets) -> list[bytes]:
    """Give each row of matrices that stand side by side."""
    rows = np.ascontiguousarray(np.hstack(parts))
    found: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    return found


def _flagged(
    plaintexts: Sequence[bytes | memoryview],
) -> tuple[Octets | int, Sequence[bytes | memoryview], npt.NDArray[np.int64]]:
    """Give the flags, the bodies and how long those are; where every value is short, without a look at each."""
    sizes = _sizes(plaintexts)
    if sizes.max(initial=0) < COMPRESS_FROM:
        return 0, plaintexts, sizes
    packed = [_compressed(plaintext) for plaintext in plaintexts]
    bodies = [body for _, body in packed]
    return np.array([flags for flags, _ in packed], np.uint8), bodies, _sizes(bodies)


def _sizes(values: Sequence[bytes | memoryview]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, values), np.int64, len(values))


def _prepared(
    plaintexts: Sequence[bytes | memoryview], key_id: bytes
) -> tuple[Sequence[bytes], Sequence[bytes | memoryview]]:
    flags, bodies, _ = _flagged(plaintexts)
    each = [flags] * len(bodies) if isinstance(flags, int) else flags.tolist()
    return [write_header(one, key_id) for one in each], bodies


def open_many(
    envelopes: Sequence[bytes | memoryview], keys: Sequence[bytes], places: Sequence[bytes]
) -> list[bytes]:
    """Open a column that `seal_many` sealed.

    Raises: DecryptionError where a single value does not verify; nothing is given out then.
    """
    opened: list[bytes] = []
    rows = zip(keys, envelopes, places, strict=True)
    try:
        for key, run in groupby(rows, itemgetter(0)):
            decrypt = gcm_decryptor(key)
            opened += [_opened(decrypt, envelope, place) for _, envelope, place in run]
    except (WRONG_TAG, ValueError, IndexError) as error:
        raise DecryptionError("the envelope") from error
    return opened


def _opened(
    decrypt: Callable[[bytes | memoryview, bytes | memoryview, bytes], bytes],
    envelope: bytes | memoryview,
    place: bytes,
) -> bytes:
    header = bytes(envelope[:HEADER_BYTES])
    plaintext = decrypt(envelope[6:18], envelope[18:], header + place)
    if header[0] != VERSION:
        raise DecryptionError("the envelope")
    return bytes(decompress_value(plaintext)) if header[1] & COMPRESSED else plaintext


def open_sealed(envelope: bytes, key: bytes, place: bytes) -> bytes:
    """Open one envelope.

    Raises: DecryptionError for another key or place, an unknown version, and any changed byte.
    """
    if len(envelope) < HEADER_BYTES + GCM_NONCE_BYTES or envelope[0] != VERSION:
        raise DecryptionError("the envelope")
    header, nonce, body = envelope[:6], envelope[6:18], envelope[18:]
    plaintext = gcm_decrypt(key, nonce, body, header + place)
    return bytes(decompress_value(plaintext)) if header[1] & COMPRESSED else plaintext


def key_id_of(envelope: bytes) -> bytes:
    """Give the 4 bytes that say which key sealed an envelope."""
    return envelope[2:6]


def write_header(flags: int, key_id: bytes) -> bytes:
    """Write what an envelope begins with, which is authenticated together with its place."""
    return bytes((VERSION, flags)) + key_id


def _compressed(plaintext: bytes | memoryview) -> tuple[int, bytes | memoryview]:
    if len(plaintext) < COMPRESS_FROM:
        return 0, plaintext
    packed = len(plaintext).to_bytes(8, "big") + pa.Codec("zstd", 1).compress(plaintext, asbytes=True)
    return (COMPRESSED, packed) if len(packed) < len(plaintext) else (0, plaintext)


def decompress_value(packed: bytes | memoryview) -> memoryview:
    """Give what a compressed value was, from its length and its frame.

    Raises: DecryptionError where it is none.
    """
    try:
        size = int.from_bytes(packed[:8], "big")
        plain = pa.Codec("zstd").decompress(memoryview(packed)[8:], size)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise DecryptionError("the envelope") from error
    return memoryview(plain).cast("B")
