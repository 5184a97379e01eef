"""Prefix-preserving encryption of IP addresses: who shared a network before shares one after.

Two addresses that agree in their first n bits, and differ in the next, agree in exactly n bits when
encrypted. A bit is turned or not by a pseudorandom function of the bits before it. So it is the
distinct prefixes of a level that are encrypted, all of them in one call.

Source: ipcrypt-pfx of draft-denis-ipcrypt (Methods for IP Address Encryption and Obfuscation);
Crypto-PAn: Xu, Fan, Ammar and Moon, "Prefix-preserving IP address anonymization", ICNP 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transforms.errors import UsageError
from transforms.pii.ciphers import block_encryptor

Octets: TypeAlias = "NDArray[np.uint8]"
Words: TypeAlias = "NDArray[np.uint64]"

KEY_BYTES = 32
_BLOCK_BYTES = 16
# So many addresses are worked on together that they stay near the processor for all levels.
_TOGETHER = 16_384
_ONE, _ALL, _WORD = np.uint64(1), np.uint64(0xFFFF_FFFF_FFFF_FFFF), 64


@dataclass(frozen=True)
class _Scheme:
    """How a level's prefix becomes a block, the blocks become bits, and where IPv4 stands.

    `write(level, high, low, blocks)` fills (n, 2) words; `read(blocks)` gives n bits. `shift` is by how
    much IPv4 addresses (as ::ffff:a.b.c.d) are moved left, and `first` the level that they begin at.
    """

    write: Callable[[int, Words, Words, Words], None]
    read: Callable[[Words], Words]
    shift: int
    first: int


def encrypt_prefixes(addresses: Octets, key: bytes) -> Octets:
    """Encrypt addresses by ipcrypt-pfx; IPv4 stays IPv4.

    Shape: rows of 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, in and out, in the same order.
    Units: `key` of 32 bytes, whose halves differ. Each level costs two AES blocks for each distinct
    prefix; give distinct addresses.
    Raises: UsageError for a key of another length or with equal halves.
    Source: draft-denis-ipcrypt, section "Prefix-Preserving Encryption (ipcrypt-pfx)".

    >>> address = np.frombuffer(bytes(10) + bytes((255, 255, 192, 0, 2, 1)), np.uint8).reshape(1, 16)
    >>> key = bytes.fromhex("0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301")
    >>> encrypt_prefixes(address, key)[0, 12:].tolist()
    [100, 115, 72, 131]
    """
    return _apply(addresses, _ipcrypt_pfx(key), decrypt=False)


def decrypt_prefixes(addresses: Octets, key: bytes) -> Octets:
    """Decrypt what `encrypt_prefixes` made; shapes, units and errors as there."""
    return _apply(addresses, _ipcrypt_pfx(key), decrypt=True)


def encrypt_cryptopan(addresses: Octets, key: bytes) -> Octets:
    """Encrypt addresses by Crypto-PAn, for those whose older captures have it; shapes as above.

    Units: `key` of 32 bytes: the AES-128 key, and what the pad is made from.
    Raises: UsageError for a key of another length.
    Source: Crypto-PAn 1.0; for IPv6 the same over 128 bits, as in its known implementations.
    """
    return _apply(addresses, _cryptopan(key), decrypt=False)


def decrypt_cryptopan(addresses: Octets, key: bytes) -> Octets:
    """Decrypt what `encrypt_cryptopan` made; shapes, units and errors as there."""
    return _apply(addresses, _cryptopan(key), decrypt=True)


# -- the two schemes ----------------------------------------------------------------------------


def _encrypt_blocks(key: bytes) -> Callable[[Words], Words]:
    encryptor = block_encryptor(key)

    def encrypt(blocks: Words) -> Words:
        made = np.empty(blocks.size + 2, np.uint64)  # the cipher asks for 15 bytes more than it fills
        encryptor.update_into(blocks.data.cast("B"), made.data.cast("B"))
        return made[:-2].reshape(-1, 2)

    return encrypt


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise UsageError(f"a key of {len(key)} bytes; prefix-preserving encryption takes {KEY_BYTES}")


def _ipcrypt_pfx(key: bytes) -> _Scheme:
    _check_key(key)
    if key[:16] == key[16:]:
        raise UsageError("the halves of the key are equal; ipcrypt-pfx takes two different AES-128 keys")
    one, two = _encrypt_blocks(key[:16]), _encrypt_blocks(key[16:])

    def write(level: int, high: Words, low: Words, blocks: Words) -> None:
        """Move the prefix to the right, behind one bit that is set."""
        if level < _WORD:
            blocks[:, 0] = 0
            blocks[:, 1] = (high >> np.uint64(_WORD - level)) | (_ONE << np.uint64(level)) if level else 1
        elif level == _WORD:
            blocks[:, 0] = 1
            blocks[:, 1] = high
        else:
            inner, rest = np.uint64(level - _WORD), np.uint64(2 * _WORD - level)
            blocks[:, 0] = (high >> rest) | (_ONE << inner)
            blocks[:, 1] = (high << inner) | (low >> rest)

    def read(blocks: Words) -> Words:
        turned = one(blocks)[:, 1] ^ two(blocks)[:, 1]
        return turned.byteswap() & _ONE  # the last bit of the last byte

    return _Scheme(write, read, shift=0, first=96)


def _cryptopan(key: bytes) -> _Scheme:
    _check_key(key)
    encrypt = _encrypt_blocks(key[:16])
    pad = encrypt(np.frombuffer(key[16:], np.uint64).reshape(1, 2)).view(">u8")[0].astype(np.uint64)

    def write(level: int, high: Words, low: Words, blocks: Words) -> None:
        """Let the pad begin where the prefix ends."""
        blocks[:, 0] = _with_pad(high, pad[0], level)
        blocks[:, 1] = _with_pad(low, pad[1], level - _WORD)

    def read(blocks: Words) -> Words:
        return (encrypt(blocks)[:, 0] >> np.uint64(7)) & _ONE  # the first bit of the first byte

    return _Scheme(write, read, shift=96, first=0)


def _with_pad(words: Words, pad: np.uint64, level: int) -> Words:
    if level <= 0:
        return np.full(len(words), pad)
    if level >= _WORD:
        return words
    mask = _ALL >> np.uint64(level)
    return (words & ~mask) | (pad & mask)


# -- level by level -----------------------------------------------------------------------------


def _apply(addresses: Octets, scheme: _Scheme, *, decrypt: bool) -> Octets:
    words = np.ascontiguousarray(addresses).reshape(-1, _BLOCK_BYTES).view(">u8").astype(np.uint64)
    made = words.copy()
    is_ipv4 = (words[:, 0] == 0) & (words[:, 1] >> np.uint64(32) == 0xFFFF)
    for rows in _sorted_runs(words, np.flatnonzero(is_ipv4)):
        if scheme.shift:
            # Only here is a prefix counted from the IPv4 address' own first bit.
            moved = np.zeros((len(rows), 2), np.uint64)
            moved[:, 0] = words[rows, 1] << np.uint64(32)
            turned = _turn_bits(moved, scheme, range(32), decrypt=decrypt)
            made[rows, 1] = (turned[:, 0] >> np.uint64(32)) | np.uint64(0xFFFF_0000_0000)
        else:
            made[rows] = _turn_bits(words[rows], scheme, range(scheme.first, 128), decrypt=decrypt)
    for rows in _sorted_runs(words, np.flatnonzero(~is_ipv4)):
        made[rows] = _turn_bits(words[rows], scheme, range(128), decrypt=decrypt)
    return made.astype(">u8").view(np.uint8).reshape(-1, _BLOCK_BYTES)


def _sorted_runs(words: Words, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Give the rows in the order of their addresses: equal prefixes stand together in it."""
    rows = rows[np.lexsort((words[rows, 1], words[rows, 0]))]
    for first in range(0, len(rows), _TOGETHER):
        yield rows[first : first + _TOGETHER]


