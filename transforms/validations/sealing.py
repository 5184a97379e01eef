"""Fields of a request, each sealed for its data subject's public key: who seals cannot open.

    version 1 (the byte 2: an envelope has the 1) | HPKE: encapsulated key 32 | AES-256-GCM ciphertext | tag 16

The private half follows from the subject's own key, so that what destroys that key destroys this one. A field
is bound to its tenant, validation and name, and opens nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from transforms.errors import DecryptionError
from transforms.pii.ciphers import (
    agreement_public_key,
    derive_agreement_key,
    length_prefixed,
    open_with_private_key,
    seal_to_public_key,
)

VERSION = b"\x02"


def derive_private_half(subject_key: bytes) -> bytes:
    """Give the private half that belongs to a subject's key."""
    return derive_agreement_key(subject_key, "validations", "hpke")


def public_half_of(subject_key: bytes) -> bytes:
    """Give the public half, which may be known to anybody who seals."""
    return agreement_public_key(derive_private_half(subject_key))


def seal_fields(
    public_half: bytes, tenant: str, validation: str, fields: Mapping[str, str]
) -> dict[str, bytes]:
    """Seal each field by itself."""
    return {
        name: VERSION + seal_to_public_key(public_half, value.encode(), _place(tenant, validation, name))
        for name, value in fields.items()
    }


def open_fields(
    private_half: bytes, tenant: str, validation: str, sealed: Mapping[str, bytes]
) -> dict[str, str]:
    """Open the fields of a request.

    Raises: DecryptionError where one does not verify; nothing is given out then.
    """
    opened = {}
    for name, content in sealed.items():
        if content[:1] != VERSION:
            raise DecryptionError(f"the field {name}")
        place = _place(tenant, validation, name)
        opened[name] = open_with_private_key(private_half, content[1:], place).decode()
    return opened


def _place(tenant: str, validation: str, name: str) -> bytes:
    return length_prefixed(b"validation", tenant.encode(), validation.encode(), name.encode())
