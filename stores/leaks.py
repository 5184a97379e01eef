"""The leak scan: every file under a folder, decoded by its content, searched for values in clear.

Files are read while others write them. What could not be read or decoded stands in the report
beside the hits: a folder is clean where both lists are empty.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from stores.home import Home
from transforms.errors import UsageError
from transforms.pii.leak_streams import (
    HEAD_BYTES,
    SQLITE_HEAD,
    WINDOW_BYTES,
    name_closed,
    reader_of,
    recognise,
    unescaped,
)
from transforms.pii.leaks import Decoder, LeakMatcher, Limits

_TRIES = 3
_PAUSE_S = 0.05
_LOCK_TIMEOUT_S = 1.0
_CELLS_BYTES = 1 << 20
_LARGEST_CELL_BYTES = 32 << 20
# What SQLite writes beside a database, told by content: https://www.sqlite.org/fileformat.html
_SIDE_FILES = {
    b"\x37\x7f\x06\x82": "write-ahead log",
    b"\x37\x7f\x06\x83": "write-ahead log",
    b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7": "rollback journal",
}
_WAL_MODE = 2  # at byte 18 of the file


@dataclass(frozen=True)
class Hit:
    """A value in clear: the file, where inside it, and the value's index; never the value itself."""

    file: str
    place: str
    value: int


@dataclass(frozen=True)
class Unreadable:
    """Something that the scan could not look into, and why."""

    file: str
    place: str
    reason: str


@dataclass(frozen=True)
class LeakReport:
    """What a scan met. Units: `size_bytes` as the files stand on disk."""

    files: int
    size_bytes: int
    hits: list[Hit]
    unreadable: list[Unreadable]


def default_exclusions(home: Home) -> list[Path]:
    """Give the places of a home that may hold readable data, or keys."""
    return [home.landing, home.keys]


def scan(
    root: Path,
    values: Sequence[str],
    *,
    exclude: Sequence[Path],
    on_file: Callable[[Path], None] | None = None,
    limits: Limits | None = None,
) -> LeakReport:
    """Search everything under `root`, names included, for values. Symbolic links are not followed.

    Raises: UsageError where `root` is no folder, or a value cannot be looked for.
    """
    return scan_with(root, LeakMatcher(values), exclude=exclude, on_file=on_file, limits=limits)


class Matcher(Protocol):
    """Finds things in decoded bytes, and numbers them."""

    @property
    def finds_numbers(self) -> bool:
        """Whether a number, a date or a time could be one of the things."""
        ...

    def find(self, content: bytes) -> list[int]:
        """Give the numbers of what stands in some bytes, each once."""
        ...


def scan_with(
    root: Path,
    matcher: Matcher,
    *,
    exclude: Sequence[Path],
    on_file: Callable[[Path], None] | None = None,
    limits: Limits | None = None,
) -> LeakReport:
    """Search as `scan` does, for whatever a matcher finds.

    Raises: UsageError where `root` is no folder.
    """
    if not root.is_dir():
        raise UsageError("a leak scan needs a folder that exists")
    one = _Scan(matcher, limits or Limits())
    one.search_folder(root.resolve(), "", {path.resolve() for path in exclude}, on_file)
    return LeakReport(one.files, one.size_bytes, list(one.hits), list(one.unreadable))


