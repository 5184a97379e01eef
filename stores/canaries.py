"""A tenant's canaries: synthetic values that only its keys can name, so that none has to be stored."""

from __future__ import annotations

from stores.keys import TenantKeys
from transforms.pii.contracts import Contract
from transforms.pii.synthetic import canary_values

COUNT = 1000


def canaries_of(keys: TenantKeys, contract: Contract, count: int = COUNT) -> list[str]:
    """Give a contract's canaries for a tenant; always the same."""
    seed = int.from_bytes(keys.identity_key(f"canary/{contract.source}"), "big")
    return canary_values(contract, seed, count)
