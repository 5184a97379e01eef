"""Leak detection: values in any spelling, in bytes that are decoded as far as they go.

`LeakMatcher` finds many values at once in bytes. `Decoder` takes a file apart into the bytes that
a matcher should see: the bytes themselves, escapes undone, compressed streams, base64 around such
streams, Parquet and Arrow columns. What it cannot take apart it names in `undecoded`: "nothing
found" is an answer only where that list is empty.

It sees text. Numbers are compared as their decimal digits. Closed to it stay packed addresses,
compression that begins in the middle of something (except zstd), and encryption.
"""

from __future__ import annotations

import io
import json
import string
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pybase64
from ahocorasick_rs import MATCHKIND_LEFTMOST_FIRST, BytesAhoCorasick

from transforms.errors import BrokenStreamError, UndecodedError, UsageError
from transforms.pii.leak_columns import (
    Column,
    Found,
    arrow_columns,
    beginning_with,
    is_written_in_digits,
    joined,
    parquet_columns,
    places_of,
    values_of,
)
from transforms.pii.leak_streams import (
    HEAD_BYTES,
    HEADS,
    STREAMS,
    WINDOW_BYTES,
    ZSTD_AMONG,
    ZSTD_MAGIC,
    coded_streams,
    name_closed,
    reader_of,
    recognise,
    take,
    unescaped,
    windows,
)

MIN_CHARACTERS = 4
MAX_CHARACTERS = 1024
# From here on any mixture of upper and lower case is a hit; shorter values would then be met by chance
# in base64 text (a token column of 100 MB holds every 4-letter word in some mixture of cases).
_ANY_CASE_FROM = 10
_SLICE_BYTES = 1 << 20
_OF_WORDS = frozenset(string.ascii_letters + string.digits)
# What numbers, dates and times are written with.
_OF_NUMBERS = frozenset("0123456789+-.: TZeEinfa")


# --- Values and their forms


@dataclass(frozen=True)
class _Base64Form:
    """A value's whole base64 characters at one alignment, and the bits on both sides that it shares."""

    index: int
    characters: bytes
    left: tuple[int, int]  # the low bits of the character before: how many, and what they must be
    right: tuple[int, int]  # the high bits of the character behind


class LeakMatcher:
    """Finds values in bytes, in every form that software writes text in."""

    def __init__(self, values: Sequence[str], *, whole_words: bool = False) -> None:
        """Build the automata; with `whole_words`, values under ten characters count as words only.

        Raises: UsageError for a value under 4 characters (it would be met by chance), over 1,024, or
        one that is no valid Unicode. The message gives the value's number, never the value.
        """
        holders: dict[bytes, list[int]] = {}
        coded: dict[bytes, list[_Base64Form]] = {}
        self._exact: dict[int, frozenset[bytes]] = {}
        self._whole_words = whole_words
        self.finds_numbers = any(_OF_NUMBERS.issuperset(value) for value in values)
        for index, value in enumerate(values):
            forms = text_forms(_checked(index, value))
            if len(value) < _ANY_CASE_FROM:
                self._exact[index] = frozenset(forms)
            for folded in {form.lower() for form in forms}:
                holders.setdefault(folded, []).append(index)
            for form in _base64_forms(index, value):
                coded.setdefault(form.characters, []).append(form)
        self._holders, self._coded = list(holders.values()), list(coded.values())
        self._overlap_bytes = max(map(len, holders), default=0) + 2
        self._folded_automaton = BytesAhoCorasick(list(holders))
        self._base64_automaton = BytesAhoCorasick(list(coded))
        # Only a search that stops at a first match is vectorised, 20 times as fast where the patterns
        # are few: it tells which parts need the full one.
        self._sieve = BytesAhoCorasick(list({*holders, *coded}), matchkind=MATCHKIND_LEFTMOST_FIRST)

    def find(self, content: bytes) -> list[int]:
        """Give the indexes of the values that stand in `content`, each once, in order.

        >>> LeakMatcher(["anna@example.org", "203.0.113.7"]).find(b"to=ANNA%40example.org")
        [0]
        """
        found: set[int] = set()
        for start in range(0, len(content), _SLICE_BYTES):
            # The byte before tells whether a word begins here.
            part = content[max(start - 1, 0) : start + _SLICE_BYTES + self._overlap_bytes]
            folded = part.lower()
            if self._sieve.find_matches_as_indexes(folded):
                self._find_text(part, folded, found)
            if self._sieve.find_matches_as_indexes(part):
                self._find_base64(part, found)
        return sorted(found)

    def _find_text(self, part: bytes, folded: bytes, found: set[int]) -> None:
        for pattern, start, end in self._folded_automaton.find_matches_as_indexes(folded, True):
            for index in self._holders[pattern]:
                if index not in found and self._is_meant(index, part, start, end):
                    found.add(index)

    def _is_meant(self, index: int, part: bytes, start: int, end: int) -> bool:
        """Tell a short value from what is met by chance: by its case, and by what stands around it."""
        exact = self._exact.get(index)
        if exact is None:
            return True
        around = part[max(start - 1, 0) : start] + part[end : end + 1]
        is_word = not any(chr(byte) in _OF_WORDS for byte in around)
        return part[start:end] in exact and (is_word or not self._whole_words)

    def _find_base64(self, part: bytes, found: set[int]) -> None:
        for pattern, start, end in self._base64_automaton.find_matches_as_indexes(part, True):
            for form in self._coded[pattern]:
                if form.index not in found and _edges_agree(form, part, start, end):
                    found.add(form.index)


