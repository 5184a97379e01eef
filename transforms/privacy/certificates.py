"""Certificates of what was destroyed and deleted, of a data subject or of a whole tenant: signed, read again.

The file is JSON, written in one way only, so that no byte of it can change unnoticed. It names an
erased subject by keyed and salted digests: whoever has a copy of the home can look whether a pseudonym
of theirs is still in it, and learns nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transforms.audit import canonical_json
from transforms.errors import AuditError, CertificateError
from transforms.pii.ciphers import sha256_hex, sign, signing_public_key, verify_signature
from transforms.pii.siv import HEAD_CHARACTERS

ERASURE = "lockhouse-erasure-certificate-1"
OFFBOARDING = "lockhouse-offboarding-certificate-1"
# Version and key id, 5 bytes, fix the first six characters of a token.
_FIXED_CHARACTERS = 6
_REF_DIGITS = 32
_IS_HEX_DIGIT = bytes(chr(one) in "0123456789abcdef" for one in range(256))
_HEX_RUN = b"\1" * _REF_DIGITS


@dataclass(frozen=True)
class Fingerprints:
    """Salted digests of an erased subject's pseudonyms.

    `heads` are what the subject's tokens begin with (it tells the key, not the person).
    """

    salt: str
    heads: tuple[str, ...]
    tokens: frozenset[str]
    refs: frozenset[str]

    def of(self, pseudonym: bytes) -> str:
        """Give the digest of a pseudonym."""
        return hashlib.sha256(self._salt + pseudonym).hexdigest()

    @cached_property
    def _salt(self) -> bytes:
        return bytes.fromhex(self.salt)

    def has_ref(self, ref: bytes) -> bool:
        """Whether a reference is the subject's."""
        return self.of(ref) in self.refs

    def has_token(self, head: bytes) -> bool:
        """Whether a token that begins so, in its joinable part, is the subject's."""
        return self.of(head) in self.tokens

    def as_record(self) -> dict[str, Any]:
        """Give the fingerprints as plain values."""
        heads, tokens, refs = list(self.heads), sorted(self.tokens), sorted(self.refs)
        return {"salt": self.salt, "heads": heads, "tokens": tokens, "refs": refs}


def take_fingerprints(salt: str, tokens: Iterable[str], refs: Iterable[bytes]) -> Fingerprints:
    """Make the fingerprints of tokens (their joinable part) and references.

    >>> prints = take_fingerprints("00" * 16, ["AfQ3xk" + "a" * 22], [b"r" * 16])
    >>> prints.has_ref(b"r" * 16), PseudonymMatcher(prints).find(b"... AfQ3xk" + b"a" * 22 + b"ZZ")
    (True, [0])
    """
    heads = sorted({token[:HEAD_CHARACTERS] for token in tokens})
    bare = Fingerprints(salt, (), frozenset(), frozenset())
    return Fingerprints(
        salt,
        tuple(sorted({head[:_FIXED_CHARACTERS] for head in heads})),
        frozenset(bare.of(head.encode()) for head in heads),
        frozenset(bare.of(ref) for ref in refs),
    )


def fingerprints_of(record: Mapping[str, Any]) -> Fingerprints:
    """Read what `as_record` gave."""
    tokens, refs = frozenset(record["tokens"]), frozenset(record["refs"])
    return Fingerprints(record["salt"], tuple(record["heads"]), tokens, refs)


def token_head(key_id: bytes) -> str:
    """Give the characters with which every token of a key begins.

    >>> token_head(bytes.fromhex("01020304"))
    'AQECAw'
    """
    return b64encode(b"\x01" + key_id, altchars=b"-_").decode()[:_FIXED_CHARACTERS]


class TokenMatcher:
    """Finds every token of some keys, whatever it stands for; `heads` are what those tokens begin with."""

    finds_numbers = False

    def __init__(self, heads: Sequence[str]) -> None:
        """Prepare the search."""
        rest = HEAD_CHARACTERS - _FIXED_CHARACTERS
        begins = b"|".join(re.escape(head.encode()) for head in heads)
        self._tokens = re.compile(rb"(?:" + begins + rb")[A-Za-z0-9_-]{%d}" % rest) if heads else None

    def find(self, content: bytes) -> list[int]:
        """Give [0] where such a token stands in some bytes, else nothing."""
        return [0] if self._tokens is not None and self._tokens.search(content) else []


