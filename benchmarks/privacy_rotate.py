"""What a rotation of token keys costs: every token of a table made anew, against rewriting the table.

CPU seconds of this process, in turns. Peer: deltalake reading the same table and writing it again as it
is, which is the least that any change of a column can cost there. Ours looks at every file, opens and
makes each distinct token, writes the files and commits. Tokens are opened afterwards and compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import DeltaTable, WriterProperties, write_deltalake

sys.path.insert(0, str(Path(__file__).parent))
from logins_ingest import Bench, make_logins

from orchestration.resources import Platform
from stores.contracts import load_contract
from transforms.pii.siv import decrypt_column
from transforms.tables import masked_table

SEED = 20_260_103
SPEC = masked_table(load_contract("logins"))
ZSTD = WriterProperties(compression="ZSTD", compression_level=1)


def opened(platform: Platform, tenant: str) -> pl.DataFrame:
    """Open every token, in an order that does not depend on them."""
    keys = platform.keys(tenant)
    with platform.tables.reading(tenant, SPEC.key) as table:
        rows = table.select("event_id", "user_id_token", "ip_token").sort("event_id").collect()
    return rows.with_columns(
        decrypt_column(rows["user_id_token"], keys.live_token_keys("user")),
        decrypt_column(rows["ip_token"], keys.live_token_keys("ip")),
    )


def cpu_s(call: Callable[[], Any]) -> float:
    """Give the CPU seconds of this process, all its threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def report(rows: int, turns: int) -> dict[str, Any]:
    """Measure everything."""
    taken: dict[str, list[float]] = {"rewrite": [], "renew": [], "map": []}
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        bench = Bench.at(Path(name))
        platform = bench.platform
        bench.ingest("default", make_logins(Path(name) / "logins.json", rows, 20, np.random.default_rng(SEED)))
        before, rotation = opened(platform, "default"), platform.rotation("default")
        path = platform.tables.path("default", SPEC.key)
        size = sum(file.stat().st_size for file in path.rglob("*.parquet"))
        for turn in range(turns):
            target = Path(name) / "plain"
            taken["rewrite"].append(
                cpu_s(
                    lambda target=target: write_deltalake(
                        target,
                        DeltaTable(path).to_pyarrow_table(),
                        writer_properties=ZSTD,
                        partition_by=list(SPEC.partition_by),
                    )
                )
            )
            shutil.rmtree(target)
            rotation.begin()
            taken["map"].append(cpu_s(lambda: rotation.map_tokens(SPEC.key)))
            taken["renew"].append(cpu_s(lambda: rotation.renew_table(SPEC.key)))
            rotation.finish()
            assert rotation.retire(at_once=True) == [turn + 1]
            assert opened(platform, "default").equals(before)
    least = {name: min(figures) for name, figures in taken.items()}
    return {
        "ratios": {
            "renewing vs rewriting": round(least["renew"] / least["rewrite"], 3),
            "with the map vs rewriting": round((least["renew"] + least["map"]) / least["rewrite"], 3),
        },
        "cpu_s": {name: round(figure, 3) for name, figure in least.items()},
        "rows": rows,
        "table_mb": round(size / 1e6, 1),
        "turns": turns,
        "checked": True,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    found = report(options.rows, options.turns)
    if options.json:
        print(json.dumps(found))
        return
    print(f"CPU s, least of {found['turns']} turns, {found['rows']:,} rows, {found['table_mb']} MB")
    print(found["cpu_s"])
    for name, ratio in found["ratios"].items():
        print(f"{name:32}{ratio:>8.3f} x")


if __name__ == "__main__":
    main()
