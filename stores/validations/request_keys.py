"""Keys of validations: who seals is given public halves only, who opens the private ones of single requests.

The private half of a subject follows from the subject's own key, and is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stores.keys import TenantKeys
from stores.subjects import SubjectKeys
from transforms.errors import ErasedSubjectError
from transforms.pii.identities import subject_ref
from transforms.validations.sealing import derive_private_half, open_fields, seal_fields


class Registrar:
    """Meets subjects: makes their key where there is none, and gives nothing of it but the public half."""

    def __init__(
        self, domain: str, keys_of: Callable[[str], TenantKeys], subjects_of: Callable[[str], SubjectKeys]
    ) -> None:
        """Remember the domain of usernames, and where a tenant's keys are."""
        self._domain, self._keys_of, self._subjects_of = domain, keys_of, subjects_of

    def enrol(self, tenant: str, validation: str, username: str) -> bytes:
        """Note whom a request is about; give the public half to seal it with.

        Raises: ErasedSubjectError where the subject was erased.
        """
        ref = subject_ref(self._keys_of(tenant).identity_key("subject"), self._domain, username)
        return self._subjects_of(tenant).public_half(ref, validation)

    def public_half(self, tenant: str, validation: str) -> bytes:
        """Give the public half for a request that is known.

        Raises: ErasedSubjectError where its subject was erased, or the request was let go.
        """
        return self._subjects_of(tenant).public_half(_subject(self._subjects_of(tenant), validation))

    def release(self, tenant: str, validation: str) -> None:
        """Let a deleted request go: nobody can tell any more whom it was about."""
        self._subjects_of(tenant).detach_requests([validation])


class RequestKeys:
    """Seals the fields of requests, and opens them."""

    def __init__(self, subjects_of: Callable[[str], SubjectKeys]) -> None:
        """Remember where a tenant's subject keys are."""
        self._subjects_of = subjects_of

    @staticmethod
    def encrypt(half: bytes, tenant: str, validation: str, fields: Mapping[str, str]) -> dict[str, bytes]:
        """Seal fields with a public half: this needs no key of ours, and gives no way back."""
        return seal_fields(half, tenant, validation, fields)

    def decrypt(self, tenant: str, validation: str, sealed: Mapping[str, bytes]) -> dict[str, str]:
        """Open fields.

        Raises: ErasedSubjectError where the subject's key is gone; DecryptionError for what was altered.
        """
        subjects = self._subjects_of(tenant)
        private = derive_private_half(subjects.key(_subject(subjects, validation)))
        return open_fields(private, tenant, validation, sealed)


def _subject(subjects: SubjectKeys, validation: str) -> bytes:
    ref = subjects.subject_of_request(validation)
    if ref is None:
        raise ErasedSubjectError("nobody is known whom that validation is about: it was deleted, or they were")
    return ref