def text_forms(value: str) -> set[bytes]:
    """Give every way in which a value may stand in bytes as text: encodings, escapes, cases."""
    composed = unicodedata.normalize("NFC", value)
    spellings = {value, composed, unicodedata.normalize("NFD", value)}
    spellings |= {case(composed) for case in (str.lower, str.upper, str.title, str.capitalize)}
    return set().union(*(_encodings(spelling) for spelling in spellings))


def _encodings(text: str) -> set[bytes]:
    content = text.encode()
    forms = {content, content.hex().encode(), content.hex().upper().encode()}
    # The outer zero byte is left off, so that ASCII in both byte orders is one pattern.
    forms |= {text.encode("utf-16-le")[:-1], text.encode("utf-16-be")[1:]}
    forms |= {text.encode("latin-1")} if text.isprintable() and max(text) < "\u0100" else set()
    hive = quote(text, safe="")
    percent = {hive, quote(text), quote_plus(text), quote(hive, safe="")}
    forms |= {form.encode() for form in percent | _json_forms(text)}
    return forms


def _json_forms(text: str) -> set[str]:
    once = {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    once |= {form.replace("/", "\\/") for form in once}
    # Delta keeps statistics as JSON inside a JSON string.
    return once | {json.dumps(form, ensure_ascii=False)[1:-1] for form in once}


def _checked(index: int, value: str) -> str:
    if not MIN_CHARACTERS <= len(value) <= MAX_CHARACTERS:
        raise UsageError(
            f"value {index} has {len(value)} characters; a leak can be looked for with"
            f" {MIN_CHARACTERS} to {MAX_CHARACTERS}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"value {index} is no valid Unicode text") from error
    return value


def _base64_forms(index: int, value: str) -> Iterator[_Base64Form]:
    for content in {value.encode(), value.lower().encode()}:
        for shift, first, low_bits in ((0, 0, 0), (1, 2, 4), (2, 3, 2)):
            last, high_bits = divmod(8 * (shift + len(content)), 6)
            left = (low_bits, content[0] >> (8 - low_bits))
            right = (high_bits, content[-1] & ((1 << high_bits) - 1))
            for encode in (pybase64.standard_b64encode, pybase64.urlsafe_b64encode):
                characters = encode(b"\0" * shift + content)[first:last]
                yield _Base64Form(index, characters, left, right)


_BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SEXTETS = {character: at for at, character in enumerate(_BASE64_ALPHABET)}
_SEXTETS |= {ord("+"): 62, ord("-"): 62, ord("/"): 63, ord("_"): 63}


def _edges_agree(form: _Base64Form, part: bytes, start: int, end: int) -> bool:
    """Whether the neighbours hold the value's remaining bits; a neighbour outside base64 is no objection."""
    bits, expected = form.left
    before = _SEXTETS.get(part[start - 1]) if start else None
    if bits and before is not None and before & ((1 << bits) - 1) != expected:
        return False
    bits, expected = form.right
    behind = _SEXTETS.get(part[end]) if end < len(part) else None
    return not bits or behind is None or behind >> (6 - bits) == expected


# --- Decoding


@dataclass(frozen=True)
class Limits:
    """How far one file is decoded. Units: bytes; a large file may decode to `ratio` times its size."""

    depth: int = 6
    total_bytes: int = 1 << 30
    ratio: int = 32
    row_group_bytes: int = 2 << 30


@dataclass(frozen=True)
class Undecoded:
    """Something inside a file that was not decoded, and why."""

    place: str
    reason: str


def decoded(content: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Give everything that lies in `content`, itself first, each piece with its place.

    Raises: UndecodedError, after everything else was given, for what could not be decoded.

    >>> import zlib
    >>> [place for place, _ in decoded(zlib.compress(b"plain"), "body")]
    ['body', 'body, zlib stream']
    """
    decoder = Decoder(len(content))
    yield from decoder.unpack(io.BytesIO(content), name)
    if decoder.undecoded:
        raise UndecodedError("; ".join(f"{one.place}: {one.reason}" for one in decoder.undecoded))


class Decoder:
    """Takes one file apart, within limits, in memory that does not grow with the file.

    Pieces longer than a window come in windows that overlap. What was not decoded is in `undecoded`.
    """

    def __init__(self, size_bytes: int, limits: Limits | None = None, *, writes_numbers: bool = True) -> None:
        """Set the budget: `size_bytes` is the size of the file.

        Without `writes_numbers`, columns of numbers and times are left as they are: nothing that has
        a letter in it can stand there, and writing them out takes a third of a scan.
        """
        self._limits, self._writes_numbers = limits or Limits(), writes_numbers
        self._left = max(self._limits.total_bytes, self._limits.ratio * size_bytes)
        self._notes: dict[Undecoded, None] = {}
        self._is_lenient = False
        self.cut_streams = 0  # those in `pages` that go on in a page elsewhere

    @property
    def undecoded(self) -> list[Undecoded]:
        """What was met and not decoded, in the order met."""
        return list(self._notes)

    def note(self, place: str, reason: str) -> None:
        """Remember something that was not decoded, once."""
        self._notes[Undecoded(place or "file", reason)] = None

    def unpack(self, file: BinaryIO, place: str = "", depth: int = 0) -> Iterator[tuple[str, bytes]]:
        """Give a seekable file's own bytes and everything inside."""
        file.seek(0)
        head = file.read(HEAD_BYTES)
        kind = recognise(head)
        # These are decoded as a whole: frame by frame, everything would be seen twice.
        is_whole = kind in ("zstd", "Parquet")
        # What looks like zstd within gzip or zlib is the same once more, cut by their block headers.
        was_lenient, self._is_lenient = self._is_lenient, self._is_lenient or kind in ("gzip", "zlib")
        yield from self._raw(file, place, depth, frames=not is_whole)
        self._is_lenient = was_lenient
        file.seek(0)
        if kind == "Parquet":
            before = len(self._notes)
            found = parquet_columns(file, self._limits.row_group_bytes)
            yield from self._columns(found, place, depth)
            rest = None if len(self._notes) == before else 0
        elif kind.startswith("Arrow"):
            yield from self._columns(arrow_columns(file, stream=kind == "Arrow stream"), place, depth)
            rest = None
        else:
            yield from self._inside(kind, head, file, place, depth)
            rest = max(file.tell() - len(ZSTD_MAGIC), 0)
        for view in windows(file, rest) if is_whole and rest is not None else ():
            yield from self._frames(file, place, depth, view, ())

    def pages(self, file: BinaryIO, place: str) -> Iterator[tuple[str, bytes]]:
        """Give the raw pages of a database; streams that go on elsewhere are counted, not noted."""
        self._is_lenient = True
        yield from self._raw(file, place, 0, frames=True)
        self._is_lenient = False

    def cells(self, cells: Column, place: str, depth: int = 0) -> Iterator[tuple[str, bytes]]:
        """Give the values of a flat array, of any type, and what lies inside each of them."""
        if self._left < 0 or (not self._writes_numbers and is_written_in_digits(cells)):
            return
        try:
            values = values_of(cells)
        except (pa.ArrowException, ValueError):
            self.note(place, f"a column of type {cells.type}: not decoded")
            return
        if not len(values) or not self._spend(values.nbytes + len(cells), place):
            return
        starts = places_of(ZSTD_MAGIC, values)
        yield from self._raw(io.BytesIO(joined(values)), place, depth, frames=True, starts=starts)
        for magic in HEADS:
            if magic != ZSTD_MAGIC:  # found in the joined bytes already
                for cell in beginning_with(magic, values):
                    head = cell[:HEAD_BYTES]
                    yield from self._inside(recognise(head), head, io.BytesIO(cell), place, depth)

    def _columns(self, parts: Iterator[Found], place: str, depth: int) -> Iterator[tuple[str, bytes]]:
        for inner, column in parts:
            if isinstance(column, str):
                self.note(_within(place, inner), column)
            else:
                yield from self.cells(column, _within(place, inner), depth)
            if self._left < 0:
                return

    def _inside(
        self, kind: str, head: bytes, file: BinaryIO, place: str, depth: int
    ) -> Iterator[tuple[str, bytes]]:
        """Give what lies in something whose own bytes were given already."""
        if kind in STREAMS:
            yield from self._stream(kind, file, _within(place, f"{kind} stream"), depth)
        elif kind in ("Parquet", "Arrow file", "Arrow stream") and depth < self._limits.depth:
            yield from self.unpack(file, _within(place, kind), depth + 1)
        else:
            self._note_closed(kind, head, place)

    def _raw(
        self, file: BinaryIO, place: str, depth: int, *, frames: bool, starts: Collection[int] = ()
    ) -> Iterator[tuple[str, bytes]]:
        for at, known, window in windows(file):
            yield place or "raw bytes", window
            plain = unescaped(window)
            if plain:
                yield _within(place, "escapes undone"), plain
            for content in chain(coded_streams(window), coded_streams(plain)):
                coded = _within(place, "base64")
                yield from self._inside(recognise(content), b"", io.BytesIO(content), coded, depth)
            if frames:
                yield from self._frames(file, place, depth, (at, known, window), starts)

    def _frames(
        self, file: BinaryIO, place: str, depth: int, view: tuple[int, int, bytes], starts: Collection[int]
    ) -> Iterator[tuple[str, bytes]]:
        """Give the zstd streams that begin in a window, wherever; `starts` are where values begin."""
        at, known, window = view
        found = window.find(ZSTD_MAGIC, max(known - len(ZSTD_MAGIC) + 1, 0))
        while found >= 0:
            source: BinaryIO = io.BytesIO(window[found:])
            if file.seekable():
                source = file
                source.seek(at + found)
            # Where cut streams are only counted, in a database's pages, each one counts.
            kind = "zstd" if self._is_lenient or at + found in starts else ZSTD_AMONG
            yield from self._stream(kind, source, _within(place, f"zstd stream at {at + found}"), depth)
            found = window.find(ZSTD_MAGIC, found + 1)

    def _stream(self, kind: str, file: BinaryIO, place: str, depth: int) -> Iterator[tuple[str, bytes]]:
        """Give what a compressed stream holds: as a file of its own where it fits a window."""
        if self._left < 0:
            return
        if depth >= self._limits.depth:
            self.note(place, f"nested deeper than {self._limits.depth}")
            return
        chunks = self._metered(kind, file, place)
        beginning = take(chunks, WINDOW_BYTES)
        if len(beginning) < WINDOW_BYTES:
            yield from self.unpack(io.BytesIO(beginning), place, depth + 1) if beginning else ()
            return
        head, rest = beginning[:HEAD_BYTES], reader_of(chain([beginning], chunks))
        inner = recognise(head)
        if inner in STREAMS:
            yield from self._stream(inner, rest, _within(place, f"{inner} stream"), depth + 1)
        else:
            self._note_closed(inner, head, place)
            yield from self._raw(rest, place, depth + 1, frames=True)

    def _metered(self, kind: str, file: BinaryIO, place: str) -> Iterator[bytes]:
        """Decompress until the stream, or the budget, ends; what goes wrong is noted, never raised."""
        try:
            for chunk in STREAMS[kind](file):
                if not self._spend(len(chunk), place):
                    return
                yield chunk
        except BrokenStreamError as error:
            if self._is_lenient:
                self.cut_streams += 1
            else:
                self.note(place, str(error))

    def _spend(self, size_bytes: int, place: str) -> bool:
        was_left, self._left = self._left, self._left - size_bytes
        if self._left < 0 <= was_left:
            self.note(place, "the bound on decoded bytes is reached: what follows in this file is not decoded")
        return self._left >= 0

    def _note_closed(self, kind: str, head: bytes, place: str) -> None:
        name = f"{kind} inside something else" if kind else name_closed(head)
        if name:
            self.note(place, f"{name}: not decoded")


def _within(place: str, inner: str) -> str:
    return f"{place}, {inner}" if place else inner
