"""Damaged captures by the thousand: real and made files, changed at random, against the plain reader.

LOCKHOUSE_FUZZ=count says how many; a run tells its seed, and the same seed gives the same inputs.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from corpus import CORPUS, captures, is_plain_capture

FUZZ = int(os.environ.get("LOCKHOUSE_FUZZ", "2000"))
SEED = int(os.environ.get("LOCKHOUSE_FUZZ_SEED", "1"))
# Larger ones have nothing that smaller ones have not, and take the time of many.
LARGEST = 3000
HANG_S = 10
PACKERS = (lambda plain: gzip.compress(plain, 1), lambda plain: pa.Codec("zstd").compress(plain, asbytes=True))


def load(name: str):
    path = Path(__file__).resolve().parents[1] / "property" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_files(oracle, rng) -> list[bytes]:
    magics = (oracle.MICROSECONDS, oracle.NANOSECONDS, oracle.MODIFIED)
    versions = ((2, 4), (2, 3), (2, 2), (543, 0))
    classic = [
        oracle.make_pcap(rng, 12, style, 60, magic, mark, version)
        for style in oracle.STYLES
        for magic in magics
        for mark in "<>"
        for version in versions
    ]
    return classic + [
        oracle.make_pcapng(rng, 12, style, 60, odd) for style in oracle.STYLES for odd in (0, 0.3, 1)
    ]


def changed(oracle, rng, files: list[bytes], nth: int) -> bytes:
    content = files[int(rng.integers(len(files)))]
    if nth % 16 == 0:
        # The container is what is damaged: the plain reader knows none.
        content = PACKERS[nth // 16 % 2](content)
    return oracle.mutate(rng, content, 1 + int(rng.integers(5)))


def hang(*_: object) -> None:
    raise TimeoutError(f"no answer after {HANG_S} s")


def test_a_changed_capture_is_read_as_plainly(capsys, tmp_path):
    reading = load("test_capture_reading")
    rng = np.random.default_rng(SEED)
    small = [path for path in captures() if path.stat().st_size <= LARGEST and is_plain_capture(path)]
    real = [path.read_bytes() for path in small]
    if not real:
        pytest.fail(
            f"no captures in {CORPUS}: give CORPUS=folder, one with pcap or pcapng files", pytrace=False
        )
    files = real + made_files(reading.oracle, rng)
    signal.signal(signal.SIGALRM, hang)
    slowest, damaged = 0.0, 0
    for nth in range(FUZZ):
        content = changed(reading.oracle, rng, files, nth)
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        began = time.process_time()
        try:
            is_packed = reading.is_compressed(content)
            damaged += reading.read_ours(content)[1] is not None if is_packed else reading.agree(content)
        except BaseException:
            (tmp_path / f"input-{nth}.capture").write_bytes(content)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.process_time() - began)
    with capsys.disabled():
        told = f"{FUZZ} inputs from {len(files)} files, seed {SEED}: {damaged} damaged, slowest {slowest:.3f} s"
        sys.stdout.write(f"\n{told}\n")
