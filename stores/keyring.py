"""Root keys: one for each tenant and epoch, behind a provider that a cloud KMS can be as well.

The local provider is one file that its owner alone may read: a header in clear (format, how the
passphrase is stretched) and a body sealed with AES-256-GCM under the stretched passphrase, the
header as associated data. Epoch 0 of a tenant is its identity root and never rotates; token roots
count from 1.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stores.home import written_whole
from stores.locks import exclusive
from transforms.errors import DecryptionError, KeyringError
from transforms.pii.ciphers import gcm_decrypt, gcm_encrypt, generate_signing_key, stretch_passphrase

ROOT_BYTES = 32
KEY_ID_BYTES = 4
# RFC 9106 section 4, second recommendation; 0.2 s of one core.
ARGON2 = {"memory_kib": 64 * 1024, "passes": 3, "lanes": 4}


class KeyProvider(Protocol):
    """What the platform needs of whoever keeps its root keys."""

    def create_root(self, tenant: str, epoch: int) -> None:
        """Make a root if there is none; do nothing if there is."""
        ...

    def root(self, tenant: str, epoch: int) -> bytes:
        """Give a root; KeyringError where it is absent or destroyed."""
        ...

    def epochs(self, tenant: str) -> tuple[int, ...]:
        """Give the tenant's token epochs whose roots live, oldest first."""
        ...

    def destroy_root(self, tenant: str, epoch: int) -> None:
        """Destroy a root for good."""
        ...

    def destroy_tenant(self, tenant: str) -> None:
        """Destroy every root of a tenant for good: nothing of theirs is ever read again."""
        ...

    def key_id(self, tenant: str, epoch: int, purpose: str) -> bytes:
        """Give the 4 random bytes that name a derived key; allotted on first use, unique."""
        ...

    def allot_key_ids(self, tenant: str, epoch: int, purposes: Sequence[str]) -> None:
        """Allot the ids of keys that are about to be used, in one step."""
        ...

    def signing_key(self) -> bytes:
        """Give the Ed25519 key that signs audit checkpoints; it hangs on no tenant's root."""
        ...


