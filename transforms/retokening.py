"""From the tokens of an old epoch to those of a new one, for whole tables: equal values stay equal.

Each distinct token is opened and made anew once. A column of prefix-preserving addresses has no key
id of its own: it is made anew from the tokens beside it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from transforms.capture.layers import format_ips
from transforms.capture.prefixes import encrypt_prefixes
from transforms.coding import to_arrow
from transforms.pii.siv import SivKey, decrypt_column, encrypt_column, has_live_key

Column: TypeAlias = "pa.ChunkedArray[Any]"


@dataclass(frozen=True)
class EpochKeys:
    """What opens the tokens of one join domain, by key id, and what makes them now."""

    live: Mapping[bytes, SivKey]
    current: SivKey


@dataclass(frozen=True)
class TokenColumns:
    """The columns of a table that depend on the epoch.

    `domains` maps each token column to its join domain, `prefixes` each column of prefix-preserving
    addresses to the token column of the same address, `vaulted` each column whose values are in the
    vault to its join domain.
    """

    domains: Mapping[str, str]
    prefixes: Mapping[str, str] = field(default_factory=dict)
    vaulted: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, str]:
        """The columns that bear a key id, with their join domain."""
        return {**self.domains, **self.vaulted}

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.tokens, *self.prefixes]

    def among(self, names: Collection[str]) -> TokenColumns:
        """Give those that a file has."""
        return TokenColumns(
            {name: domain for name, domain in self.domains.items() if name in names},
            {name: beside for name, beside in self.prefixes.items() if name in names and beside in names},
            {name: domain for name, domain in self.vaulted.items() if name in names},
        )


def is_current(tokens: pl.Series, keys: EpochKeys) -> pl.Series:
    """Say of each token whether the present key made it. Shape: String in, Boolean out, nulls kept."""
    return has_live_key(tokens, [keys.current.key_id])


def renew_tokens(tokens: pl.Series, keys: EpochKeys) -> pl.Series:
    """Make tokens anew under the present key; those that it made are left as they are.

    Shape: a String series in and out; rows, order, name and nulls kept.
    Raises: DecryptionError where a token is not this tenant's, or its key was destroyed.
    """
    stale = (~is_current(tokens, keys)).fill_null(False)
    if not stale.any():
        return tokens
    opened = decrypt_column(tokens.filter(stale), keys.live)
    renewed = encrypt_column(opened, keys.current)
    # Of a copy: polars writes into the series itself.
    return tokens.clone().scatter(stale.arg_true(), renewed)


def renew_heads(heads: pl.Series, keys: EpochKeys, present: Mapping[str, str]) -> pl.Series:
    """Put present tokens in the place of old ones that cannot be opened, by what the vault told.

    Shape: String of 28 characters in and out; rows, order and name kept. What nobody has a value of any
    more becomes null: its data subject was erased.
    """
    stale = (~is_current(heads, keys)).fill_null(False)
    old = heads.filter(stale)
    renewed = pl.Series([present.get(head) for head in old.to_list()], dtype=pl.String)
    return heads.clone().scatter(stale.arg_true(), renewed) if len(old) else heads


def renew_rows(
    rows: pa.Table,
    columns: TokenColumns,
    keys: Mapping[str, EpochKeys],
    prefix_key: bytes,
    present: Mapping[str, Mapping[str, str]],
) -> pa.Table:
    """Make the token columns of some rows anew; `present` maps old heads to present ones by join domain.

    Shape: as the rows came; the columns that can be opened come back as dictionaries.
    Raises: DecryptionError as `renew_tokens`.
    """
    renewed: dict[str, Any] = {}
    for name, domain in columns.vaulted.items():
        heads = renew_heads(pl.Series(name, rows[name], dtype=pl.String), keys[domain], present[domain])
        renewed[name] = to_arrow(heads)
    for name, domain in columns.domains.items():
        codes, distinct = _distinct(rows[name])
        tokens = renew_tokens(distinct, keys[domain])
        renewed[name] = _spread(codes, tokens)
        for beside in (prefix for prefix, token in columns.prefixes.items() if token == name):
            addresses = decrypt_column(tokens, keys[domain].live)
            renewed[beside] = _spread(codes, _prefixes(addresses, prefix_key))
    for name, column in renewed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _distinct(column: Column) -> tuple[pa.Array[Any], pl.Series]:
    whole: Any = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    return whole.indices, pl.Series("tokens", whole.dictionary, dtype=pl.String)


def _spread(codes: pa.Array[Any], distinct: pl.Series) -> pa.Array[Any]:
    spread: pa.Array[Any] = pa.DictionaryArray.from_arrays(codes, to_arrow(distinct))
    return spread


def _prefixes(addresses: pl.Series, key: bytes) -> pl.Series:
    if addresses.is_empty():
        return addresses
    octets = b"".join(_octets(text) for text in addresses.to_list())
    return format_ips(encrypt_prefixes(np.frombuffer(octets, np.uint8).reshape(-1, 16), key))


def _octets(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    # IPv4 stands where ::ffff:0:0/96 has it.
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
