"""Hardware addresses, permuted under a key: as many as before, each as distinct, none readable.

The two lowest bits of the first byte (group, locally administered) stay, so that a group address is
still one. The manufacturer's prefix does not stay. All zeros and all ones, which are no device, stay.

Source: IEEE 802, clause 8 (the two bits); a balanced Feistel network over the other 46 bits, of ten
rounds as in FF1 (NIST SP 800-38G), with AES as the round function.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.pii.ciphers import BlockEncryptor, block_encryptor

Octets: TypeAlias = "NDArray[np.uint8]"
Words: TypeAlias = "NDArray[np.uint64]"

KEY_BYTES = 32
_ROUNDS = 10
_HALF_BITS = np.uint64(23)
_HALF = np.uint64((1 << 23) - 1)
_KIND_AT = np.uint64(40)  # the two bits that stay are the 41st and the 42nd from the right
_BELOW_KIND = np.uint64((1 << 40) - 1)
_FIXED = (0, (1 << 48) - 1)


def permute_macs(distinct: Octets, key: bytes) -> Octets:
    """Permute hardware addresses; one address under one key always gives the same.

    Shape: rows of 6 bytes in and out, in the same order.
    Units: `key` of 32 bytes.

    >>> made = permute_macs(np.array([[2, 0, 94, 16, 0, 1], [255] * 6], np.uint8), bytes(32))
    >>> made[0, 0] & 3, made[1].tolist()
    (np.uint8(2), [255, 255, 255, 255, 255, 255])
    """
    if not len(distinct):
        return distinct
    wide = np.zeros((len(distinct), 8), np.uint8)
    wide[:, 2:] = distinct
    macs = wide.view(">u8")[:, 0].astype(np.uint64)
    encryptor = block_encryptor(key)
    made = _permute(macs, encryptor)
    for value in _FIXED:
        # What would have become the fixed value takes the place that the fixed value would have had.
        fixed = np.array([value], np.uint64)
        made[made == fixed] = _permute(fixed, encryptor)
        made[macs == fixed] = fixed
    return made.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]


def _permute(macs: Words, encryptor: BlockEncryptor) -> Words:
    kind = (macs >> _KIND_AT) & np.uint64(3)
    packed = ((macs >> np.uint64(42)) << _KIND_AT) | (macs & _BELOW_KIND)
    left, right = packed >> _HALF_BITS, packed & _HALF
    for turn in range(_ROUNDS):
        left, right = right, left ^ _round(turn, kind, right, encryptor)
    packed = (left << _HALF_BITS) | right
    made: Words = ((packed >> _KIND_AT) << np.uint64(42)) | (kind << _KIND_AT) | (packed & _BELOW_KIND)
    return made


def _round(turn: int, kind: Words, half: Words, encryptor: BlockEncryptor) -> Words:
    blocks = np.empty((len(half), 2), np.uint64)
    blocks[:, 0] = (np.uint64(turn) << np.uint64(8)) | kind
    blocks[:, 1] = half
    made = np.empty(blocks.size + 2, np.uint64)  # the cipher asks for 15 bytes more than it fills
    encryptor.update_into(blocks.data.cast("B"), made.data.cast("B"))
    second: Words = made[1:-2:2]
    return second & _HALF
