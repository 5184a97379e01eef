"""What lies in bytes besides the bytes: escapes undone, and compressed streams, for the leak scan.

Everything reads forward in small pieces, so that neither a large file nor a bomb fills the memory.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa
import pybase64
from ahocorasick_rs import BytesAhoCorasick

from transforms.errors import BrokenStreamError

if TYPE_CHECKING:
    from collections.abc import Generator

WINDOW_BYTES = 4 << 20
# How far windows overlap: the longest value that is looked for fits in its longest form.
REACH_BYTES = 32 << 10
_INFLATE_BYTES = 1 << 20
# A zlib header is two bytes, which chance writes too: only what inflates this far is called a stream.
_PROOF_BYTES = 512
# gzip's header, an empty content and its sum (RFC 1952): what is shorter and begins so, a key of 16
# random bytes for one, is no stream that was damaged.
_LEAST_GZIP_BYTES = 20
_AROUND_BYTES = 1 << 10

# --- Windows and escapes

# Each begins with a plain character: the regular expression engine then skips as fast as memchr.
_UNICODE = re.compile(rb"\\\\*u[0-9a-fA-F]{4}(?:\\+u[0-9a-fA-F]{4})*")
_PERCENT = re.compile(rb"%(?:25)*[0-9a-fA-F]{2}(?:%(?:25)*[0-9a-fA-F]{2})*")
_BACKSLASH = re.compile(rb"\\\\*(?=[\"/\\])")
_ESCAPES = (_UNICODE, _PERCENT, _BACKSLASH)
_UNITS = re.compile(rb"u([0-9a-fA-F]{4})")
_OCTETS = re.compile(rb"%(?:25)*([0-9a-fA-F]{2})")
_FEW_ESCAPES = 2000
# base64 of what begins like gzip, zlib or zstd; line breaks inside are common.
_CODED_HEADS = BytesAhoCorasick(
    [b"H4sI", b"KLUv/", b"KLUv_"]
    + [b"e" + pair.encode() for pair in "Jw Jx Jy Jz No Np Nq Nr AE AF AG AH F4 F5 F6 F7".split()]
)
_CODED_BEGINNING = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_\r\n-]{12,680}")
_CODED_STREAM = re.compile(rb"[A-Za-z0-9+/_\r\n-]+")


def unescaped(window: bytes) -> bytes:
    r"""Undo JSON and percent escapes, however often they were applied; empty where there are none.

    Shape: where escapes are few, only they and 1 KiB on both sides.

    >>> unescaped(rb'{\"name\":\"Zo\\u00eb%2520K\"}').decode()
    '{"name":"Zoë K"}'
    """
    matches = [match.span() for escape in _ESCAPES for match in islice(escape.finditer(window), _FEW_ESCAPES)]
    if len(matches) >= _FEW_ESCAPES:
        return _unescape(window)
    spans: list[list[int]] = []
    for start, end in sorted(matches):
        if spans and start - _AROUND_BYTES < spans[-1][1]:
            spans[-1][1] = end + _AROUND_BYTES
        else:
            spans.append([max(start - _AROUND_BYTES, 0), end + _AROUND_BYTES])
    return b"\n".join(_unescape(window[start:end]) for start, end in spans)


def _unescape(text: bytes) -> bytes:
    text = _UNICODE.sub(_characters, text)
    text = _PERCENT.sub(lambda match: bytes.fromhex(b"".join(_OCTETS.findall(match[0])).decode()), text)
    return _BACKSLASH.sub(b"", text)


def _characters(match: re.Match[bytes]) -> bytes:
    units = b"".join(_UNITS.findall(match[0]))
    return bytes.fromhex(units.decode()).decode("utf-16-be", "replace").encode()


def windows(file: BinaryIO, at: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Read a file, from an offset, in windows that overlap by `REACH_BYTES`.

    Shape: the window's offset, how many of its bytes the one before it held too, its bytes.
    """
    tail = b""
    while True:
        if file.seekable():
            file.seek(at)
        fresh = file.read(WINDOW_BYTES)
        if not fresh:
            return
        window = tail + fresh
        yield at - len(tail), len(tail), window
        at, tail = at + len(fresh), window[-REACH_BYTES:]


# --- Compressed streams


