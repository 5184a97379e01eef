"""The only place that touches `cryptography`: primitives under the names that the platform uses.

Everything here is a thin, typed call of a kept library. What the platform adds of its own (the
vectorised SIV, the envelope) is built from these in `siv.py` and `envelope.py`.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from transforms.errors import AuditError, DecryptionError

Buffer: TypeAlias = "bytes | bytearray | memoryview[int]"

GCM_NONCE_BYTES = 12
GCM_TAG_BYTES = 16
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
# What a decryptor raises for a value that does not verify.
WRONG_TAG = InvalidTag


class BlockEncryptor(Protocol):
    """AES-ECB over whole buffers: what the vectorised SIV is built on."""

    def update_into(self, data: Buffer, buf: Buffer) -> int:
        """Encrypt `data` (a multiple of 16 bytes) into `buf` (15 bytes longer); give the length."""
        ...


def length_prefixed(*parts: bytes) -> bytes:
    """Join parts so that no two different lists give the same bytes.

    Shape: each part behind its own length as 4 bytes, big endian.

    >>> length_prefixed(b"ab", b"c") != length_prefixed(b"a", b"bc")
    True
    """
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def derive_key(root: bytes, length: int, *info: str) -> bytes:
    """Derive a key of `length` bytes from a root for one purpose.

    Source: HKDF-SHA256 (RFC 5869), without salt: the root is uniformly random already.

    >>> root = b"r" * 32
    >>> derive_key(root, 64, "token", "acme", "ip") != derive_key(root, 64, "token", "acme", "mac")
    True
    """
    context = length_prefixed(*(part.encode() for part in info))
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=context).derive(root)


def keyed_digest(key: bytes, *parts: bytes) -> bytes:
    """Give the first 16 bytes of HMAC-SHA256 over the length-prefixed parts (RFC 2104)."""
    return hmac.digest(key, length_prefixed(*parts), "sha256")[:16]


def keyed_digester(key: bytes, *parts: bytes) -> Callable[[bytes], bytes]:
    """Give `digest(last)`, which is `keyed_digest(key, *parts, last)` with the beginning done once.

    >>> keyed_digester(b"k", b"user")(b"7") == keyed_digest(b"k", b"user", b"7")
    True
    """
    begun = HMAC(key, SHA256())
    begun.update(length_prefixed(*parts))

    def digest(last: bytes) -> bytes:
        mac = begun.copy()
        # As `length_prefixed` does, which for one part is half of the time.
        mac.update(len(last).to_bytes(4, "big") + last)
        return mac.finalize()[:16]

    return digest


def sha256_hex(content: bytes) -> str:
    """Give the SHA-256 of something that is not personal, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def stretch_passphrase(passphrase: bytes, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Turn a passphrase into a 32-byte key, slowly on purpose.

    Source: Argon2id (RFC 9106). Units: `memory_kib` in KiB.
    """
    argon = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return argon.derive(passphrase)


def block_encryptor(key: bytes) -> BlockEncryptor:
    """Give an AES-ECB encryptor that may be called any number of times.

    ECB is no mode to hide anything with: it serves here as the bare block function of SIV.
    """
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the bare block function


def siv_encrypt(key: bytes, plaintext: bytes, *associated: bytes) -> bytes:
    """Encrypt one value deterministically: V (16 bytes), then C (as long as the plaintext).

    Source: RFC 5297. The per-value form; columns go through `siv.encrypt_column`.
    """
    return AESSIV(key).encrypt(plaintext, list(associated))


def siv_decrypt(key: bytes, ciphertext: bytes, *associated: bytes) -> bytes:
    """Decrypt and verify one value.

    Raises: DecryptionError for a wrong key, other associated data, or any changed byte.
    """
    try:
        return AESSIV(key).decrypt(ciphertext, list(associated))
    except (InvalidTag, ValueError) as error:
        raise DecryptionError from error


def gcm_encrypt(key: bytes, nonce: bytes, plaintext: bytes | memoryview, associated: bytes) -> bytes:
    """Encrypt one value with AES-256-GCM: ciphertext, then a 16-byte tag (NIST SP 800-38D)."""
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def gcm_encryptor(key: bytes) -> Callable[[bytes, bytes | memoryview, bytes], bytes]:
    """Give `encrypt(nonce, plaintext, associated)` for one key, whose schedule is then set up once."""
    return AESGCM(key).encrypt


def gcm_encrypt_into(
    key: bytes, nonce: bytes, plaintext: bytes | memoryview, associated: bytes, target: memoryview
) -> None:
    """Encrypt one value into `target`, which has room for it and the 16-byte tag, no more."""
    AESGCM(key).encrypt_into(nonce, plaintext, associated, target)


def gcm_decryptor(key: bytes) -> Callable[[bytes | memoryview, bytes | memoryview, bytes], bytes]:
    """Give `decrypt(nonce, ciphertext, associated)` for one key; it raises InvalidTag of its own."""
    return AESGCM(key).decrypt


def gcm_decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """Decrypt and verify one value.

    Raises: DecryptionError for a wrong key, nonce, associated data, or any changed byte.
    """
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except (InvalidTag, ValueError) as error:
        raise DecryptionError from error


def gcm_decrypt_into(
    key: bytes, nonce: memoryview, ciphertext: memoryview, associated: bytes, target: memoryview
) -> None:
    """Decrypt and verify one value into `target`, which has its size.

    Raises: DecryptionError as `gcm_decrypt`.
    """
    try:
        AESGCM(key).decrypt_into(nonce, ciphertext, associated, target)
    except (InvalidTag, ValueError) as error:
        raise DecryptionError("the envelope") from error


def generate_signing_key() -> bytes:
    """Make a new Ed25519 private key, 32 bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def signing_public_key(private_key: bytes) -> bytes:
    """Give the public half, 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def derive_p256_key(root: bytes, *info: str) -> dict[str, str]:
    """Derive a P-256 key pair from a root for one purpose, as a private JSON Web Key (RFC 7518 section 6.2).

    The scalar is 384 derived bits, reduced: no value is noticeably likelier (FIPS 186-5 appendix A.2.1).

    >>> sorted(derive_p256_key(b"r" * 32, "tokens"))
    ['crv', 'd', 'kty', 'x', 'y']
    """
    wide = int.from_bytes(derive_key(root, 48, *info), "big")
    pair = derive_private_key(wide % (_P256_ORDER - 1) + 1, SECP256R1())
    public = pair.public_key().public_numbers()
    numbers = {"d": pair.private_numbers().private_value, "x": public.x, "y": public.y}
    texts = {
        name: urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
        for name, number in numbers.items()
    }
    return {"kty": "EC", "crv": "P-256", **texts}


def derive_agreement_key(root: bytes, *info: str) -> bytes:
    """Derive an X25519 private key from a root for one purpose, 32 bytes (RFC 7748 clamps on use)."""
    return derive_key(root, 32, *info)


def agreement_public_key(private_key: bytes) -> bytes:
    """Give the public half of an X25519 key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def seal_to_public_key(public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encrypt for whoever holds the private half: the encapsulated key (32 bytes), ciphertext, tag (16).

    Source: HPKE, base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
    """
    return _HPKE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public_key), info)


def open_with_private_key(private_key: bytes, sealed: bytes, info: bytes) -> bytes:
    """Decrypt and verify what `seal_to_public_key` made.

    Raises: DecryptionError for another key, other `info`, or any changed byte.
    """
    try:
        return _HPKE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError) as error:
        raise DecryptionError from error


def sign(private_key: bytes, message: bytes) -> bytes:
    """Sign with Ed25519 (RFC 8032): 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(message)


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify an Ed25519 signature.

    Raises: AuditError where it does not hold. Nothing returns a truth value for security.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise AuditError("a signature does not hold: the record was altered or is not ours") from error
