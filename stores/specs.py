"""Every table of the deployment but the marts: those that contracts describe, and our own."""

from __future__ import annotations

from functools import cache

from stores.contracts import load_contracts
from transforms.capture import tables as captures
from transforms.errors import UsageError
from transforms.tables import TOKEN_MAP, VAULT_CELLS, TableSpec, quarantine_table, table_specs

# Every UUID is the name of an account as well, written the same way.
_WIDE = ("account",)


@cache
def every_table() -> tuple[TableSpec, ...]:
    """Give the specifications of all tables but the marts, a source's together."""
    described = (spec for contract in load_contracts().values() for spec in table_specs(contract))
    return *described, *captures.CAPTURE_SPECS, VAULT_CELLS, TOKEN_MAP


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
    """Give every join domain with the canonical format of its values, None for any text.

    Where contracts differ, the format that takes more values: both write a common value alike.
    """
    formats = dict(captures.DOMAIN_FORMATS)
    for contract in load_contracts().values():
        for one in contract.fields:
            if one.domain and formats.get(one.domain) not in _WIDE:
                formats[one.domain] = one.format
    return formats


def domain_of(table: str, column: str) -> str:
    """Give the join domain of a token column.

    Marts keep the names of the masked tables, or put a role before their last word: `opener_ip_token`.
    Raises: UsageError where there is no such column.
    """
    is_mart = table.startswith("curated.")
    tokens = [
        (one.name, one.domain)
        for spec in every_table()
        for one in spec.columns
        if one.domain and (table == spec.key or is_mart)
    ]
    found = {domain for name, domain in tokens if name == column}
    if not found and is_mart:
        found = {domain for name, domain in tokens if _last_word(name) == _last_word(column)}
    if len(found) != 1:
        raise UsageError("that table has no such token column", see="lockhouse tables")
    return found.pop()


def _last_word(column: str) -> str:
    """Give a token column's last word, such as `ip` of `src_ip_token`; nothing where it is none."""
    return column.removesuffix("_token").rpartition("_")[2] if column.endswith("_token") else ""


def is_in_vault(table: str, column: str) -> bool:
    """Whether a token column holds no more than what joins, its values being in the vault."""
    is_mart = table.startswith("curated.")
    specs = [spec for spec in every_table() if is_mart or spec.key == table]
    return any(one.name == column and one.pii == "vault" for spec in specs for one in spec.columns)
