"""The device registry: which devices a tenant has, who owned each when, and by which addresses it went.

Nothing in it is readable: a device is found by its keyed pseudonym, its id and its owner's are tokens,
and an address is known by a keyed digest, so that packets can be matched and nobody can list them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import polars as pl
import sqlalchemy as sa

from stores.database import DEVICE_ADDRESSES, DEVICES, OWNERSHIPS, Database
from stores.keys import TenantKeys
from transforms.errors import MissingError, UsageError
from transforms.pii.canonical import canonicalise
from transforms.pii.ciphers import keyed_digest, keyed_digester
from transforms.pii.identities import subject_ref
from transforms.pii.siv import decrypt_column, encrypt_column
from transforms.retokening import EpochKeys, is_current, renew_tokens

# The device of packets that belong to no registered one.
UNASSIGNED = "unassigned"
OWNERSHIP_DOMAIN = "device-ownership"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# About the earliest time of 64 bits of nanoseconds.
_ALWAYS = datetime(1678, 1, 1, tzinfo=UTC)
LONGEST_ID = 128

Kind = Literal["mac", "ip"]

_OF_A_DEVICE = (
    sa.select(DEVICES.c.token, OWNERSHIPS.c.number, OWNERSHIPS.c.owner_token, OWNERSHIPS.c.since)
    .join(
        OWNERSHIPS,
        (OWNERSHIPS.c.tenant == DEVICES.c.tenant) & (OWNERSHIPS.c.device_ref == DEVICES.c.device_ref),
    )
    .where(DEVICES.c.tenant == sa.bindparam("tenant"), DEVICES.c.device_ref == sa.bindparam("device_ref"))
    .order_by(OWNERSHIPS.c.number)
)


@dataclass(frozen=True)
class Ownership:
    """A stretch of a device's life, up to the next one's beginning. `number` 0 is that of nobody."""

    number: int
    owner_token: str | None
    since_ns: int


@dataclass(frozen=True)
class Device:
    """A registered device with its ownerships, the earliest first."""

    id: str
    ref: str
    token: str
    ownerships: tuple[Ownership, ...]


@dataclass(frozen=True)
class Address:
    """A device's address over some time. Units: nanoseconds since 1970; None for no end."""

    kind: Kind
    address_ref: str
    device_ref: str
    since_ns: int
    until_ns: int | None


