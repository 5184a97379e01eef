"""What a removal of rows did to a table's files: the record that a certificate is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class FileMark:
    """A file as it was: its name below a folder, its size, its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Removal:
    """Rows that leave a table: which files go, which come. Planned while `version_after` is None."""

    table: str
    mark: str
    version_before: int
    version_after: int | None
    rows: int
    removed: tuple[FileMark, ...]
    added: tuple[FileMark, ...]

    def committed(self, version: int) -> Removal:
        """Give the removal as part of the table."""
        return replace(self, version_after=version)

    def as_record(self) -> dict[str, Any]:
        """Give the removal as plain values, for JSON."""
        return asdict(self)


def removal_of(record: Mapping[str, Any]) -> Removal:
    """Read what `as_record` gave.

    >>> one = Removal("raw.logins", "7", 1, None, 3, (FileMark("a", 1, "00"),), ())
    >>> removal_of(one.as_record()) == one
    True
    """
    files = {name: tuple(FileMark(**file) for file in record[name]) for name in ("removed", "added")}
    return Removal(**{**record, **files})
