"""The code server of `lockhouse up`: its runs begin in a process that has Dagster and dbt imported.

Dagster starts each run in a fresh interpreter, which spends most of its first ten seconds on imports.
Here a run is forked from a process that has done the greater part of them (docs/decisions/0014).
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import forkserver
from types import SimpleNamespace

# Pure Python and without threads of their own, so that a fork of them is whole. Polars, Arrow and
# Delta start threads as they are imported: each run imports those by itself.
PRELOADED = ("dagster", "dagster._cli.api", "dagster._grpc.server", "dagster_dbt", "sqlalchemy", "yaml")


def main(arguments: list[str]) -> None:
    """Serve the code location until a signal comes; the arguments are those of `dagster api grpc`."""
    from dagster._cli.api import api_cli
    from dagster._grpc import server

    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    # Dagster has no setting for this; without the line runs only start slower.
    server.multiprocessing = SimpleNamespace(get_context=lambda _method: warm)  # type: ignore[attr-defined,assignment]
    api_cli(["grpc", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
