"""Programs that may come in: their scopes, their secrets, and the cut that ends all their tokens."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from stores.database import CLIENT_SECRETS, CLIENTS, PRINCIPALS, Database
from transforms.access import Right
from transforms.credentials import SECRET_PREFIX, checked_name, parse_scopes, secret_digest, write_scopes
from transforms.errors import RefusedError, UsageError

# One in use and one on its way in: rotation without an outage.
MOST_SECRETS = 2
_WRONG = "the client or its secret is wrong"
# Compared with where the client is unknown, so that both take as long.
_NOBODY = secret_digest("nobody")


@dataclass(frozen=True)
class Client:
    """A program. Its name as a principal is `client:<name>`."""

    principal: str
    tenant: str
    scopes: frozenset[Right]
    epoch: int
    created_at: str
    revoked_at: str | None


class Clients:
    """The client tables of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock
        self._find = database.prepare(
            sa.select(CLIENTS).where(CLIENTS.c.principal == sa.bindparam("principal"))
        )

    def find(self, principal: str) -> Client | None:
        """Give a client by its principal, None where there is none. Never cached: cuts count at once."""
        rows = self._find(principal=principal)
        return _client(*rows[0]) if rows else None

    def add(self, name: str, tenant: str, scopes: frozenset[Right]) -> tuple[Client, str]:
        """Register a client; give it and its first secret, which nobody can read again.

        Raises: UsageError where the name is taken.
        """
        principal = client_principal(checked_name(name))
        created_at = self._clock().isoformat(timespec="seconds")
        with self._database.begin() as connection:
            if connection.execute(sa.select(PRINCIPALS.c.id).where(PRINCIPALS.c.id == principal)).first():
                raise UsageError("that client is registered already: `lockhouse client rotate` adds a secret")
            connection.execute(PRINCIPALS.insert().values(id=principal, kind="client", created_at=created_at))
            row = {"principal": principal, "tenant": tenant, "scopes": write_scopes(scopes)}
            connection.execute(CLIENTS.insert().values(**row, epoch=1, created_at=created_at, revoked_at=None))
            secret = self._add_secret(connection, principal)
        return Client(principal, tenant, scopes, 1, created_at, None), secret

    def rotate(self, name: str, tenant: str) -> str:
        """Add a secret beside the one in use; the third drops the oldest. Gives the new one."""
        client = self.named(name, tenant)
        with self._database.begin() as connection:
            secret = self._add_secret(connection, client.principal)
            chosen = sa.select(CLIENT_SECRETS.c.id).where(CLIENT_SECRETS.c.principal == client.principal)
            found: Sequence[str] = connection.execute(chosen.order_by(CLIENT_SECRETS.c.id)).scalars().all()
            for old in found[:-MOST_SECRETS]:
                gone = sa.and_(CLIENT_SECRETS.c.principal == client.principal, CLIENT_SECRETS.c.id == old)
                connection.execute(sa.delete(CLIENT_SECRETS).where(gone))
        return secret

    def revoke(self, name: str, tenant: str) -> None:
        """Cut a client off: its secrets are gone, and its tokens count no more from this moment."""
        client = self.named(name, tenant)
        with self._database.begin() as connection:
            mine = CLIENT_SECRETS.c.principal == client.principal
            connection.execute(sa.delete(CLIENT_SECRETS).where(mine))
            change = sa.update(CLIENTS).where(CLIENTS.c.principal == client.principal)
            revoked_at = self._clock().isoformat(timespec="seconds")
            connection.execute(change.values(revoked_at=revoked_at, epoch=client.epoch + 1))

    def named(self, name: str, tenant: str) -> Client:
        """Give a tenant's client.

        Raises: UsageError where there is none of that name.
        """
        found = self.find(client_principal(name))
        if found is None or found.tenant != tenant:
            raise UsageError("no such client", see="lockhouse client list")
        return found

    def listing(self, tenant: str) -> list[dict[str, Any]]:
        """Give a tenant's clients, with when their secrets were made."""
        query = sa.select(CLIENTS).where(CLIENTS.c.tenant == tenant).order_by(CLIENTS.c.principal)
        made = sa.select(CLIENT_SECRETS.c.principal, CLIENT_SECRETS.c.created_at).order_by(CLIENT_SECRETS.c.id)
        secrets_of: dict[str, list[str]] = {}
        for row in self._database.rows(made):
            secrets_of.setdefault(row["principal"], []).append(row["created_at"])
        return [
            {
                "client": row["principal"].removeprefix("client:"),
                "scopes": row["scopes"].split(),
                "created_at": row["created_at"],
                "revoked_at": row["revoked_at"],
                "secrets": secrets_of.get(row["principal"], []),
            }
            for row in self._database.rows(query)
        ]

    def authenticate(self, name: str, secret: str) -> Client:
        """Give the client that knows the secret.

        Raises: RefusedError, the same whatever is wrong.
        """
        principal = client_principal(name)
        query = sa.select(CLIENT_SECRETS.c.digest).where(CLIENT_SECRETS.c.principal == principal)
        kept = [row["digest"] for row in self._database.rows(query)]
        given = secret_digest(secret)
        # Every digest is compared: how long it takes says nothing of which one was right.
        matches = [hmac.compare_digest(given, one) for one in kept or [_NOBODY]]
        client = self.find(principal)
        if client is None or client.revoked_at is not None or not any(matches):
            raise RefusedError(_WRONG)
        return client

    def _add_secret(self, connection: sa.Connection, principal: str) -> str:
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        created_at = self._clock()
        row = {"principal": principal, "id": created_at.isoformat(timespec="microseconds")}
        digest, shown = secret_digest(secret), created_at.isoformat(timespec="seconds")
        connection.execute(CLIENT_SECRETS.insert().values(**row, digest=digest, created_at=shown))
        return secret


def client_principal(name: str) -> str:
    """Give a client's name as a principal.

    >>> client_principal("gateway")
    'client:gateway'
    """
    return f"client:{name}"


def _client(
    principal: str, tenant: str, scopes: str, epoch: int, created_at: str, revoked_at: str | None
) -> Client:
    return Client(principal, tenant, parse_scopes(scopes), epoch, created_at, revoked_at)
