"""Pseudonyms that never rotate: of data subjects, of deliveries and of single events.

They are keyed with keys of the tenant, so that nobody without them can test a guess.
"""

from __future__ import annotations

import re
import uuid
from binascii import hexlify, unhexlify
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from transforms.coding import to_arrow
from transforms.pii.ciphers import block_encryptor, derive_key, keyed_digest, keyed_digester
from transforms.pii.envelope import Octets

SUBJECT_REF_BYTES = 16
# Where the five groups of a UUID stand: in its text from and to, and among its 32 digits.
_GROUPS = ((0, 8, 0), (9, 13, 8), (14, 18, 12), (19, 23, 16), (24, 36, 20))
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def subject_refs(ids: pl.Series, ref_of: Callable[[str], bytes]) -> pl.Series:
    """Give the 16-byte reference of each data subject.

    Shape: a String series without nulls, in canonical form, to a Binary one of the same length.
    `ref_of` is a `subject_referrer`; it is asked once for each distinct subject.
    """
    distinct = ids.unique()
    refs = pl.Series([ref_of(one) for one in distinct], dtype=pl.Binary)
    return ids.to_frame("id").join(
        pl.DataFrame({"id": distinct, "ref": refs}), on="id", how="left", maintain_order="left"
    )["ref"]


def starts_of_runs(values: pl.Series) -> npt.NDArray[np.int64]:
    """Give where each run of equal values that stand together begins; nulls are equal to each other.

    >>> starts_of_runs(pl.Series([None, None, "a", "a", "b"])).tolist()
    [0, 2, 4]
    """
    begins = values.ne_missing(values.shift()).to_numpy().copy()
    begins[:1] = True
    return np.flatnonzero(begins)


def runs_of(refs: pl.Series) -> tuple[list[bytes], list[int]]:
    """Give the references of subjects whose records stand together, and how many each has.

    >>> runs_of(pl.Series([b"a", b"a", b"b"]))
    ([b'a', b'b'], [2, 1])
    """
    starts = starts_of_runs(refs)
    return refs.gather(starts).to_list(), np.diff(starts, append=len(refs)).tolist()


def subject_ref(key: bytes, domain: str, canonical_id: str) -> bytes:
    """Give the reference of one data subject: 16 bytes of HMAC-SHA256."""
    return subject_referrer(key, domain)(canonical_id)


def subject_referrer(key: bytes, domain: str) -> Callable[[str], bytes]:
    """Give the function from a canonical id to the reference, for many subjects of a domain."""
    digest = keyed_digester(key, domain.encode())
    return lambda canonical_id: digest(canonical_id.encode())


def numbered_event_ids(key: bytes, delivery: bytes, records: Sequence[int]) -> Octets:
    """Give the ids of a delivery's records by their numbers.

    A block cipher under a key of the delivery is a keyed digest of the number without collisions,
    at 2 ns a record. Shape: the 16 bytes of a UUID of version 8 (RFC 9562 section 5.8) for each number.
    """
    numbers = np.zeros((len(records), 2), dtype=">u8")
    numbers[:, 1] = records
    digests = bytearray(len(records) * 16 + 15)
    block_encryptor(derive_key(key, 32, "event", delivery.hex())).update_into(numbers.tobytes(), digests)
    return _as_uuids(np.frombuffer(digests, np.uint8, len(records) * 16).reshape(-1, 16))


def named_event_ids(key: bytes, names: Sequence[str]) -> Octets:
    """Give the ids of events that bring a name: a UUID stays as it is, anything else is digested.

    A producer may name its events after people; what is no UUID is therefore never kept.
    Shape: 16 bytes for each name.
    """
    digest = keyed_digester(key, b"event")
    lowered = [name.lower() for name in names]
    is_uuid = np.array([_UUID.fullmatch(one) is not None for one in lowered], bool)
    packed = (
        unhexlify(one.replace("-", "")) if stays else digest(name.encode())
        for one, name, stays in zip(lowered, names, is_uuid, strict=True)
    )
    ids = np.frombuffer(bytearray(b"".join(packed)), np.uint8).reshape(-1, 16)
    ids[~is_uuid] = _as_uuids(ids[~is_uuid])
    return ids


def event_id_bytes(event_ids: pl.Series) -> list[bytes]:
    """Give event ids as 16 bytes each, for associated data and indexes."""
    return each_id(uuid_rows(event_ids))


def each_id(ids: Octets) -> list[bytes]:
    """Give rows of 16 bytes as an object each."""
    packed: list[bytes] = np.ascontiguousarray(ids).view("V16").ravel().tolist()
    return packed


def uuid_rows(texts: pl.Series) -> Octets:
    """Give UUIDs in text form as rows of 16 bytes, without a Python object a row."""
    column = to_arrow(texts)
    octets = np.frombuffer(memoryview(column.buffers()[2] or b""), np.uint8, 36 * len(column)).reshape(-1, 36)
    digits = np.empty((len(column), 32), np.uint8)
    for start, stop, first in _GROUPS:
        digits[:, first : first + stop - start] = octets[:, start:stop]
    return np.frombuffer(unhexlify(digits.data), np.uint8).reshape(-1, 16)


def uuid_texts(ids: Octets) -> pa.Array[Any]:
    """Write rows of 16 bytes as UUIDs in text form, without a Python object a row. Shape: large_string."""
    count = len(ids)
    digits = np.frombuffer(hexlify(np.ascontiguousarray(ids).data), np.uint8).reshape(count, 32)
    texts = np.full((count, 36), ord("-"), np.uint8)
    for start, stop, first in _GROUPS:
        texts[:, start:stop] = digits[:, first : first + stop - start]
    offsets = np.arange(0, 36 * (count + 1), 36, dtype=np.int64)
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets.data), pa.py_buffer(texts.data))


def delivery_digest(key: bytes, blake3: bytes) -> bytes:
    """Give the keyed digest of a delivered file from its BLAKE3 digest."""
    return keyed_digest(key, b"delivery", blake3)


def announced_digest(key: bytes, parts: Sequence[str]) -> bytes:
    """Give the keyed digest of which object a bucket announced; a key's name may be a person's."""
    return keyed_digest(key, b"announced", *(one.encode(errors="surrogatepass") for one in parts))


def digest_uuid(digest: bytes) -> str:
    """Write a 16-byte digest as a UUID of version 8 (RFC 9562 section 5.8).

    >>> digest_uuid(bytes(16))
    '00000000-0000-8000-8000-000000000000'
    """
    return str(uuid.UUID(bytes=_as_uuids(np.frombuffer(bytearray(digest), np.uint8).reshape(1, 16)).tobytes()))


def uuid_bytes(text: str) -> bytes:
    """Give one UUID as 16 bytes."""
    return uuid.UUID(text).bytes


def _as_uuids(digests: Octets) -> Octets:
    """Mark digests, in place, as what UUIDs of version 8 hold."""
    digests[:, 6] = (digests[:, 6] & 0x0F) | 0x80
    digests[:, 8] = (digests[:, 8] & 0x3F) | 0x80
    return digests
