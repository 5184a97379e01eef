"""Who a data subject is, from any identifier that a contract or a capture knows them by.

A person is known by the subject field of the contracts; what was captured on a device while it was
theirs belongs to them as well. A device that belongs to nobody is a subject of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from stores.contracts import load_contracts
from stores.devices import Device, Devices
from stores.keys import TenantKeys
from stores.specs import domain_formats
from stores.subjects import SubjectKeys
from transforms.errors import UsageError
from transforms.pii.canonical import canonicalise
from transforms.pii.identities import subject_ref
from transforms.pii.siv import HEAD_CHARACTERS, encrypt_column

DEVICE_DOMAIN = "device"
_OWNER_DOMAIN = "user"


@dataclass(frozen=True)
class Stretch:
    """A device's life under one ownership: from `since_ns` up to `until_ns`, None for no end."""

    device: str
    device_ref: str
    device_tokens: tuple[str, ...]
    number: int
    ref: bytes
    since_ns: int
    until_ns: int | None


@dataclass(frozen=True)
class Subject:
    """A data subject: their id in canonical form, their pseudonyms, and the devices that were theirs.

    `ref` names them in raw and vault; `tokens` are those of their id, one for each live epoch.
    """

    domain: str
    id: str
    ref: bytes
    tokens: tuple[str, ...]
    stretches: tuple[Stretch, ...]

    @property
    def refs(self) -> tuple[bytes, ...]:
        """Every reference that something is sealed for."""
        own = () if self.domain == DEVICE_DOMAIN else (self.ref,)
        return *own, *(one.ref for one in self.stretches)

    @property
    def heads(self) -> tuple[str, ...]:
        """The joinable part of each token: it stands where the value can be opened, and where it cannot."""
        return tuple(token[:HEAD_CHARACTERS] for token in self.tokens)


def refs_of(subjects: Sequence[Subject]) -> list[bytes]:
    """Give every reference that something is sealed for, of all of them."""
    return [ref for one in subjects for ref in one.refs]


class DataSubjects:
    """Finds the data subjects of one tenant."""

    def __init__(self, keys: TenantKeys, subjects: SubjectKeys, devices: Devices) -> None:
        """Remember the tenant's keys and registry; nothing is read yet."""
        self._keys, self._subjects, self._devices = keys, subjects, devices

    def find(self, value: str, domain: str | None = None) -> Subject:
        """Find a subject by an identifier, in one domain or in every one where it can be one.

        Somebody of whom nothing is known is found as well, where the domain is clear: an erasure leaves
        a tombstone for them. Raises: UsageError where the identifier is none, or fits several.
        """
        if domain is not None:
            found = self._in_domain(value, checked_domain(domain))
            if found is None:
                raise UsageError(
                    f"that is no value of the domain {domain}: expected {subject_domains()[domain]}"
                )
            return found
        possible = [one for one in (self._in_domain(value, name) for name in subject_domains()) if one]
        # What has the form of a person's id is taken for one, before it is taken for any text.
        formed = [one for one in possible if _has_form(one)]
        known = [one for one in possible if self.is_known(one)]
        fitting = known or formed or possible
        if len(fitting) != 1:
            shown = ", ".join(one.domain for one in fitting) or "none"
            raise UsageError(f"the identifier fits {len(fitting)} domains ({shown}): name the domain")
        return fitting[0]

    def renewed(self, subject: Subject) -> Subject:
        """Give a subject with the tokens of the epochs that live now beside those that were known."""
        tokens = dict.fromkeys((*subject.tokens, *self._tokens(subject.domain, subject.id)))
        stretches = (
            replace(
                one,
                device_tokens=tuple(
                    dict.fromkeys((*one.device_tokens, *self._tokens(DEVICE_DOMAIN, one.device)))
                ),
            )
            for one in subject.stretches
        )
        return replace(subject, tokens=tuple(tokens), stretches=tuple(stretches))

    def is_known(self, subject: Subject) -> bool:
        """Whether the tenant has, or had, something of a subject."""
        return bool(self._subjects.states(subject.refs)) or bool(subject.stretches)

    def _in_domain(self, value: str, domain: str) -> Subject | None:
        form = subject_domains()[domain]
        canonical = canonicalise(pl.Series([value], dtype=pl.String), form)[0]
        if canonical is None or not str(canonical).strip():
            return None
        own = str(canonical)
        tokens = self._tokens(domain, own)
        ref = subject_ref(self._keys.identity_key("subject"), domain, own)
        return Subject(domain, own, ref, tokens, tuple(self._stretches(domain, own, tokens)))

    def _tokens(self, domain: str, value: str) -> tuple[str, ...]:
        live = self._keys.live_token_keys(domain).values()
        return tuple(str(encrypt_column(pl.Series([value]), key)[0]) for key in live)

    def _stretches(self, domain: str, value: str, tokens: Sequence[str]) -> Iterable[Stretch]:
        if domain == DEVICE_DOMAIN:
            found = self._devices.listing([self._devices.ref(value)])
            yield from (self._stretch(device, 0) for device in found)
        elif domain == _OWNER_DOMAIN:
            for device in self._devices.listing():
                for at, one in enumerate(device.ownerships):
                    if one.owner_token in tokens:
                        yield self._stretch(device, at)

    def _stretch(self, device: Device, at: int) -> Stretch:
        one, behind = device.ownerships[at], device.ownerships[at + 1 :]
        return Stretch(
            device.id,
            device.ref,
            self._tokens(DEVICE_DOMAIN, device.id),
            one.number,
            self._devices.subject(device.id, one.number),
            one.since_ns,
            behind[0].since_ns if behind else None,
        )


def _has_form(subject: Subject) -> bool:
    """Whether an identifier has a form that not any text has; of the names of accounts, the UUIDs have."""
    form = subject_domains()[subject.domain]
    if form == "account":
        return canonicalise(pl.Series([subject.id]), "uuid")[0] is not None
    return form is not None


def subject_domains() -> dict[str, str | None]:
    """Give the domains of the contracts' data subjects with their format, and that of devices."""
    people = {str(one.subject.domain) for one in load_contracts().values()}
    formats = domain_formats()
    return {**{domain: formats[domain] for domain in sorted(people)}, DEVICE_DOMAIN: None}


def checked_domain(domain: str) -> str:
    """Give the domain back.

    Raises: UsageError where no data subject is named in it.
    """
    if domain not in subject_domains():
        raise UsageError(f"no domain of data subjects; there are: {', '.join(sorted(subject_domains()))}")
    return domain


def subject_record(subject: Subject) -> dict[str, Any]:
    """Give a subject as plain values, to be sealed."""
    return asdict(subject)


def subject_of(record: Mapping[str, Any]) -> Subject:
    """Read what `subject_record` gave."""
    stretches = (
        Stretch(**{**one, "device_tokens": tuple(one["device_tokens"])}) for one in record["stretches"]
    )
    return Subject(**{**record, "tokens": tuple(record["tokens"]), "stretches": tuple(stretches)})