def _turn_bits(words: Words, scheme: _Scheme, levels: range, *, decrypt: bool) -> Words:
    """Turn each bit of sorted addresses by the function of the plain bits before it."""
    made = words.copy()
    plain = made if decrypt else words
    # Plain and encrypted prefixes are one to one, so either order keeps equal ones together.
    differs = np.zeros_like(words)
    differs[1:] = words[1:] ^ words[:-1]
    is_new = np.zeros(len(words), bool)
    is_new[0] = True
    for level in levels:
        half, place = divmod(level, _WORD)
        bit = np.uint64(_WORD - 1 - place)
        made[:, half] ^= _level_bits(plain, is_new, scheme, level) << bit
        is_new |= (differs[:, half] >> bit) & _ONE != 0
    return made


def _level_bits(plain: Words, is_new: NDArray[np.bool_], scheme: _Scheme, level: int) -> Words:
    """Compute the bits of one level: each distinct prefix once, spread to all that share it."""
    rows = np.flatnonzero(is_new)
    # Near the top a handful of prefixes stands for all; near the bottom each address has its own.
    shared = len(rows) < len(plain)
    few = plain[rows] if shared else plain
    blocks = np.empty((len(few), 2), np.uint64)
    scheme.write(level, few[:, 0], few[:, 1], blocks)
    bits = scheme.read(blocks.byteswap(inplace=True))
    return bits[np.cumsum(is_new) - 1] if shared else bits
