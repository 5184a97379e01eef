"""A tenant's keys, each derived from a root for one purpose.

identity root (epoch 0)  ->  subject references, event ids, delivery digests, query digests
token root (epoch 1, 2)  ->  one SIV key for each join domain, one that wraps subject keys, one for prefixes
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stores.keyring import KeyProvider
from transforms.errors import UsageError
from transforms.pii import canonical
from transforms.pii.ciphers import derive_key, keyed_digest, length_prefixed
from transforms.pii.siv import SivKey

_SIV_BYTES = 64
IDENTITY_EPOCH = 0


class TenantKeys:
    """Keys of one tenant. Cheap to make; derived keys are kept for as long as the object lives."""

    def __init__(self, tenant: str, provider: KeyProvider) -> None:
        """Remember where roots come from; nothing is read yet."""
        self.tenant = tenant
        self._provider = provider
        self._derived: dict[tuple[int, str], SivKey] = {}

    def identity_key(self, purpose: str) -> bytes:
        """Give a 32-byte key that never rotates: `subject`, `event`, `delivery`, `query`."""
        return derive_key(self._provider.root(self.tenant, IDENTITY_EPOCH), 32, purpose, self.tenant)

    def query_digest(self, text: str) -> str:
        """Give the keyed digest under which the audit trail knows a text that may hold a personal value."""
        return keyed_digest(self.identity_key("query"), text.encode(errors="surrogateescape")).hex()

    def epochs(self) -> tuple[int, ...]:
        """Give the token epochs whose roots live, oldest first; the last one makes tokens."""
        return self._provider.epochs(self.tenant)

    def prefix_key(self) -> bytes:
        """Give the 32-byte key that encrypts addresses prefix by prefix now."""
        return derive_key(self._provider.root(self.tenant, self._current_epoch()), 32, "prefix", self.tenant)

    def token_key(self, domain: str) -> SivKey:
        """Give the key that makes tokens of a join domain now."""
        return self._siv(self._current_epoch(), f"token/{domain}", self._token_context(domain))

    def token_keys(self, domains: Sequence[str]) -> dict[str, SivKey]:
        """Give the present token key of each domain."""
        purposes = [f"token/{domain}" for domain in domains]
        self._provider.allot_key_ids(self.tenant, self._current_epoch(), purposes)
        return {domain: self.token_key(domain) for domain in domains}

    def live_token_keys(self, domain: str) -> dict[bytes, SivKey]:
        """Give every key that still opens tokens of a domain, by key id."""
        context = self._token_context(domain)
        keys = (self._siv(epoch, f"token/{domain}", context) for epoch in self.epochs())
        return {key.key_id: key for key in keys}

    def token_key_ids(self, domain: str, epochs: Collection[int]) -> list[bytes]:
        """Give the key ids that tokens of a domain bear in some epochs."""
        return [self._provider.key_id(self.tenant, epoch, f"token/{domain}") for epoch in epochs]

    def wrapping_key(self) -> SivKey:
        """Give the key that wraps subject keys now."""
        return self._siv(self._current_epoch(), "wrap", (length_prefixed(b"wrap", self.tenant.encode()),))

    def live_wrapping_keys(self) -> dict[bytes, SivKey]:
        """Give every key that still opens wrapped subject keys, by key id."""
        context = (length_prefixed(b"wrap", self.tenant.encode()),)
        keys = (self._siv(epoch, "wrap", context) for epoch in self.epochs())
        return {key.key_id: key for key in keys}

    def family_id(self, family: str) -> bytes:
        """Give the 4 bytes in an envelope that say which family of keys sealed it."""
        return self._provider.key_id(self.tenant, IDENTITY_EPOCH, family)

    def _current_epoch(self) -> int:
        epochs = self.epochs()
        if not epochs:
            raise UsageError(f"tenant {self.tenant} has no keys: `lockhouse tenant add {self.tenant}`")
        return epochs[-1]

    def _token_context(self, domain: str) -> tuple[bytes, ...]:
        parts = (self.tenant.encode(), domain.encode(), canonical.VERSION.encode())
        return (length_prefixed(*parts),)

    def _siv(self, epoch: int, purpose: str, associated: tuple[bytes, ...]) -> SivKey:
        if (epoch, purpose) not in self._derived:
            root = self._provider.root(self.tenant, epoch)
            key = derive_key(root, _SIV_BYTES, *purpose.split("/", 1), self.tenant)
            key_id = self._provider.key_id(self.tenant, epoch, purpose)
            self._derived[epoch, purpose] = SivKey(key, key_id, associated)
        return self._derived[epoch, purpose]


def create_tenant_keys(tenant: str, provider: KeyProvider) -> None:
    """Make a tenant's identity root and its first token root, where they are absent."""
    provider.create_root(tenant, IDENTITY_EPOCH)
    provider.create_root(tenant, IDENTITY_EPOCH + 1)
