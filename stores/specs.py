"""Every table of the deployment: those that contracts describe, and those of captures."""

from __future__ import annotations

from functools import cache

from stores.contracts import load_contracts
from transforms.capture import tables as captures
from transforms.errors import UsageError
from transforms.tables import VAULT_CELLS, Column, TableSpec, quarantine_table, table_specs


@cache
def every_table() -> tuple[TableSpec, ...]:
    """Give the specifications of all tables but the marts, a source's together."""
    described = (spec for contract in load_contracts().values() for spec in table_specs(contract))
    return *described, *captures.CAPTURE_SPECS, VAULT_CELLS


def quarantines() -> dict[str, TableSpec]:
    """Give the quarantine of each source."""
    described = {source: quarantine_table(contract) for source, contract in load_contracts().items()}
    return {**described, captures.SOURCE: captures.QUARANTINE}


def quarantine_spec(source: str) -> TableSpec:
    """Give the quarantine of a source.

    Raises: UsageError where there is no such source.
    """
    found = quarantines()
    if source not in found:
        raise UsageError(f"no source `{source}`; there are: {', '.join(sorted(found))}")
    return found[source]


def domain_formats() -> dict[str, str | None]:
    """Give every join domain with the canonical format of its values, None for any text."""
    formats = dict(captures.DOMAIN_FORMATS)
    for contract in load_contracts().values():
        formats |= {one.domain: one.format for one in contract.fields if one.domain}
    return formats


def domain_of(table: str, column: str) -> str:
    """Give the join domain of a token column; marts keep the names of the masked tables.

    Raises: UsageError where there is no such column.
    """
    return str(token_column(table, column).domain)


def token_column(table: str, column: str) -> Column:
    """Give a token column that can be opened.

    Raises: UsageError where there is none of that name.
    """
    for spec in every_table():
        for one in spec.columns:
            if one.name == column and one.domain and (table == spec.key or table.startswith("curated.")):
                return one
    raise UsageError("that table has no such token column: `lockhouse tables` shows them")
