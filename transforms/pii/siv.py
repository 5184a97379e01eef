"""Deterministic, reversible, authenticated tokens for whole columns: AES-SIV in Tink's wire format.

A token is `0x01 || key id (4 bytes) || V (16) || C (as long as the value)`, for text in base64url
without padding. The first 21 bytes are exactly 28 characters, so `left(token, 28)` joins wherever
the whole token joins, and what follows is the value, enciphered. Any Tink (Java, Go, C++, Python)
opens the tokens with the same key and associated data.

Source: RFC 5297 (AES-SIV), RFC 4648, section 5 (base64url), the Arrow columnar format (string views).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import pybase64

from transforms.errors import DecryptionError, UsageError
from transforms.pii.ciphers import siv_decrypt, siv_encrypt
from transforms.pii.siv_blocks import (
    BLOCK_BYTES,
    Blocks,
    Bytes,
    Chunk,
    Ints,
    Siv,
    ViewColumn,
    Words,
    chunks,
    mask_blocks,
    masks,
    strided,
)

VERSION = b"\x01"
KEY_ID_BYTES = 4
PREFIX_BYTES = 5
HEAD_BYTES = PREFIX_BYTES + BLOCK_BYTES
HEAD_CHARACTERS = 28

# Beyond 512 bytes a call per value no longer weighs, and this bounds the loops over blocks.
MOST_BLOCKS = 32
LONGEST_BYTES = MOST_BLOCKS * BLOCK_BYTES
# Of so few values of a size, a call each takes less than setting up for all.
FEW = 16


@dataclass(frozen=True)
class SivKey:
    """One key of one join domain, and what its tokens are bound to.

    Units: `key` of 64 bytes (AES-256); 32 and 48 are taken as well. `key_id` of 4 bytes.
    Raises: UsageError for other lengths.
    """

    key: bytes = field(repr=False)
    key_id: bytes
    associated: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Check the lengths, once and here."""
        if len(self.key) not in (32, 48, 64) or len(self.key_id) != KEY_ID_BYTES:
            raise UsageError("a SIV key has 64 bytes (or 32, 48) and its key id has 4")

    @property
    def prefix(self) -> bytes:
        """What every token of this key begins with."""
        return VERSION + self.key_id


def encrypt_column(
    values: pl.Series, key: SivKey, *, text: bool = True, keep_ciphertext: bool = True
) -> pl.Series:
    r"""Turn each value into its token; the same value under the same key gives the same token.

    Shape: a String or Binary series in; rows, order, name and nulls kept. String of base64url out,
    or Binary with `text=False`. `keep_ciphertext=False` cuts to the joinable 28 characters (21
    bytes), which no key turns back.
    Raises: UsageError for a column of another type.

    >>> key = SivKey(bytes(64), b"\0\0\0\7", (b"acme|ip",))
    >>> tokens = encrypt_column(pl.Series("ip", ["192.0.2.7", None, "192.0.2.7"]), key)
    >>> tokens[0] == tokens[2], tokens[1], len(tokens[0])
    (True, None, 40)
    >>> decrypt_column(tokens, {key.key_id: key}).to_list()
    ['192.0.2.7', None, '192.0.2.7']
    """
    writer = _Writer(key, text, keep_ciphertext)
    column = ViewColumn(values)
    for chunk in chunks(values, slack=LONGEST_BYTES):
        for blocks, part in _by_block_count(chunk):
            if blocks > MOST_BLOCKS or len(part.lengths) < FEW:
                column.add_each(part.rows, [writer.one_token(value) for value in _each(part)])
            else:
                matrix, stride = writer.token_rows(part, blocks)
                column.add_rows(part.rows, writer.heads(part.lengths), matrix, stride)
    return column.to_series(text)