class Devices:
    """The registry of one tenant."""

    def __init__(
        self, tenant: str, keys: TenantKeys, database: Database, clock: Callable[[], datetime]
    ) -> None:
        """Remember where it lies; nothing is read yet."""
        self._tenant, self._keys, self._database, self._clock = tenant, keys, database, clock

    def ref(self, device: str) -> str:
        """Give a device's pseudonym: 32 hexadecimal digits that name it in tables and partitions."""
        return keyed_digest(self._keys.identity_key("device"), device.encode()).hex()[:32]

    def register(self, device: str) -> Device:
        """Register a device, once; give it.

        Raises: UsageError where the id cannot be one.
        """
        checked_device(device)
        ref = self.ref(device)
        row = {"tenant": self._tenant, "device_ref": ref}
        with self._database.begin() as connection:
            if not connection.execute(sa.select(DEVICES.c.token).filter_by(**row)).first():
                created = {"token": self._token("device", device), "created_at": self._clock().isoformat()}
                connection.execute(DEVICES.insert().values(**row, **created))
                connection.execute(
                    OWNERSHIPS.insert().values(**row, number=0, owner_token=None, since=_ALWAYS.isoformat())
                )
        return self.find(device)

    def find(self, device: str) -> Device:
        """Give a registered device.

        Raises: UsageError where it is not registered.
        """
        ref = self.ref(device)
        found = self._database.prepare(_OF_A_DEVICE)(tenant=self._tenant, device_ref=ref)
        if not found:
            raise MissingError("no such device", see="lockhouse device list")
        # Without its token being opened: whoever asks has named it.
        return Device(device, ref, found[0][0], tuple(_ownership(*row) for _, *row in found))

    def listing(self, refs: Sequence[str] | None = None) -> list[Device]:
        """Give registered devices, in the order of registration."""
        query = sa.select(DEVICES).filter_by(tenant=self._tenant).order_by(DEVICES.c.created_at)
        owned = sa.select(OWNERSHIPS).filter_by(tenant=self._tenant).order_by(OWNERSHIPS.c.number)
        if refs is not None:
            query = query.where(DEVICES.c.device_ref.in_(list(refs)))
            owned = owned.where(OWNERSHIPS.c.device_ref.in_(list(refs)))
        ownerships: dict[str, list[Ownership]] = {}
        for row in self._database.rows(owned):
            one = _ownership(row["number"], row["owner_token"], row["since"])
            ownerships.setdefault(row["device_ref"], []).append(one)
        rows = self._database.rows(query)
        ids = self._opened("device", [row["token"] for row in rows])
        return [
            Device(name, row["device_ref"], row["token"], tuple(ownerships[row["device_ref"]]))
            for name, row in zip(ids, rows, strict=True)
        ]

    def own(self, device: str, owner: str, since: datetime) -> Ownership:
        """Begin a new ownership; what is captured from `since` on is sealed under a key of its own.

        Raises: UsageError where it would begin before the last one.
        """
        last = self.register(device).ownerships[-1]
        token = self._token("user", canonical_owner(owner))
        if last.owner_token == token:
            return last
        if _ns(since) <= last.since_ns:
            raise UsageError("an ownership begins after the one before it: give a later --from")
        row = {"tenant": self._tenant, "device_ref": self.ref(device), "number": last.number + 1}
        with self._database.begin() as connection:
            connection.execute(OWNERSHIPS.insert().values(**row, owner_token=token, since=since.isoformat()))
        return Ownership(last.number + 1, token, _ns(since))

    def add_address(
        self, device: str, kind: Kind, address: str, since: datetime | None, until: datetime | None
    ) -> None:
        """Note by which address a device goes, from when to when.

        Raises: UsageError where the text is no such address.
        """
        canonical = canonicalise(pl.Series([address]), kind)[0]
        if canonical is None:
            raise UsageError(f"that is no {'MAC' if kind == 'mac' else 'IP'} address")
        row = {
            "tenant": self._tenant,
            "kind": kind,
            "address_ref": self.address_refs(kind, [canonical])[0],
            "since": (since or _ALWAYS).isoformat(),
        }
        given = {"device_ref": self.register(device).ref, "until": until.isoformat() if until else None}
        with self._database.begin() as connection:
            known = sa.and_(*(DEVICE_ADDRESSES.c[name] == value for name, value in row.items()))
            connection.execute(sa.delete(DEVICE_ADDRESSES).where(known))
            connection.execute(DEVICE_ADDRESSES.insert().values(**row, **given))

    def addresses(self) -> list[Address]:
        """Give every address of every device."""
        rows = self._database.rows(sa.select(DEVICE_ADDRESSES).filter_by(tenant=self._tenant))
        return [
            Address(
                row["kind"],
                row["address_ref"],
                row["device_ref"],
                _ns(datetime.fromisoformat(row["since"])),
                _ns(datetime.fromisoformat(row["until"])) if row["until"] else None,
            )
            for row in rows
        ]

    def address_refs(self, kind: Kind, canonical: Sequence[str]) -> list[str]:
        """Give the pseudonyms of addresses in canonical form."""
        digest = keyed_digester(self._keys.identity_key("address"), kind.encode())
        return [digest(one.encode()).hex() for one in canonical]

    def disown(self, device_ref: str, numbers: Sequence[int]) -> None:
        """Forget who had a device in some ownerships; their beginnings stay, so that late packets find them."""
        chosen = sa.and_(
            OWNERSHIPS.c.tenant == self._tenant,
            OWNERSHIPS.c.device_ref == device_ref,
            OWNERSHIPS.c.number.in_(list(numbers)),
        )
        with self._database.begin() as connection:
            connection.execute(sa.update(OWNERSHIPS).where(chosen).values(owner_token=None))

    def forget(self, device_ref: str) -> None:
        """Forget a device with its ownerships and addresses."""
        with self._database.begin() as connection:
            for table in (DEVICE_ADDRESSES, OWNERSHIPS, DEVICES):
                chosen = sa.and_(table.c.tenant == self._tenant, table.c.device_ref == device_ref)
                connection.execute(sa.delete(table).where(chosen))

    def renew_tokens(self) -> int:
        """Make the registry's tokens anew under the present epoch; gives how many were of another."""
        count = 0
        for table, column, domain in ((DEVICES, "token", "device"), (OWNERSHIPS, "owner_token", "user")):
            keys = EpochKeys(self._keys.live_token_keys(domain), self._keys.token_key(domain))
            chosen = sa.select(table.c[column]).filter_by(tenant=self._tenant).distinct()
            held = pl.Series([row[column] for row in self._database.rows(chosen)], dtype=pl.String).drop_nulls()
            old = held.filter(~is_current(held, keys))
            for was, new in zip(old, renew_tokens(old, keys), strict=True):
                at = (table.c.tenant == self._tenant) & (table.c[column] == was)
                with self._database.begin() as connection:
                    connection.execute(sa.update(table).where(at).values({column: new}))
            count += len(old)
        return count

    def subject(self, device: str, number: int) -> bytes:
        """Give the data subject of an ownership: its packets are sealed under that subject's key."""
        return subject_ref(self._keys.identity_key("subject"), OWNERSHIP_DOMAIN, f"{device}#{number}")

    def _token(self, domain: str, value: str) -> str:
        return str(encrypt_column(pl.Series([value]), self._keys.token_key(domain))[0])

    def _opened(self, domain: str, tokens: Sequence[str]) -> list[str]:
        column = pl.Series(tokens, dtype=pl.String)
        opened: list[str] = decrypt_column(column, self._keys.live_token_keys(domain)).to_list()
        return opened


def _ownership(number: int, owner_token: str | None, since: str) -> Ownership:
    return Ownership(number, owner_token, _ns(datetime.fromisoformat(since)))


def canonical_owner(owner: str) -> str:
    """Give an owner's id as the logins have it; one that is none of theirs stays as it is."""
    canonical = canonicalise(pl.Series([owner], dtype=pl.String), "uuid")[0]
    return owner if canonical is None else str(canonical)


def checked_device(device: str) -> str:
    """Give the id back.

    Raises: UsageError where it is empty, too long, or could not be the name of a folder.
    """
    if not 0 < len(device) <= LONGEST_ID or "/" in device or device.startswith((".", "_")):
        raise UsageError(f"a device id has 1 to {LONGEST_ID} characters, no slash, and no dot or _ in front")
    return device


def _ns(moment: datetime) -> int:
    return int((moment - _EPOCH).total_seconds()) * 1_000_000_000 + moment.microsecond * 1000
