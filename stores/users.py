"""People who sign in: passwords, and the sessions that browsers hold."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from stores.database import PRINCIPALS, SESSIONS, USERS, Database
from transforms.credentials import checked_name, hash_password, secret_digest, verify_password
from transforms.errors import RefusedError, UsageError

# RFC 9106 section 4, second recommendation; 0.2 s of one core for each sign-in.
PASSWORD_COSTS = {"memory_kib": 64 * 1024, "passes": 3, "lanes": 4}
SESSION_LASTS = timedelta(hours=8)


@dataclass(frozen=True)
class Session:
    """Who is signed in where; `csrf` goes into every form."""

    principal: str
    tenant: str
    csrf: str


class Users:
    """The user and session tables of the application database."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Remember the database; nothing is read yet."""
        self._database, self._clock = database, clock
        self._session = database.prepare(
            sa.select(SESSIONS.c.principal, SESSIONS.c.tenant, SESSIONS.c.csrf)
            .join(USERS, USERS.c.principal == SESSIONS.c.principal)
            .where(
                SESSIONS.c.digest == sa.bindparam("digest"),
                SESSIONS.c.expires_at > sa.bindparam("now"),
                USERS.c.disabled_at.is_(None),
            )
        )

    def add(self, name: str, password: str) -> bool:
        """Register a person, or give them a new password and end their sessions; give whether they are new."""
        hashed = hash_password(password, secrets.token_bytes(16), PASSWORD_COSTS)
        row = {"password_hash": hashed, "created_at": self._now(), "disabled_at": None}
        with self._database.begin() as connection:
            principal = checked_name(name)
            _register(connection, principal, self._now())
            _end_sessions(connection, principal)
            mine = USERS.c.principal == principal
            if connection.execute(sa.select(USERS.c.principal).where(mine)).first():
                connection.execute(sa.update(USERS).where(mine).values(**row))
                return False
            connection.execute(USERS.insert().values(principal=principal, **row))
            return True

    def revoke(self, name: str) -> None:
        """Shut a person out: no sign-in, and their sessions end now.

        Raises: UsageError where there is no such user.
        """
        with self._database.begin() as connection:
            mine = USERS.c.principal == name
            if not connection.execute(sa.select(USERS.c.principal).where(mine)).first():
                raise UsageError("no such user", see="lockhouse user list")
            connection.execute(sa.update(USERS).where(mine).values(disabled_at=self._now()))
            _end_sessions(connection, name)

    def listing(self) -> list[dict[str, Any]]:
        """Give the people who may sign in, and those who may no longer."""
        chosen = sa.select(USERS.c.principal, USERS.c.created_at, USERS.c.disabled_at)
        return self._database.rows(chosen.order_by(USERS.c.principal))

    def sign_in(self, name: str, password: str, tenant: str) -> tuple[str, Session]:
        """Begin a session; give what the browser keeps, and the session.

        Raises: RefusedError, the same whatever is wrong.
        """
        chosen = sa.select(USERS).where(USERS.c.principal == name, USERS.c.disabled_at.is_(None))
        rows = self._database.rows(chosen)
        # An unknown name takes as long as a wrong password.
        verify_password(password, rows[0]["password_hash"] if rows else _hash_of_nobody())
        if not rows:
            raise RefusedError("the name or the password is wrong")
        return self._begun(name, tenant)

    def admit(self, principal: str, tenant: str) -> tuple[str, Session]:
        """Begin a session of somebody whom a provider has signed in; they are registered the first time.

        Nobody knows a password of theirs. Raises: RefusedError where they were shut out here.
        """
        with self._database.begin() as connection:
            mine = USERS.c.principal == principal
            row = connection.execute(sa.select(USERS.c.disabled_at).where(mine)).first()
            if row is not None and row.disabled_at is not None:
                raise RefusedError("this person was shut out here")
            if row is None:
                _register(connection, principal, self._now())
                made = {"password_hash": _hash_of_nobody(), "created_at": self._now(), "disabled_at": None}
                connection.execute(USERS.insert().values(principal=principal, **made))
        return self._begun(principal, tenant)

    def _begun(self, name: str, tenant: str) -> tuple[str, Session]:
        kept, session = secrets.token_urlsafe(32), Session(name, tenant, secrets.token_urlsafe(32))
        ends = (self._clock() + SESSION_LASTS).isoformat(timespec="seconds")
        with self._database.begin() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.expires_at <= self._now()))
            row = {"digest": secret_digest(kept), "principal": name, "tenant": tenant, "csrf": session.csrf}
            connection.execute(SESSIONS.insert().values(**row, expires_at=ends))
        return kept, session

    def session(self, kept: str) -> Session | None:
        """Give the session of what a browser keeps, None where it is none or has ended."""
        rows = self._session(digest=secret_digest(kept), now=self._now())
        return Session(*rows[0]) if rows else None

    def sign_out(self, kept: str) -> None:
        """End a session."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.digest == secret_digest(kept)))

    def _now(self) -> str:
        return self._clock().isoformat(timespec="seconds")


def _register(connection: sa.Connection, principal: str, now: str) -> None:
    if not connection.execute(sa.select(PRINCIPALS.c.id).where(PRINCIPALS.c.id == principal)).first():
        connection.execute(PRINCIPALS.insert().values(id=principal, kind="person", created_at=now))


def _end_sessions(connection: sa.Connection, principal: str) -> None:
    connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.principal == principal))


def _hash_of_nobody() -> str:
    return hash_password(secrets.token_urlsafe(32), secrets.token_bytes(16), PASSWORD_COSTS)