def decrypt_column(tokens: pl.Series, keys: Mapping[bytes, SivKey], *, text: bool | None = None) -> pl.Series:
    """Turn tokens back into values, each one verified; a column may hold tokens of several keys.

    Shape: String (base64url) or Binary (raw) in, String or Binary out as `text` says, by default as
    it came; rows, order, name and nulls kept. `keys` by key id.
    Raises: DecryptionError where any token is altered, cut, of an unknown key, or not in its one
    canonical spelling, and where `text` is asked for and a value is not UTF-8. UsageError for a
    column of another type.
    """
    reader = _Reader(keys, tokens.dtype == pl.String, f"column {tokens.name!r}")
    column = ViewColumn(tokens)
    for chunk in chunks(tokens, slack=reader.window(MOST_BLOCKS), fill=b"A"):
        opened = replace(chunk, lengths=reader.value_lengths(chunk))
        for blocks, part in _by_block_count(opened):
            if blocks > MOST_BLOCKS or len(part.lengths) < FEW:
                column.add_each(part.rows, reader.open_each(part))
            else:
                column.add_blocks(part.rows, part.lengths, reader.open_rows(part, blocks))
    return column.to_series(tokens.dtype == pl.String if text is None else text, verify=True)


def has_live_key(tokens: pl.Series, key_ids: Collection[bytes]) -> pl.Series:
    """Say of each text whether it could be a token of one of these keys; opens nothing.

    Shape: String in, Boolean out; rows, order, name and nulls kept. True for canonical base64url of
    28 characters or more that begins with the version byte and one of the key ids.
    Raises: UsageError for a column that is not String, and for a key id that has not 4 bytes.
    """
    if any(len(key_id) != KEY_ID_BYTES for key_id in key_ids):
        raise UsageError("a key id has 4 bytes")
    if tokens.dtype != pl.String:
        raise UsageError(f"column {tokens.name!r} is {tokens.dtype}; the guard reads String")
    live = np.frombuffer(b"".join(key_ids), dtype=np.uint32)
    verdicts = np.zeros(len(tokens), dtype=bool)
    for chunk in chunks(tokens, slack=HEAD_CHARACTERS, fill=b"A"):
        formed = _is_canonical(chunk) & ~_has_foreign_character(chunk)
        heads = chunk.windows(8)
        heads[~formed] = np.void(b"AAAAAAAA")
        prefixes = np.frombuffer(_decode(heads.tobytes()), dtype=np.uint8)
        versions = prefixes[0::6] == VERSION[0]
        names = np.ndarray((len(heads),), np.uint32, prefixes, offset=1, strides=(6,))
        verdicts[chunk.rows] = formed & versions & np.isin(names, live)
    series = pl.Series(tokens.name, verdicts)
    return series.set(tokens.is_null(), None) if tokens.null_count() else series


def _by_block_count(chunk: Chunk) -> Iterator[tuple[int, Chunk]]:
    """Part a chunk by how many blocks its values have; all long ones count as one block more."""
    shortest, longest = (_block_count(int(end)) for end in (chunk.lengths.min(), chunk.lengths.max()))
    if shortest == longest:
        yield shortest, chunk
        return
    counts = np.minimum(np.maximum((chunk.lengths + 15) >> 4, 1), MOST_BLOCKS + 1)
    for blocks in np.flatnonzero(np.bincount(counts)).tolist():
        yield blocks, chunk.part(np.flatnonzero(counts == blocks))


def _block_count(length: int) -> int:
    return min(max(length + 15 >> 4, 1), MOST_BLOCKS + 1)


def _each(chunk: Chunk) -> Iterator[bytes]:
    for start, length in zip(chunk.starts.tolist(), chunk.lengths.tolist(), strict=True):
        yield bytes(chunk.text[start : start + length])


def _encode(raw: bytes | memoryview) -> bytes:
    return pybase64.b64encode(raw, altchars=b"-_")


def _decode(text: bytes | bytearray) -> bytes:
    """Decode base64url whose length is a multiple of 4; padding is refused.

    Raises: ValueError for any character that is not of the alphabet.
    """
    # The decoder would take the other alphabet's two characters too, and padding at the very end.
    if 0x2B in text or 0x2F in text or text.endswith(b"="):
        raise ValueError("not base64url without padding")
    return pybase64.b64decode(text, altchars=b"-_", validate=True)