@dataclass
class _Scan:
    matcher: Matcher
    limits: Limits
    files: int = 0
    size_bytes: int = 0
    hits: dict[Hit, None] = field(default_factory=dict)
    unreadable: dict[Unreadable, None] = field(default_factory=dict)

    def search_folder(
        self, folder: Path, shown: str, excluded: set[Path], on_file: Callable[[Path], None] | None
    ) -> None:
        """Search a folder and those below it; `shown` is how the report names it."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self._miss(shown or ".", "folder", _reason(error))
            return
        for entry in entries:
            path = folder / entry.name
            if path in excluded:
                continue
            name = self._search_name(entry, shown)
            if entry.is_dir(follow_symlinks=False):
                self.search_folder(path, name, excluded, on_file)
            elif entry.is_file(follow_symlinks=False):  # pipes and sockets hold no bytes on disk
                if on_file is not None:
                    on_file(path)
                self._search_file(path, name)

    def _search_name(self, entry: os.DirEntry[str], parent: str) -> str:
        """Search an entry's name and a link's target; give its path as the report may show it."""
        is_folder = entry.is_dir(follow_symlinks=False)
        found = self._find(os.fsencode(entry.name))
        name = f"[name with value {found[0]}]" if found else entry.name
        shown = os.fsencode(f"{parent}/{name}" if parent else name).decode("utf-8", "backslashreplace")
        self._enter(shown, "folder name" if is_folder else "file name", found)
        if entry.is_symlink():
            try:
                self._enter(shown, "link target", self._find(os.fsencode(Path(entry.path).readlink())))
            except OSError as error:
                self._miss(shown, "link target", _reason(error))
        return shown

    def _search_file(self, path: Path, shown: str) -> None:
        """Search one file; what moves or is locked meanwhile is tried again."""
        for attempt in range(1, _TRIES + 1):
            try:
                with _opened(path) as (file, size_bytes):
                    self._search_open(path, file, size_bytes, shown)
                return
            except (OSError, sqlite3.Error) as error:
                if attempt == _TRIES or not _is_passing(error):
                    self._miss(shown, "file", _reason(error))
                    return
            time.sleep(_PAUSE_S * attempt)

    def _search_open(self, path: Path, file: BinaryIO, size_bytes: int, shown: str) -> None:
        decoder = Decoder(size_bytes, self.limits, writes_numbers=self.matcher.finds_numbers)
        for place, content in _pieces(path, file, decoder):
            self._enter(shown, place, self.matcher.find(content))
        for undecoded in decoder.undecoded:
            self._miss(shown, undecoded.place, undecoded.reason)
        self.files, self.size_bytes = self.files + 1, self.size_bytes + size_bytes

    def _find(self, name: bytes) -> list[int]:
        return sorted({*self.matcher.find(name), *self.matcher.find(unescaped(name))})

    def _enter(self, file: str, place: str, values: list[int]) -> None:
        if values:
            shown = self._shown(place)
            self.hits |= {Hit(file, shown, value): None for value in values}

    def _miss(self, file: str, place: str, reason: str) -> None:
        self.unreadable[Unreadable(file, self._shown(place), reason)] = None

    def _shown(self, place: str) -> str:
        """Give a place as the report may show it: a column's name can hold a value, too."""
        found = self._find(place.encode("utf-8", "surrogateescape"))
        return f"[place with value {found[0]}]" if found else place


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file that nothing may be lost by reading, with its size.

    Closing a file drops every POSIX lock that this process holds on it, those of SQLite's open
    connections among them (https://www.sqlite.org/howtocorrupt.html, 2.2): a file that is open
    here already is read through a child process, and only forwards where it is large.
    """
    status = path.lstat()
    if (status.st_dev, status.st_ino) not in _open_here():
        with os.fdopen(_open_regular(path), "rb") as file:
            yield file, status.st_size
        return
    with subprocess.Popen(["/bin/cat", "--", path], stdout=subprocess.PIPE) as child:  # noqa: S603
        if child.stdout is None:
            raise OSError(errno.EIO, "the file could not be read through a child process")
        beginning = child.stdout.read(WINDOW_BYTES)
        rest = iter(partial(child.stdout.read, 1 << 16), b"")
        is_whole = len(beginning) < WINDOW_BYTES
        yield io.BytesIO(beginning) if is_whole else reader_of(chain([beginning], rest)), status.st_size
    if child.returncode:
        raise OSError(errno.EIO, "the file could not be read through a child process")


def _open_here() -> set[tuple[int, int]]:
    """Give device and inode of every file that is open in this process."""
    found = set()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names of descriptors, not paths
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
        found.add((status.st_dev, status.st_ino))
    return found


def _open_regular(path: Path) -> int:
    """Open a plain file. A pipe would block, and a link that took the file's place is not followed."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "no plain file")
    return opened


def _is_passing(error: OSError | sqlite3.Error) -> bool:
    """Whether the same may succeed a moment later."""
    if isinstance(error, OSError):
        return not isinstance(error, PermissionError)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _reason(error: Exception) -> str:
    """Say what went wrong without the path, which may hold a value."""
    if isinstance(error, OSError):
        return error.strerror or str(error.args[0] if error.args else type(error).__name__)
    return f"SQLite: {type(error).__name__}"


def _pieces(path: Path, file: BinaryIO, decoder: Decoder) -> Iterator[tuple[str, bytes]]:
    head = file.read(HEAD_BYTES)
    if not file.seekable():
        file = reader_of(chain([head], iter(partial(file.read, 1 << 16), b"")))
    side = next((name for magic, name in _SIDE_FILES.items() if head.startswith(magic)), "")
    if head.startswith(SQLITE_HEAD):
        yield from decoder.pages(file, "raw pages")
        with closing(_connected(path, head)) as database:
            yield from _database_pieces(database, decoder)
            # A live cell's stream was followed through SQLite; that of a deleted one cannot be.
            if database.execute("pragma freelist_count").fetchone() != (0,):
                _note_cut(decoder, "raw pages")
    elif side or not file.seekable():
        place = side or "raw bytes"
        yield from decoder.pages(file, place)
        _note_cut(decoder, place)
        if not side and (recognise(head) or name_closed(head)):
            decoder.note(place, "large and open in this process: searched without being decoded")
    else:
        yield from decoder.unpack(file)


def _note_cut(decoder: Decoder, place: str) -> None:
    if decoder.cut_streams:
        decoder.note(place, f"{decoder.cut_streams} compressed streams go on elsewhere or are cut short")


def _connected(path: Path, head: bytes) -> sqlite3.Connection:
    """Open a database to read, leaving no file behind.

    A database in WAL mode without a log would get one by being opened: it is declared immutable.
    With a log it is opened as a reader beside the writers, so that the log's content is seen.
    """
    has_log = path.with_name(path.name + "-wal").exists()
    immutable = "&immutable=1" if head[18] == _WAL_MODE and not has_log else ""
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro{immutable}", uri=True, timeout=_LOCK_TIMEOUT_S)
    database.text_factory = bytes
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_CELL_BYTES)
    database.execute("pragma temp_store = memory")
    return database


