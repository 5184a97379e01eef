"""Signatures of calls to Amazon's services whose parameters are their body: all that a queue's calls need.

Source: AWS Signature Version 4, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """Who calls. `token` belongs to credentials that end, such as a role's; None for others."""

    access_key: str
    secret_key: str
    token: str | None


class Destination(NamedTuple):
    """Where a call goes: the host as its header names it, the service and its region."""

    host: str
    service: str
    region: str


def sign_call(
    body: bytes, headers: Mapping[str, str], to: Destination, who: Credentials, at: datetime
) -> dict[str, str]:
    """Give all headers of a POST to `/` with this body, its signature among them.

    Shape: `headers` are the call's own, their names in lower case. Units: `at` in UTC.

    >>> at = datetime(2026, 11, 21, 7, 0, 0)
    >>> sign_call(b"{}", {}, Destination("a", "sqs", "b"), Credentials("c", "d", None), at)["x-amz-date"]
    '20261121T070000Z'
    """
    moment = f"{at:%Y%m%dT%H%M%SZ}"
    sent = {**headers, "host": to.host, "x-amz-date": moment}
    if who.token is not None:
        sent["x-amz-security-token"] = who.token
    names = sorted(sent)
    signed = ";".join(names)
    lines = "".join(f"{name}:{sent[name].strip()}\n" for name in names)
    canonical = f"POST\n/\n\n{lines}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{moment[:8]}/{to.region}/{to.service}/aws4_request"
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(who.secret_key, moment[:8], to.region, to.service)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    place = f"Credential={who.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    return {**sent, "authorization": f"{_ALGORITHM} {place}"}


# A key is that of a day; the second is there around midnight, and where a role's secret is renewed.
@lru_cache(maxsize=2)
def _signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