_ALPHABET = np.zeros(256, dtype=bool)
_ALPHABET[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")] = True


def _has_foreign_character(chunk: Chunk) -> npt.NDArray[np.bool_]:
    """Say of each value whether any of its characters is not of the base64url alphabet."""
    found = np.zeros(len(chunk.starts), dtype=bool)
    try:
        _decode(chunk.text + b"A" * (-len(chunk.text) % 4))
    except ValueError:
        text = np.frombuffer(chunk.text, dtype=np.uint8)
        foreign = np.flatnonzero(~_ALPHABET[text])
        found[np.searchsorted(chunk.starts, foreign, side="right") - 1] = True
    return found


def _last_characters() -> npt.NDArray[np.bool_]:
    """Table: may a token of length l (modulo 4) end with character c? At index 256 * l + c."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    allowed = np.zeros((4, 256), dtype=bool)
    # A last group of 2 or 3 characters carries 4 or 2 bits too many: they must be zero.
    for remainder, step in ((0, 1), (2, 16), (3, 4)):
        allowed[remainder, list(alphabet[::step])] = True
    return allowed.reshape(-1)


_LAST_CHARACTERS = _last_characters()


def _is_canonical(chunk: Chunk) -> npt.NDArray[np.bool_]:
    """Say of each text whether it is long enough, of a possible length, and has no stray bits."""
    text = np.frombuffer(chunk.text, dtype=np.uint8)
    last = text[chunk.starts + np.maximum(chunk.lengths, 1) - 1]
    return _LAST_CHARACTERS.take((chunk.lengths & 3) << 8 | last) & (chunk.lengths >= HEAD_CHARACTERS)


class _Writer:
    """Writes the tokens of one key."""

    def __init__(self, key: SivKey, text: bool, keep_ciphertext: bool) -> None:
        self._key, self._text, self._keep = key, text, keep_ciphertext

    @cached_property
    def _siv(self) -> Siv:
        return Siv(self._key.key, self._key.associated)

    @cached_property
    def _heads(self) -> Words:
        raw = HEAD_BYTES + np.arange(LONGEST_BYTES + 1) * self._keep
        sizes = (4 * raw + 2) // 3 if self._text else raw
        start = _encode(self._key.prefix[:3]) if self._text else self._key.prefix[:4]
        heads: Words = sizes.astype(np.uint64) | np.uint64(int.from_bytes(start, "little") << 32)
        return heads

    def heads(self, lengths: Ints) -> Words:
        """Give the first half of each token's view: its length and its first 4 bytes."""
        return self._heads.take(lengths)

    def one_token(self, value: bytes) -> bytes:
        raw = self._key.prefix + siv_encrypt(self._key.key, value, *self._key.associated)
        raw = raw if self._keep else raw[:HEAD_BYTES]
        return _encode(raw).rstrip(b"=") if self._text else raw

    def token_rows(self, part: Chunk, blocks: int) -> tuple[bytes | Bytes, int]:
        """Encrypt values of one block count: all tokens in one buffer, and their distance in it."""
        rest = part.lengths - BLOCK_BYTES * (blocks - 1)
        plain = _columns(part.windows(blocks * BLOCK_BYTES), 0, blocks)
        kept = masks(rest)
        mask_blocks(plain[-1], kept)
        vectors = self._siv.authenticate(plain, rest)
        cipher = self._siv.encipher(vectors, plain, kept) if self._keep else []
        size = HEAD_BYTES + (int(part.lengths.max()) if self._keep else 0)
        # Rows of whole groups of 3 bytes: then the code of all rows is the rows' codes in a row.
        width = size + -size % 3
        matrix = self._rows(vectors, cipher, width)
        return (_encode(matrix.data), width // 3 * 4) if self._text else (matrix, width)

    def _rows(self, vectors: Blocks, cipher: list[Blocks], width: int) -> Bytes:
        count = len(vectors)
        matrix = np.empty(count * width + BLOCK_BYTES, dtype=np.uint8)
        used = HEAD_BYTES + BLOCK_BYTES * len(cipher)
        # From the back to the front: a last block may reach into the next row, whose own bytes
        # then come over it.
        for spare in range(used, width):
            matrix[spare::width] = 0
        for place in reversed(range(len(cipher))):
            strided(matrix, HEAD_BYTES + BLOCK_BYTES * place, 16, width, count)[:] = cipher[place]
        # As eight bytes, not as a number: those that lie anywhere would go through a buffer.
        strided(matrix, 0, 8, width, count)[:] = np.void(self._key.prefix + bytes(3))
        strided(matrix, PREFIX_BYTES, 16, width, count)[:] = vectors
        return matrix[: count * width]


def _columns(rows: Blocks, offset: int, blocks: int) -> list[Blocks]:
    """Copy out blocks that follow one another in each row, from a byte of the row on."""
    width = rows.dtype.itemsize
    if width == BLOCK_BYTES:
        return [rows]
    places = range(offset, offset + blocks * BLOCK_BYTES, BLOCK_BYTES)
    return [strided(rows, place, BLOCK_BYTES, width, len(rows)).copy() for place in places]


class _Reader:
    """Opens the tokens of several keys."""

    def __init__(self, keys: Mapping[bytes, SivKey], is_text: bool, what: str) -> None:
        self._keys, self._is_text, self._what = keys, is_text, what
        self._sivs: dict[bytes, Siv] = {}

    def window(self, blocks: int) -> int:
        """Give how much of a column one row is read from; text in whole groups of 4 characters."""
        raw = HEAD_BYTES + blocks * BLOCK_BYTES
        return (raw + 2) // 3 * 4 if self._is_text else raw

    def value_lengths(self, chunk: Chunk) -> Ints:
        """Give how long the values in these tokens are."""
        lengths = chunk.lengths
        if self._is_text:
            if not _is_canonical(chunk).all():
                raise DecryptionError(self._what)
            lengths = lengths * 3 >> 2
        if (lengths < HEAD_BYTES).any():
            raise DecryptionError(self._what)
        return lengths - HEAD_BYTES

    def _raw(self, rows: bytes) -> bytes:
        try:
            return _decode(rows) if self._is_text else rows
        except ValueError:
            raise DecryptionError(self._what) from None

    def open_each(self, part: Chunk) -> list[bytes]:
        """Open tokens one by one."""
        sizes = HEAD_BYTES + part.lengths
        whole = replace(part, lengths=(4 * sizes + 2) // 3 if self._is_text else sizes)
        return [self._open_one(token) for token in _each(whole)]

    def _open_one(self, token: bytes) -> bytes:
        size = len(token) * 3 // 4 if self._is_text else len(token)
        raw = self._raw(token + b"A" * (-len(token) % 4) if self._is_text else token)[:size]
        key = self._keys.get(raw[1:PREFIX_BYTES])
        if raw[:1] != VERSION or key is None:
            raise DecryptionError(self._what)
        try:
            return siv_decrypt(key.key, raw[PREFIX_BYTES:], *key.associated)
        except DecryptionError:
            raise DecryptionError(self._what) from None

    def open_rows(self, part: Chunk, blocks: int) -> list[Blocks]:
        """Open tokens of one block count, whatever their keys: the blocks of the values."""
        raw = self._raw(part.windows(self.window(blocks)).tobytes())
        width = len(raw) // len(part.starts)
        rows = np.frombuffer(raw, dtype=f"V{width}")
        names = strided(raw, 0, PREFIX_BYTES, width, len(rows)).copy()
        rest = part.lengths - BLOCK_BYTES * (blocks - 1)
        if (names == names[0]).all():
            return self._open_under(names[0].tobytes(), rows, blocks, rest)
        plain = [np.empty(len(rows), dtype="V16") for _ in range(blocks)]
        for name in set(names.tolist()):
            picked = np.flatnonzero(names == np.void(name))
            opened = self._open_under(name, rows[picked], blocks, rest[picked])
            for whole, block in zip(plain, opened, strict=True):
                whole[picked] = block
        return plain

    def _open_under(self, prefix: bytes, rows: Blocks, blocks: int, rest: Ints) -> list[Blocks]:
        """Open tokens of one key and one block count; nothing is given out unless all verify."""
        siv = self._siv(prefix)
        (vectors,) = _columns(rows, PREFIX_BYTES, 1)
        plain = siv.encipher(vectors, _columns(rows, HEAD_BYTES, blocks), masks(rest))
        again = siv.authenticate(plain, rest)
        if (vectors.view(np.uint64) != again.view(np.uint64)).any():
            raise DecryptionError(self._what)
        return plain

    def _siv(self, prefix: bytes) -> Siv:
        key_id = prefix[1:]
        key = self._keys.get(key_id)
        if prefix[:1] != VERSION or key is None:
            raise DecryptionError(self._what)
        if key_id not in self._sivs:
            self._sivs[key_id] = Siv(key.key, key.associated)
        return self._sivs[key_id]
