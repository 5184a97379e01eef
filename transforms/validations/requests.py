"""Requests as they come: JSON objects of the contract's personal fields, read into their canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import polars as pl

from transforms.errors import UsageError
from transforms.parsing import parse_records
from transforms.pii.contracts import Contract


@dataclass(frozen=True)
class Change:
    """What a change brings: new values, and the fields that are no longer there."""

    fields: Mapping[str, str]
    removed: tuple[str, ...]


@cache
def request_contract(contract: Contract) -> Contract:
    """Give the contract of a request: the personal fields, and nothing that it does not declare."""
    personal = tuple(one for one in contract.fields if one.is_personal)
    return replace(contract, fields=personal, event_time=None, event_id=None, unknown_fields="reject")


def read_request(payload: bytes, contract: Contract) -> dict[str, str]:
    """Read a request.

    Raises: UsageError with the column and what was expected, never what was met.
    """
    parsed = parse_records([payload], request_contract(contract))
    if parsed.rejected:
        raise UsageError(f"the request does not fit its contract: {parsed.rejected[0]}")
    return fields_of(parsed.to_frame(), 0, contract)


def fields_of(frame: pl.DataFrame, row: int, contract: Contract) -> dict[str, str]:
    """Give the fields of one parsed request; those that are absent are left out."""
    names = [one.name for one in contract.fields if one.is_personal]
    values = zip(names, frame.select(names).row(row), strict=True)
    return {name: value for name, value in values if value is not None}


def read_change(payload: bytes, contract: Contract) -> Change:
    """Read a change of some fields; null takes a field away where a request may do without it.

    Raises: UsageError as `read_request`, and where it would change whom the request is about.
    """
    whole = request_contract(contract)
    optional = tuple(replace(one, required=False) for one in whole.fields)
    parsed = parse_records([payload], replace(whole, fields=optional))
    if parsed.rejected:
        raise UsageError(f"the change does not fit the contract: {parsed.rejected[0]}")
    named = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    fields = fields_of(parsed.to_frame(), 0, contract)
    removed = tuple(one.name for one in whole.fields if one.name in named and one.name not in fields)
    for one in whole.fields:
        if one.name in removed and one.required:
            raise UsageError(f"column {one.name}: required, and cannot be taken away")
        if one.is_subject and one.name in named:
            raise UsageError(f"column {one.name}: a request stays that of its subject; submit another one")
    return Change(fields, removed)
