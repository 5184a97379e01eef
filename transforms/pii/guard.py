"""The guard: it finds whatever is readable of a person in a masked frame.

Positive first (every token is one, under a live key), then patterns and planted canaries over every
readable text column. A finding names the column and counts; it never shows a value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from transforms.pii.siv import has_live_key
from transforms.tables import TableSpec

# What personal data look like where no contract names them. Versions such as 1.2.3.4 look like an
# address, so columns whose contract pins a pattern of digits and dots are exempt from that one.
PATTERNS = {
    "e-mail": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
    "IPv4": r"(?:^|[^0-9.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:$|[^0-9./])",
    "IPv6": r"(?i)(?:^|[^0-9a-f:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?:$|[^0-9a-f:/])",
    "MAC": r"(?i)(?:^|[^0-9a-f])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?:$|[^0-9a-f])",
    "phone": r"(?:^|[^0-9A-Za-z])\+[0-9]{1,3}[ .-]?(?:[0-9][ .-]?){7,12}(?:$|[^0-9])",
    "national id": r"(?:^|[^0-9A-Za-z-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?:$|[^0-9-])",
}


@dataclass(frozen=True)
class Finding:
    """Something readable, or no token where one should be: which column, what kind, how many rows."""

    column: str
    kind: str
    rows: int


def find_readable(
    frame: pl.DataFrame,
    spec: TableSpec,
    live_key_ids: Mapping[str, Collection[bytes]],
    canaries: Sequence[str],
) -> list[Finding]:
    """Find what must not be in a masked table.

    `live_key_ids` maps each token column to the ids of the keys that may have made it.
    """
    findings = [
        Finding(column, "no token of a live key", _count_false(has_live_key(frame[column], key_ids)))
        for column, key_ids in live_key_ids.items()
    ]
    for column in _readable(spec):
        findings += _patterns_in(frame[column])
        if canaries:
            findings.append(Finding(column, "canary", _count_canaries(frame[column], canaries)))
    return [finding for finding in findings if finding.rows]


def count_alone(frame: pl.DataFrame, subject: str, coarse: Sequence[str]) -> int:
    """Count the data subjects whose coarse values nobody else in the frame shares: they could be singled out.

    `subject` names the column of their tokens, `coarse` the columns that are readable together.

    >>> rows = pl.DataFrame({"who": ["a", "a", "b", "c"], "net": ["x", "x", "x", "y"]})
    >>> count_alone(rows, "who", ["net"])
    1
    """
    if frame.is_empty() or not coarse:
        return 0
    shared = frame.group_by(coarse).agg(pl.col(subject).drop_nulls().unique().alias("people"))
    alone = shared.filter(pl.col("people").list.len() == 1).select(pl.col("people").explode())
    return alone["people"].n_unique()


def quasi_identifiers(spec: TableSpec) -> list[str]:
    """Name the columns of a masked table that say something of a person, and could together tell who it is."""
    kinds = (pa.large_string(), pa.int32(), pa.int64())
    return [
        one.name
        for one in spec.columns
        if one.of_contract and one.type in kinds and one.pii in (None, "coarse")
    ]


def _readable(spec: TableSpec) -> list[str]:
    """Give the text columns that people read: neither tokens nor ids of our own making."""
    ours = {"event_id", "tenant", "batch_id", "source", "entry_id"}
    tokens = {"token", "vault", "hash", "sealed", "pseudonym"}
    texts = [one for one in spec.columns if str(one.type).endswith("string")]
    return [one.name for one in texts if one.name not in ours and one.pii not in tokens]


def _patterns_in(values: pl.Series) -> list[Finding]:
    # A column holds few distinct readable values; each is looked at once.
    counts = values.drop_nulls().value_counts(name="rows")
    return [
        Finding(
            values.name,
            kind,
            int(counts.filter(pl.col(values.name).str.contains(pattern))["rows"].sum()),
        )
        for kind, pattern in PATTERNS.items()
    ]


def _count_canaries(values: pl.Series, canaries: Sequence[str]) -> int:
    return int(values.str.contains_any(list(canaries), ascii_case_insensitive=True).sum())


def _count_false(verdicts: pl.Series) -> int:
    return int((~verdicts).sum())