class PseudonymMatcher:
    """Finds an erased subject's tokens, and references written in hexadecimal, knowing only fingerprints."""

    finds_numbers = False

    def __init__(self, prints: Fingerprints) -> None:
        """Prepare the search for what could be one of the tokens."""
        self._prints = prints
        # One expression a key: each begins with plain characters, which are skipped to.
        rest = rb"(?=[A-Za-z0-9_-]{%d})" % (HEAD_CHARACTERS - _FIXED_CHARACTERS)
        self._begins = [re.compile(re.escape(head.encode()) + rest) for head in prints.heads]

    def find(self, content: bytes) -> list[int]:
        """Give [0] where one of them stands in some bytes, else nothing."""
        if any(map(self._prints.has_token, set(self._tokens_in(content)))):
            return [0]
        return [0] if any(map(self._prints.has_ref, set(_references_in(content)))) else []

    def _tokens_in(self, content: bytes) -> Iterator[bytes]:
        for begin in self._begins:
            for match in begin.finditer(content):
                yield content[match.start() : match.start() + HEAD_CHARACTERS]


def _references_in(content: bytes) -> Iterator[bytes]:
    """Give what could be a reference; a search for runs is ten times as fast as one for digits."""
    digits = content.translate(_IS_HEX_DIGIT)
    at = digits.find(_HEX_RUN)
    while at >= 0:
        yield bytes.fromhex(content[at : at + _REF_DIGITS].decode())
        at = digits.find(_HEX_RUN, at + 1)


def write_certificate(body: Mapping[str, Any], private_key: bytes, form: str = ERASURE) -> bytes:
    """Sign what was done and write it down, in the one way in which it is read again."""
    signature = sign(private_key, _message(body, form)).hex()
    return _written(
        {
            "format": form,
            "body": dict(body),
            "public_key": signing_public_key(private_key).hex(),
            "signature": signature,
        }
    )


def form_of(content: bytes) -> str:
    """Give the form that a certificate claims to have; nothing of it is verified yet."""
    try:
        return str(json.loads(content)["format"])
    except (ValueError, TypeError, KeyError):
        return ERASURE


def read_certificate(content: bytes, public_key: bytes, form: str = ERASURE) -> dict[str, Any]:
    """Give what a certificate of a form says.

    Raises: CertificateError where a byte of it was changed, or another key signed it.
    """
    try:
        read = json.loads(content)
        body, signature, named = (
            read["body"],
            bytes.fromhex(read["signature"]),
            bytes.fromhex(read["public_key"]),
        )
        is_exact = _written(read) == content and read["format"] == form and set(read) == _PARTS
    except (ValueError, TypeError, KeyError):
        raise CertificateError("that is no certificate, or it was altered") from None
    if not is_exact:
        raise CertificateError("the certificate is not as it was written: it was altered")
    if named != public_key:
        raise CertificateError("the certificate names another key than the home's: it is not of this home")
    try:
        verify_signature(public_key, signature, _message(body, form))
    except AuditError:
        raise CertificateError("the certificate's signature does not hold: it was altered") from None
    found: dict[str, Any] = body
    return found


def digest_certificate(content: bytes) -> str:
    """Give the digest under which the audit trail knows a certificate."""
    return sha256_hex(content)


def sum_up(tables: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Give the rows that left each table.

    >>> sum_up([{"table": "raw.logins", "rows": 2}, {"table": "raw.logins", "rows": 1}])
    {'raw.logins': 3}
    """
    rows: dict[str, int] = {}
    for one in tables:
        rows[one["table"]] = rows.get(one["table"], 0) + one["rows"]
    return rows


_PARTS = {"format", "body", "public_key", "signature"}


def _message(body: Mapping[str, Any], form: str) -> bytes:
    return f"{form}\n{canonical_json(body)}".encode()


def _written(certificate: Mapping[str, Any]) -> bytes:
    return (json.dumps(certificate, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
