"""The erasure plan: for each table, how the rows of a data subject are found.

It follows from the contracts and the tables' own columns, so that a new source is in it by its
contract alone. A table for which no way is known is an error, and a test looks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stores.contracts import load_contracts
from stores.data_subjects import DEVICE_DOMAIN, Subject, refs_of
from stores.row_removal import Match
from stores.specs import every_table
from transforms.capture.tables import CAPTURE_FILES, PACKETS
from transforms.errors import TableError
from transforms.pii.contracts import Contract
from transforms.tables import TOKEN_MAP, TableSpec, masked_table

BY_REFERENCE = "by the reference of the subject"
BY_TOKEN = "by the token of the subject's id"  # noqa: S105 - a description
BY_OLD_TOKEN = "by the tokens of every live epoch"  # noqa: S105 - a description
BY_BLOCK = "by the blocks that were the subject's"
BY_FILE = "by the files that held the subject's packets only; other files' counts change"
BY_CONTENT = "by opening each entry and looking for the identifier"


@dataclass(frozen=True)
class Way:
    """How a table's rows are found; `column` is the one that is looked through."""

    kind: str
    column: str
    domain: str | None = None


def way_to(spec: TableSpec) -> Way:
    """Give how a subject's rows of a table are found.

    Raises: TableError for a table that no erasure would reach.
    """
    names = {one.name for one in spec.columns}
    if spec.zone == "quarantine":
        return Way(BY_CONTENT, "entry_id")
    if spec.key == CAPTURE_FILES.key:
        return Way(BY_FILE, "file_id")
    if spec.key == PACKETS.key:
        return Way(BY_BLOCK, "block_id")
    if spec.key == TOKEN_MAP.key:
        return Way(BY_OLD_TOKEN, "old_token")
    if "subject_ref" in names:
        return Way(BY_REFERENCE, "subject_ref")
    for contract in load_contracts().values():
        column = subject_column(contract)
        if spec.key == masked_table(contract).key and column in names:
            return Way(BY_TOKEN, column, str(contract.subject.domain))
    raise TableError(f"no erasure would reach {spec.key}: say how a subject's rows are found there")


def erasure_plan() -> dict[str, tuple[TableSpec, Way]]:
    """Give every table but the marts with the way to a subject's rows, in the order of deletion.

    Packets and files come behind the blocks that they are found by: those are written down first.
    """
    return {spec.key: (spec, way_to(spec)) for spec in every_table()}


def subject_column(contract: Contract) -> str:
    """Give the masked column that names the subject; an empty text where there is none."""
    subject = contract.subject
    kinds = ("token", "vault", "hash")
    outputs = sorted(
        (one for one in subject.outputs if one.strategy in kinds), key=lambda one: kinds.index(one.strategy)
    )
    return outputs[0].column(subject.name) if outputs else ""


def matches_of(way: Way, subjects: Sequence[Subject], place: Mapping[str, Any]) -> list[Match]:
    """Give which rows of a table go. `place` is what was found for it before anything was deleted."""
    if way.kind == BY_REFERENCE:
        return [Match(way.column, tuple(refs_of(subjects)))]
    if way.kind == BY_OLD_TOKEN:
        return [Match(way.column, tuple(head for one in subjects for head in one.heads))]
    if way.kind == BY_TOKEN:
        found = [one for one in subjects if one.domain == way.domain]
        return [Match(way.column, tuple(token for one in found for token in (*one.tokens, *one.heads)))]
    hours = tuple(place.get("hours", ()))
    partitions = {"packet_hour": hours} if hours else {}
    return [Match(way.column, tuple(place.get("gone", ())), partitions, place.get("edits", {}))]


def token_columns() -> dict[str, str]:
    """Give the columns of marts in which a subject is named, with the domain: marts keep masked names."""
    found = {subject_column(contract): str(contract.subject.domain) for contract in load_contracts().values()}
    return {**{name: domain for name, domain in found.items() if name}, "device_token": DEVICE_DOMAIN}