class _Chunked(io.RawIOBase):
    """A readable file over chunks of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - typing.Buffer is of Python 3.12
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def reader_of(chunks: Iterable[bytes]) -> BinaryIO:
    """Give a forward-only file over chunks of bytes."""
    return cast(BinaryIO, io.BufferedReader(_Chunked(chunks), 64 << 10))


def _inflate(file: BinaryIO, *, gzip: bool) -> Iterator[bytes]:
    piece = file.read(_PROOF_BYTES)
    while piece:
        piece = yield from _inflate_member(file, piece, gzip=gzip)


def _inflate_member(file: BinaryIO, piece: bytes, *, gzip: bool) -> Generator[bytes, None, bytes]:
    """Inflate one member and give back the beginning of the next, empty where there is none."""
    engine = zlib.decompressobj(31 if gzip else 15)
    certain = gzip and len(piece) >= _LEAST_GZIP_BYTES
    while not engine.eof:
        try:
            out = engine.decompress(piece, _INFLATE_BYTES)
        except zlib.error as error:
            if certain:
                raise BrokenStreamError("a damaged stream") from error
            return b""
        if out:
            yield out
        elif not piece:
            if certain:
                raise BrokenStreamError("a stream that is cut short")
            return b""
        if not engine.eof:
            certain = certain or len(piece) == _PROOF_BYTES
            piece = engine.unconsumed_tail or file.read(64 << 10)
    rest = (engine.unused_data + file.read(_PROOF_BYTES)).lstrip(b"\0")
    return rest if gzip and rest.startswith(b"\x1f\x8b\x08") else b""


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK_BYTES = 128 << 10
# In sealed bytes the magic stands by chance every 4 GiB, and behind it what may head a block in one of
# 43: among other bytes, only so many blocks in a row (one of 410,000) prove that a stream was damaged.
_PROOF_BLOCKS = 4


class _ZstdFrames:
    """The bytes of the zstd frames that follow each other from here, and none behind them (RFC 8878)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.blocks = file, 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            magic = self._file.read(4)
            if magic == ZSTD_MAGIC:
                yield magic
                yield from self._frame()
            elif _is_skippable(magic):
                size = int.from_bytes(self._file.read(4), "little")
                while size and (skipped := self._file.read(min(size, _INFLATE_BYTES))):
                    size -= len(skipped)
            else:
                return

    def _frame(self) -> Iterator[bytes]:
        descriptor = self._file.read(1)
        if not descriptor or descriptor[0] & 0b1000:
            return
        flags = descriptor[0]
        single = flags >> 5 & 1
        sizes = ((0, 1)[single], 2, 4, 8)[flags >> 6] + (1 - single) + (0, 1, 2, 4)[flags & 3]
        yield descriptor + self._file.read(sizes)
        last = False
        while not last:
            header = self._file.read(3)
            block = int.from_bytes(header, "little")
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            if len(header) < 3 or kind == 3 or size > _ZSTD_BLOCK_BYTES:
                yield header
                return
            self.blocks += 1
            yield header + self._file.read(1 if kind == 1 else size)
        yield self._file.read(4 if flags & 0b100 else 0)


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18"


def _unzstd(file: BinaryIO, proof_blocks: int) -> Iterator[bytes]:
    frames = _ZstdFrames(file)
    # Chunks of no length would read as the end of the file.
    source: Any = pa.PythonFile(cast(Any, reader_of(chunk for chunk in frames if chunk)), mode="r")
    stream = pa.CompressedInputStream(source, "zstd")
    try:
        # An error loses what was decoded in the same call: small calls lose little.
        while out := stream.read(16 << 10):
            yield out
    except OSError as error:
        if frames.blocks >= proof_blocks:
            raise BrokenStreamError("a stream that is cut short or damaged") from error


# A stream that begins among other bytes, where nothing says that one should.
ZSTD_AMONG = "zstd among other bytes"
STREAMS: Mapping[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "gzip": partial(_inflate, gzip=True),
    "zlib": partial(_inflate, gzip=False),
    "zstd": partial(_unzstd, proof_blocks=1),
    ZSTD_AMONG: partial(_unzstd, proof_blocks=_PROOF_BLOCKS),
}
SQLITE_HEAD = b"SQLite format 3\0"
HEADS = {
    b"\x1f\x8b\x08": "gzip",
    ZSTD_MAGIC: "zstd",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow file",
    b"\xff\xff\xff\xff": "Arrow stream",
    SQLITE_HEAD: "SQLite",
}
# Containers that are known and not taken apart: said, so that silence means something.
_CLOSED = {
    b"PARE": "an encrypted Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"BZh91AY&SY": "a bzip2 stream",
    b"\xfd7zXZ\0": "an xz stream",
    b"\x04\x22\x4d\x18": "an LZ4 stream",
    b"\xff\x06\0\0sNaPpY": "a Snappy stream",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"FEA1": "a Feather file of version 1",
    b"%PDF-": "a PDF",
}
HEAD_BYTES = 32


def recognise(head: bytes) -> str:
    """Name the format that begins with these bytes (`HEAD_BYTES` suffice); empty for everything else.

    >>> recognise(b"PAR1...."), recognise(b"text")
    ('Parquet', '')
    """
    if _is_skippable(head[:4]):
        return "zstd"
    kind = next((kind for magic, kind in HEADS.items() if head.startswith(magic)), "")
    # Four bytes of ones are common; behind them stands the length of a flatbuffer and its root.
    if kind == "Arrow stream" and (len(head) < 12 or head[4] % 8 or head[9:12] != b"\0\0\0"):
        return ""
    return kind


def name_closed(head: bytes) -> str:
    """Name a container that is known and that nothing here opens; empty for everything else."""
    if head[8:12] == b"DUCK":
        return "a DuckDB database"
    return next((name for magic, name in _CLOSED.items() if head.startswith(magic)), "")


def coded_streams(window: bytes) -> Iterator[bytes]:
    """Give the compressed streams that stand in base64, as compressed bytes."""
    for _, start, _ in _CODED_HEADS.find_matches_as_indexes(window):
        beginning = _CODED_BEGINNING.match(window, start)
        if beginning and _begins_stream(_from_base64(beginning[0])):
            whole = _CODED_STREAM.match(window, start)
            yield _from_base64(whole[0] if whole else beginning[0])


def _from_base64(coded: bytes) -> bytes:
    coded = coded.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n")
    return pybase64.b64decode(coded + b"A" * (-len(coded) % 4))


def _begins_stream(content: bytes) -> bool:
    kind = recognise(content)
    try:
        return kind in STREAMS and (kind != "zlib" or zlib.decompressobj().decompress(content, 1) is not None)
    except zlib.error:
        return False


def take(chunks: Iterator[bytes], size_bytes: int) -> bytes:
    """Join chunks until they have that many bytes, or end."""
    taken, size = [], 0
    for chunk in chunks:
        taken.append(chunk)
        size += len(chunk)
        if size >= size_bytes:
            break
    return b"".join(taken)
