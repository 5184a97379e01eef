"""Entries of the audit trail as events of the Open Cybersecurity Schema Framework."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from transforms.audit import Entry

_VERSION = "1.5.0"
_API_ACTIVITY = 6003
# Create, Read, Update, Delete, Other: what the last word of an action comes to.
_ACTIVITIES = {
    1: {"created", "added", "assigned", "begun", "posted", "put", "made", "issued", "requested", "completed"},
    2: {
        "listed",
        "shown",
        "run",
        "read",
        "exported",
        "summarised",
        "opened",
        "revealed",
        "scanned",
        "verified",
    },
    3: {"changed", "rotated", "retried", "ended", "closed"},
    4: {"dropped", "revoked", "withdrawn"},
}
_STATUSES = {"done": (1, "Success"), "refused": (2, "Failure"), "failed": (2, "Failure")}


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Give an entry as an API Activity event (class 6003); its hash stays with it.

    Source: OCSF 1.5.0, class api_activity. Units: milliseconds since 1970.
    """
    verb = entry.action.rpartition(":")[2]
    activity = next((number for number, verbs in _ACTIVITIES.items() if verb in verbs), 99)
    status_id, status = _STATUSES.get(entry.outcome, (99, "Other"))
    parameters = json.loads(entry.parameters)
    return {
        "activity_id": activity,
        "category_uid": 6,
        "class_uid": _API_ACTIVITY,
        "type_uid": _API_ACTIVITY * 100 + activity,
        "time": int(datetime.fromisoformat(entry.at).timestamp() * 1000),
        # A refusal is worth a look; what was allowed is information.
        "severity_id": 3 if entry.outcome == "refused" else 1,
        "status_id": status_id,
        "status": status,
        "actor": {"user": {"uid": entry.principal}, "app_uid": str(parameters.get("client", "command line"))},
        "api": {
            "operation": entry.action,
            "request": {"uid": str(parameters.get("request", f"{entry.tenant}/{entry.seq}"))},
        },
        "src_endpoint": {"name": "lockhouse"},
        "metadata": {
            "version": _VERSION,
            "product": {"name": "Lockhouse", "vendor_name": "Lockhouse"},
            "uid": f"{entry.tenant}/{entry.seq}",
            "sequence": entry.seq,
            "tenant_uid": entry.tenant,
        },
        "unmapped": {"outcome": entry.outcome, "parameters": parameters, "hash": entry.hash},
    }