class LocalKeyring:
    """The keyring file. Reads are cached; every change rewrites the file and syncs it."""

    def __init__(self, path: Path, passphrase: bytes) -> None:
        """Open a keyring.

        Raises: KeyringError where it is absent, readable by others, or the passphrase is wrong.
        """
        self._path = path
        self._header = _read(path)["header"]
        self._wrapping_key = _stretched(self._header, passphrase)
        self._seen: tuple[int, int] | None = None
        self._body = self._opened()

    @staticmethod
    def create(path: Path, passphrase: bytes, argon2: dict[str, int] | None = None) -> LocalKeyring:
        """Make a new keyring; an existing one is left as it is and opened."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(path.with_suffix(".lock")):
            if not path.exists():
                header = {
                    "format": "lockhouse-keyring-1",
                    "kdf": {"name": "argon2id", **(argon2 or ARGON2), "salt": secrets.token_hex(16)},
                }
                body = {"signing_key": generate_signing_key().hex(), "tenants": {}}
                _write(path, header, body, _stretched(header, passphrase))
        return LocalKeyring(path, passphrase)

    def create_root(self, tenant: str, epoch: int) -> None:
        """Make a root if there is none."""
        if str(epoch) not in self._tenant(tenant).get("roots", {}):
            self._change(
                lambda body: _roots(body, tenant).setdefault(str(epoch), secrets.token_hex(ROOT_BYTES))
            )

    def root(self, tenant: str, epoch: int) -> bytes:
        """Give a root."""
        found = self._tenant(tenant).get("roots", {}).get(str(epoch))
        if found is None:
            raise KeyringError(f"tenant {tenant} has no root key of epoch {epoch}: it was destroyed")
        return bytes.fromhex(found)

    def epochs(self, tenant: str) -> tuple[int, ...]:
        """Give the token epochs whose roots live, oldest first."""
        roots = self._tenant(tenant).get("roots", {})
        return tuple(sorted(int(epoch) for epoch in roots if epoch != "0"))

    def tenants(self) -> tuple[str, ...]:
        """Give the tenants that have keys."""
        self._refresh()
        return tuple(sorted(self._body["tenants"]))

    def destroy_root(self, tenant: str, epoch: int) -> None:
        """Destroy a root: the file is written anew without it, and replaces the old one."""
        self._change(lambda body: _roots(body, tenant).pop(str(epoch), None))

    def destroy_tenant(self, tenant: str) -> None:
        """Destroy all roots of a tenant, the identity root among them."""
        self._change(lambda body: body["tenants"].pop(tenant, None))

    def key_id(self, tenant: str, epoch: int, purpose: str) -> bytes:
        """Give a derived key's id."""
        self.allot_key_ids(tenant, epoch, [purpose])
        return bytes.fromhex(self._tenant(tenant)["key_ids"][f"{epoch}/{purpose}"])

    def allot_key_ids(self, tenant: str, epoch: int, purposes: Sequence[str]) -> None:
        """Allot the ids of keys that have none: the file is written once for all of them."""
        known = self._tenant(tenant).get("key_ids", {})
        lacking = [name for name in (f"{epoch}/{purpose}" for purpose in purposes) if name not in known]
        if lacking:
            self._change(lambda body: _allot_key_ids(body, tenant, lacking))

    def signing_key(self) -> bytes:
        """Give the Ed25519 key of the audit trail."""
        return bytes.fromhex(self._body["signing_key"])

    def _tenant(self, tenant: str) -> dict[str, Any]:
        """Give a tenant's entry."""
        self._refresh()
        entry: dict[str, Any] = self._body["tenants"].get(tenant, {})
        return entry

    def _refresh(self) -> None:
        """Read the file again where another process put a new one in its place: a new epoch, for one."""
        if _mark(self._path) != self._seen:
            self._body = self._opened()

    def _opened(self) -> dict[str, Any]:
        # Looked at first: what comes in between is read again, never missed.
        self._seen = _mark(self._path)
        stored = _read(self._path)
        try:
            sealed = base64.b64decode(stored["body"])
            plain = gcm_decrypt(self._wrapping_key, sealed[:12], sealed[12:], _bound(stored["header"]))
        except (DecryptionError, ValueError):
            raise KeyringError("the keyring does not open with this passphrase, or was altered") from None
        body: dict[str, Any] = json.loads(plain)
        return body

    def _change(self, change: Any) -> None:  # noqa: ANN401 - any callable on the body; its result is dropped
        """Change the body under the keyring's lock, from what the file says now."""
        with exclusive(self._path.with_suffix(".lock")):
            body = self._opened()
            change(body)
            _write(self._path, self._header, body, self._wrapping_key)
            self._body, self._seen = body, _mark(self._path)


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase from a file that others cannot read.

    Raises: KeyringError where the file is absent, empty, or readable by group or others.
    """
    _refuse_open_file(path)
    passphrase = path.read_bytes().strip()
    if not passphrase:
        raise KeyringError(f"the passphrase file {path.name} is empty")
    return passphrase


def generate_passphrase(path: Path) -> None:
    """Write a new random passphrase, for its owner only; an existing file is left as it is."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _mark(path: Path) -> tuple[int, int] | None:
    """Tell one file in this place from the next: a change always brings a new one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _refuse_open_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise KeyringError(f"no file {path.name}: `lockhouse init` makes the home") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyringError(f"{path.name} can be read by others (mode {mode & 0o777:03o}): `chmod 600` it first")


def _read(path: Path) -> dict[str, Any]:
    _refuse_open_file(path)
    try:
        stored = json.loads(path.read_text())
        return {"header": dict(stored["header"]), "body": str(stored["body"])}
    except (ValueError, TypeError, KeyError):
        raise _damaged() from None


def _damaged() -> KeyringError:
    return KeyringError("the keyring file is damaged: restore it from a backup")


def _write(path: Path, header: dict[str, Any], body: dict[str, Any], wrapping_key: bytes) -> None:
    nonce = secrets.token_bytes(12)
    sealed = nonce + gcm_encrypt(wrapping_key, nonce, json.dumps(body).encode(), _bound(header))
    text = json.dumps({"header": header, "body": base64.b64encode(sealed).decode()}) + "\n"
    with written_whole(path) as file:
        file.write(text.encode())


def _stretched(header: dict[str, Any], passphrase: bytes) -> bytes:
    try:
        kdf = header["kdf"]
        return stretch_passphrase(
            passphrase,
            bytes.fromhex(kdf["salt"]),
            memory_kib=kdf["memory_kib"],
            passes=kdf["passes"],
            lanes=kdf["lanes"],
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        raise _damaged() from None


def _bound(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def _roots(body: dict[str, Any], tenant: str) -> dict[str, str]:
    entry = body["tenants"].setdefault(tenant, {})
    roots: dict[str, str] = entry.setdefault("roots", {})
    return roots


def _allot_key_ids(body: dict[str, Any], tenant: str, names: Sequence[str]) -> None:
    taken = {one for entry in body["tenants"].values() for one in entry.get("key_ids", {}).values()}
    ids = body["tenants"].setdefault(tenant, {}).setdefault("key_ids", {})
    for name in names:
        fresh = secrets.token_hex(KEY_ID_BYTES)
        while fresh in taken:
            fresh = secrets.token_hex(KEY_ID_BYTES)
        taken.add(ids.setdefault(name, fresh))
