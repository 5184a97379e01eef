"""Dagster's own settings of a home, written where `DAGSTER_HOME` points."""

from __future__ import annotations

from pathlib import Path

_DAGSTER_YAML = """\
# Written by Lockhouse; change it freely, it is written only where it is absent.
telemetry: {enabled: false}
nux: {enabled: false}
freshness: {enabled: true}
# Runs start at once instead of waiting for the queue's next look (4 s against up to 9 s, measured).
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
run_monitoring: {enabled: true, start_timeout_seconds: 180, poll_interval_seconds: 30}
retention:
  sensor: {purge_after_days: {skipped: 1, failure: 30, success: 30}}
  schedule: {purge_after_days: 30}
"""


def write_instance(folder: Path) -> None:
    """Write `dagster.yaml` where there is none."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "dagster.yaml"
    if not path.exists():
        path.write_text(_DAGSTER_YAML)


CODE_SOCKET = "code.sock"


def write_workspace(folder: Path) -> Path:
    """Write the workspace of `lockhouse up`: one code server on a socket, under a name that stays.

    Dagster keys a sensor's cursor by the location's name; an address that changes would lose it.
    """
    path = folder / "workspace.yaml"
    socket = folder / CODE_SOCKET
    path.write_text(f"load_from:\n  - grpc_server:\n      socket: {socket}\n      location_name: lockhouse\n")
    # A socket file of an earlier `up` would be taken for a living server.
    socket.unlink(missing_ok=True)
    return path
