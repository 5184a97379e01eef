"""What it costs to bring a file of logins into the lake: one process, CPU time, in turns.

Ours is the whole way: claim, exact bytes sealed in `raw`, tokens in `masked`, both committed. Peers:
a row-by-row pipeline (`json.loads`, `AESSIV` a value, an append to Delta for every 100 rows), on
a smaller file that both take whole, since it is slow; and parsing the file with polars
and writing it unmasked, before and after each turn of ours. The ratio of the two is the median of
the turns' ratios: a machine that is slower for seconds at a time shows a short call at its best and a
long one never. Every figure is of a result that was checked.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from deltalake import DeltaTable, WriterProperties, write_deltalake

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.settings import load_settings
from transforms.pii.contracts import Contract
from transforms.pii.identities import event_id_bytes
from transforms.pii.siv import decrypt_column

SEED = 20_240_229
SMALL_ROWS = 1_000
# As many small batches as lie between two roll-ups, so that each mean has one in it.
SERIES = 50
SIVS = {name: AESSIV(bytes([at]) * 64) for at, name in enumerate(("user_id", "ip", "device_id"))}


def make_logins(path: Path, rows: int, rows_per_subject: int, rng: np.random.Generator) -> Path:
    """Write JSON lines of the real events' shape: people and devices in random order."""
    people = rng.integers(0, 1 << 48, max(1, rows // rows_per_subject))
    order = rng.permutation(np.resize(people, rows)).tolist()
    octets, numbers = rng.integers(0, 256, (rows, 4)).tolist(), rng.integers(0, 10_000, (rows, 3)).tolist()
    with path.open("w") as file:
        for person, octet, (device, minor, locale) in zip(order, octets, numbers, strict=True):
            login = {
                "user_id": f"424cdd21-063a-43a7-b91b-{person:012x}",
                "app_version": f"2.{minor % 9}.{minor % 7}",
                "device_type": "android" if minor % 2 else "ios",
                "ip": ".".join(map(str, octet)),
                "locale": None if locale % 3 == 0 else "RU",
                "device_id": f"593-47-{device:04d}",
            }
            file.write(json.dumps(login) + "\n")
    return path


@dataclass
class Bench:
    """A home in a temporary folder, and the way into it."""

    folder: Path
    platform: Platform
    contract: Contract

    @classmethod
    def at(cls, folder: Path) -> Bench:
        """Make the home."""
        platform = Platform(load_settings(folder / "home"))
        platform.create_home("bench")
        return cls(folder, platform, load_contract("logins"))

    def tenant(self, name: str) -> str:
        """Register a tenant: without subjects, without tables."""
        self.platform.add_tenant(name, "bench")
        return name

    def drop(self, tenant: str) -> None:
        """Delete a tenant's tables, so that the disk is no fuller for the next turn."""
        shutil.rmtree(self.platform.home.lake / tenant)

    def ingest(self, tenant: str, path: Path) -> str:
        """Bring a file that somebody dropped into raw and masked; gives its batch."""
        intake, landing = self.platform.intake, self.platform.landing
        dropped = landing.drop_folder("logins", tenant) / path.name
        dropped.parent.mkdir(parents=True, exist_ok=True)
        dropped.hardlink_to(path)
        (batch,) = landing.claim("logins", tenant, [dropped])
        intake.seal_batch(batch.id, self.contract)
        intake.mask_batch(batch.id, self.contract)
        intake.finish_batch(batch.id)
        return batch.id


def row_by_row(path: Path, rows: int, target: Path) -> None:
    """Mask the first rows of a file value by value; commit them by hundreds."""
    with path.open() as file:
        lines = [next(file) for _ in range(rows)]
    for start in range(0, rows, 100):
        masked = []
        for line in lines[start : start + 100]:
            login = json.loads(line)
            for name, siv in SIVS.items():
                token = base64.urlsafe_b64encode(siv.encrypt(login[name].encode(), [name.encode()]))
                login[name] = token.decode().rstrip("=")
            masked.append(login)
        write_deltalake(target, pa.Table.from_pylist(masked), mode="append", writer_properties=ZSTD)


def parse_and_write(path: Path, target: Path) -> None:
    """Do what has to be done without any protection."""
    write_deltalake(target, pl.read_ndjson(path).to_arrow(), writer_properties=ZSTD)


ZSTD = WriterProperties(compression="ZSTD", compression_level=1)


def check(bench: Bench, path: Path) -> None:
    """Raise unless every peer and we did what we say."""
    tenant, lines = bench.tenant("check"), path.read_bytes().splitlines()
    counts = bench.platform.ledger.counts([bench.ingest(tenant, path)])
    assert counts.balances and counts.accepted == counts.rows == len(lines)
    again = bench.platform.ledger.counts([bench.ingest(tenant, path)])
    assert (again.accepted, again.duplicates) == (0, len(lines))
    sealer = bench.platform.intake.sealer(tenant)
    with bench.platform.tables.reading(tenant, "raw.logins") as table:
        raw = table.collect()
    keys = sealer.subjects.existing(raw["subject_ref"].unique().to_list())
    opened = sealer.open_for_subjects(
        "raw.logins",
        "record",
        raw["record"].to_list(),
        [keys[ref] for ref in raw["subject_ref"]],
        event_id_bytes(raw["event_id"]),
    )
    assert sorted(opened) == sorted(lines)
    with bench.platform.tables.reading(tenant, "masked.logins") as table:
        tokens = table.select("ip_token").collect()["ip_token"]
    ips = decrypt_column(tokens, sealer.keys.live_token_keys("ip")).sort()
    assert ips.equals(pl.read_ndjson(path)["ip"].sort())
    row_by_row(path, 300, bench.folder / "rows")
    masked = pl.read_delta(str(bench.folder / "rows"))
    first = base64.urlsafe_b64decode(masked["ip"][0] + "==")
    assert masked.height == 300 and SIVS["ip"].decrypt(first, [b"ip"]).decode() in set(ips)
    parse_and_write(path, bench.folder / "plain")
    assert DeltaTable(bench.folder / "plain").to_pyarrow_table().num_rows == len(lines)
    for name in ("rows", "plain"):
        shutil.rmtree(bench.folder / name)
    bench.drop(tenant)


def cpu_s(call: Callable[[], Any]) -> float:
    """Give the CPU seconds of this process, all its threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def turn(bench: Bench, name: str, path: Path, rows: int, sample: int) -> dict[str, float]:
    """Run every way once. Units: CPU nanoseconds for one row; the repeat is of the whole file."""
    tenant, target = bench.tenant(name), bench.folder / name
    before = cpu_s(lambda: parse_and_write(path, target / "before"))
    taken = {
        "ingest": cpu_s(lambda: bench.ingest(tenant, path)) / rows * 1e9,
        "repeat": cpu_s(lambda: bench.ingest(tenant, path)) / rows * 1e9,
    }
    after = cpu_s(lambda: parse_and_write(path, target / "after"))
    taken["parse and write"] = (before + after) / 2 / rows * 1e9
    if sample:
        taken["row by row"] = cpu_s(lambda: row_by_row(path, sample, target / "rows")) / sample * 1e9
    shutil.rmtree(target)
    bench.drop(tenant)
    return taken


def against_plain(turns: list[dict[str, float]]) -> float:
    """Give the median of the turns' ratios: ours against parsing and writing."""
    return statistics.median(one["ingest"] / one["parse and write"] for one in turns)


def least(turns: list[dict[str, float]]) -> dict[str, float]:
    """Give the least of each figure: what other processes took of the machine is in the rest."""
    return {name: min(one[name] for one in turns) for name in turns[0]}


def growth(folder: Path, earlier: int, rng: np.random.Generator) -> dict[str, float]:
    """Give the mean and median CPU milliseconds of a small batch, in a young home and after many.

    In turns: over the minutes that many batches take, the machine itself changes by more.
    """
    young, old = Bench.at(folder / "young"), Bench.at(folder / "old")
    path = folder / "small.json"

    def one(bench: Bench) -> float:
        make_logins(path, SMALL_ROWS, 20, rng)
        return cpu_s(lambda: bench.ingest("many", path)) * 1e3

    for bench, count in ((old, earlier), (young, 1)):
        bench.tenant("many")
        for _ in range(count):
            one(bench)
    turns = [(one(young), one(old)) for _ in range(SERIES)]
    early, late = ([both[at] for both in turns] for at in (0, 1))
    return {
        "after 1": statistics.mean(early),
        f"after {earlier}": statistics.mean(late),
        "after 1, median": statistics.median(early),
        f"after {earlier}, median": statistics.median(late),
    }


def report(rows: int, sample: int, turns: int, earlier: int) -> dict[str, Any]:
    """Measure everything."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        bench = Bench.at(Path(name))
        check(bench, make_logins(Path(name) / "check.json", 20_000, 20, rng))
        usual = make_logins(Path(name) / "usual.json", rows, 20, rng)
        fresh = make_logins(Path(name) / "fresh.json", rows // 2, 1, rng)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        usual_turns = [turn(bench, f"usual-{at}", usual, rows, 0) for at in range(turns)]
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        fresh_turns = [turn(bench, f"fresh-{at}", fresh, rows // 2, 0) for at in range(turns)]
        # Both on one whole file: an append costs more with every append before it, so a part would flatter.
        same = turn(bench, "same", make_logins(Path(name) / "same.json", sample, 20, rng), sample, sample)
        small = growth(Path(name), earlier, rng)
        megabytes = usual.stat().st_size / 1e6
    ours, new = least(usual_turns), least(fresh_turns)
    ratios = {
        "ingest vs row-by-row": same["row by row"] / same["ingest"],
        "ingest CPU vs parse and write": against_plain(usual_turns),
        "all-new subjects CPU vs parse and write": against_plain(fresh_turns),
        "repeat vs first": ours["repeat"] / ours["ingest"],
        f"after {earlier} batches vs after 1": small[f"after {earlier}"] / small["after 1"],
    }
    return {
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "ns_per_row": {
            "20 events a subject": _rounded(ours),
            "all-new subjects": _rounded(new),
            "one smaller file": _rounded(same),
        },
        "ms_per_small_batch": _rounded(small),
        "peak_rss_mb": {"before": before, "after": after},
        "rows": rows,
        "file_mb": round(megabytes, 1),
        "sample": sample,
        "turns": turns,
        "checked": True,
    }


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 1) for name, figure in figures.items()}


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    print(f"CPU ns per row, least of {found['turns']} turns, {found['rows']:,} rows, {found['file_mb']} MB")
    for case, figures in found["ns_per_row"].items():
        print(f"{case:24}" + "".join(f"{name} {figure:,.0f}    " for name, figure in figures.items()))
    print(f"CPU ms per batch of {SMALL_ROWS} rows: {found['ms_per_small_batch']}")
    print(f"peak memory, MB: {found['peak_rss_mb']}")
    for name, ratio in found["ratios"].items():
        print(f"{name:42}{ratio:>8.3f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--rows", type=int, default=400_000, help="rows of the file")
    parser.add_argument(
        "--sample", type=int, default=40_000, help="rows of the file for the row-by-row pipeline"
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batches", type=int, default=1_000, help="earlier small batches")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    found = report(options.rows, options.sample, options.turns, max(options.batches, SERIES + 1))
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
