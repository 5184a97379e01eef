"""One text form for each value, before anything is made of it: equal things get equal tokens.

Each function takes a String series and gives one of the same length: the canonical text, null
where the input was null **or** is no such value. A caller tells the two apart by the input.

The common form is recognised by one regular expression over the column; only what does not
match goes through Python, once per distinct value.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from datetime import date

import polars as pl

# Part of every token's associated data: change a form, change this, and old tokens stay apart.
VERSION = "1"

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"^({_OCTET}\.){{3}}{_OCTET}$"
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_MAC = "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
_PHONE = r"^\+[1-9][0-9]{6,14}$"
_DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_EMAIL = r"^[^\s@]{1,64}@[^\s@.]+(\.[^\s@.]+)+$"


def canonicalise(values: pl.Series, form: str | None) -> pl.Series:
    """Bring values to the canonical text of a form, such as `ip` or `phone`; None stands for any text.

    >>> canonicalise(pl.Series(["2001:DB8::0:1", "1.2.3.4", "1.2.3.456"]), "ip").to_list()
    ['2001:db8::1', '1.2.3.4', None]
    """
    return _FORMS[form](values)


def _canonical_ips(values: pl.Series) -> pl.Series:
    return _fast_or_each(values, _IPV4, _one_ip)


def _one_ip(text: str) -> str | None:
    """Give IPv6 compressed (RFC 5952); an IPv4 mapped into IPv6 is that IPv4; no zone."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _canonical_uuids(values: pl.Series) -> pl.Series:
    return _fast_or_each(values, _UUID, _one_uuid)


def _one_uuid(text: str) -> str | None:
    digits = text.strip().strip("{}").replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{32}", digits):
        return None
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _canonical_macs(values: pl.Series) -> pl.Series:
    return _fast_or_each(values, _MAC, _one_mac)


def _one_mac(text: str) -> str | None:
    """Take colons, dashes, Cisco's dots or nothing between the digits."""
    digits = re.sub("[:.-]", "", text.strip()).lower()
    if not re.fullmatch("[0-9a-f]{12}", digits):
        return None
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def _canonical_emails(values: pl.Series) -> pl.Series:
    """Lower the domain only: the local part may be case sensitive (RFC 5321 section 2.4)."""
    trimmed = values.str.strip_chars().str.normalize("NFC")
    frame = trimmed.rename("email").to_frame()
    domain = pl.col("email").str.extract(r"@([^@]*)$").str.to_lowercase()
    local = pl.col("email").str.extract(r"^(.*)@[^@]*$")
    valid = pl.col("email").str.contains(_EMAIL) & (pl.col("email").str.len_bytes() <= 254)
    lowered = pl.when(valid).then(local + "@" + domain)
    return frame.select(lowered.alias(values.name)).to_series()


def _canonical_accounts(values: pl.Series) -> pl.Series:
    return _fast_or_each(values, _UUID, _one_account)


def _one_account(text: str) -> str | None:
    """Give the name of an account as a person types it; one that is a UUID is that UUID."""
    name = unicodedata.normalize("NFKC", text).strip().casefold()
    return _one_uuid(name) or unicodedata.normalize("NFC", name) or None


def _canonical_phones(values: pl.Series) -> pl.Series:
    return _fast_or_each(values, _PHONE, _one_phone)


def _one_phone(text: str) -> str | None:
    """Give a number in the form of E.164; what people put between the digits is left out."""
    digits = re.sub(r"[\s().\-/]", "", text)
    digits = f"+{digits[2:]}" if digits.startswith("00") else digits
    return digits if re.fullmatch(_PHONE[1:-1], digits, re.ASCII) else None


def _canonical_dates(values: pl.Series) -> pl.Series:
    """Give dates of the calendar as ISO 8601 writes them; a 30 February is none."""
    distinct = values.drop_nulls().unique()
    known = pl.Series([_one_date(text) for text in distinct], dtype=pl.String)
    return values.replace(distinct, known)


def _one_date(text: str) -> str | None:
    try:
        return date.fromisoformat(text.strip()).isoformat() if re.fullmatch(_DATE[1:-1], text.strip()) else None
    except ValueError:
        return None


def _canonical_texts(values: pl.Series) -> pl.Series:
    """Normalise to NFC, which changes nothing in ASCII: only then is the work done."""
    if (values.str.len_bytes() == values.str.len_chars()).all():
        return values
    return values.str.normalize("NFC")


def _fast_or_each(values: pl.Series, pattern: str, one: Callable[[str], str | None]) -> pl.Series:
    """Keep what matches the pattern; put every other distinct value through `one`."""
    matches = values.str.contains(pattern)
    if matches.all(ignore_nulls=True):
        return values
    odd = values.filter(~matches.fill_null(True)).unique()
    replaced = pl.Series([one(text) for text in odd], dtype=pl.String)
    return values.replace(odd, replaced)


_FORMS: dict[str | None, Callable[[pl.Series], pl.Series]] = {
    "ip": _canonical_ips,
    "uuid": _canonical_uuids,
    "mac": _canonical_macs,
    "email": _canonical_emails,
    "account": _canonical_accounts,
    "phone": _canonical_phones,
    "date": _canonical_dates,
    None: _canonical_texts,
}
