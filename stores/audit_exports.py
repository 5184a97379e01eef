"""The audit trail as others read it: OCSF JSON lines for a SIEM, a Delta table for analysts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from stores.home import written_whole
from transforms.audit import Entry, canonical_json
from transforms.ocsf import describe_entry


def write_ocsf(path: Path, entries: Sequence[Entry]) -> None:
    """Write one OCSF event a line; the file has its name once it is whole."""
    with written_whole(path) as file:
        file.writelines(canonical_json(describe_entry(entry)).encode() + b"\n" for entry in entries)


def write_delta(path: Path, entries: Sequence[Entry]) -> None:
    """Write a Delta table, in place of what an earlier export wrote there."""
    from deltalake import write_deltalake

    rows = pa.Table.from_pylist([asdict(entry) for entry in entries], _SCHEMA)
    write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")


_SCHEMA = pa.schema(
    [
        pa.field(name, pa.int64() if name == "seq" else pa.large_string(), nullable=False)
        for name in ("tenant", "seq", "at", "principal", "action", "outcome", "parameters", "previous", "hash")
    ]
)