def _database_pieces(database: sqlite3.Connection, decoder: Decoder) -> Iterator[tuple[str, bytes]]:
    yield from _rows_pieces(database, "sqlite_master", 'select * from "sqlite_master"', decoder)
    tables = database.execute("select name, sql from sqlite_master where type = 'table'").fetchall()
    for raw_name, sql in tables:
        name = raw_name.decode("utf-8", "replace")
        quoted = name.replace('"', '""')
        if not (sql or b"").upper().startswith(b"CREATE VIRTUAL"):
            # A view or a module could run code; plain tables, also those under a virtual one, hold all cells.
            yield from _rows_pieces(database, name, f'select * from "{quoted}"', decoder)  # noqa: S608
        elif b"FTS5" in sql.upper():
            yield from _terms_pieces(database, name, decoder)


def _terms_pieces(database: sqlite3.Connection, name: str, decoder: Decoder) -> Iterator[tuple[str, bytes]]:
    """Give the terms of a full-text index: in its pages each is cut to what the one before lacks."""
    quoted = name.replace("'", "''")
    try:
        database.execute(f"create virtual table temp.leak_terms using fts5vocab('main', '{quoted}', 'row')")
    except sqlite3.OperationalError as error:
        decoder.note(f"table {name}", f"the terms of its index were not read ({type(error).__name__})")
        return
    yield from _rows_pieces(database, f"{name} (terms)", "select term from temp.leak_terms", decoder)
    database.execute("drop table temp.leak_terms")


def _rows_pieces(
    database: sqlite3.Connection, table: str, query: str, decoder: Decoder
) -> Iterator[tuple[str, bytes]]:
    try:
        cursor = database.execute(query)
        columns = [_Column(f"table {table}, column {heading[0]}") for heading in cursor.description]
        for row in cursor:
            for column, cell in zip(columns, row, strict=True):
                column.add(cell)
                if column.size_bytes >= _CELLS_BYTES:
                    yield from column.drained(decoder)
        yield from (piece for column in columns for piece in column.drained(decoder))
    except sqlite3.Error as error:
        if _is_passing(error):
            raise
        met = "a cell over 32 MiB" if isinstance(error, sqlite3.DataError) else type(error).__name__
        decoder.note(f"table {table}", f"{met}: rows from there on were searched as raw pages only")


@dataclass
class _Column:
    """Cells of a column that wait to be searched together."""

    place: str
    cells: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, cell: bytes | int | float | None) -> None:
        if cell is not None:
            content = cell if isinstance(cell, bytes) else str(cell).encode()
            self.cells.append(content)
            self.size_bytes += len(content) + 1

    def drained(self, decoder: Decoder) -> Iterator[tuple[str, bytes]]:
        cells, self.cells, self.size_bytes = self.cells, [], 0
        yield from decoder.cells(pa.array(cells, pa.binary()), self.place)
