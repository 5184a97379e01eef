"""What one masked value costs, against the ways people mask today: one process, CPU time, in turns.

Peers: `AESSIV` of `cryptography` in a loop, Tink's DeterministicAead in a loop (both with base64url,
so that the result is the same text), Presidio's `Encrypt` (random, so nothing joins), and DuckDB's
hexadecimal SHA-256 of the same column on one thread (nothing comes back). Loops run on a sample.
Every figure is of a result that was checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import tink
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from presidio_anonymizer.operators import Encrypt
from tink import daead, secret_key_access

from transforms.pii.siv import SivKey, decrypt_column, encrypt_column, has_live_key

KEY = SivKey(bytes(range(64)), b"\x01\x02\x03\x04", (b"acme|ip|1",))
LOOP_PEERS = ("AESSIV loop", "Tink", "Presidio")


def ipv4_column(rows: int, rng: np.random.Generator) -> pl.Series:
    """Make addresses, nearly all distinct."""
    parts = rng.integers(0, 256, (rows, 4)).tolist()
    return pl.Series("ip", [".".join(map(str, part)) for part in parts])


def mac_column(rows: int, rng: np.random.Generator) -> pl.Series:
    """Make hardware addresses with colons, all distinct."""
    return pl.Series("mac", [part.tobytes().hex(":") for part in rng.integers(0, 256, (rows, 6), np.uint8)])


def email_column(rows: int, rng: np.random.Generator) -> pl.Series:
    """Make addresses of 30 bytes, all distinct."""
    parts = rng.integers(0, 1 << 24, (rows, 2)).tolist()
    return pl.Series("email", [f"{name:06x}.{family:06x}@mail.example.com" for name, family in parts])


def aessiv_loop(values: Sequence[str]) -> list[str]:
    """Make the same tokens value by value."""
    siv, associated, prefix = AESSIV(KEY.key), list(KEY.associated), KEY.prefix
    encode = base64.urlsafe_b64encode
    return [encode(prefix + siv.encrypt(v.encode(), associated)).decode().rstrip("=") for v in values]


def tink_primitive() -> Any:  # noqa: ANN401 - Tink ships no types
    """Give Tink the same key."""
    daead.register()
    number = int.from_bytes(KEY.key_id, "big")
    entry = {
        "keyData": {
            "typeUrl": "type.googleapis.com/google.crypto.tink.AesSivKey",
            "value": base64.b64encode(b"\x12\x40" + KEY.key).decode(),
            "keyMaterialType": "SYMMETRIC",
        },
        "status": "ENABLED",
        "keyId": number,
        "outputPrefixType": "TINK",
    }
    keyset = json.dumps({"primaryKeyId": number, "key": [entry]})
    return tink.json_proto_keyset_format.parse(keyset, secret_key_access.TOKEN).primitive(
        daead.DeterministicAead
    )


def tink_loop(primitive: Any, values: Sequence[str]) -> list[str]:  # noqa: ANN401
    """Make the same tokens with Google's library."""
    encrypt, encode = primitive.encrypt_deterministically, base64.urlsafe_b64encode
    return [encode(encrypt(v.encode(), KEY.associated[0])).decode().rstrip("=") for v in values]


def presidio_loop(operator: Encrypt, values: Sequence[str]) -> list[str]:
    """Encrypt with Presidio's operator."""
    parameters = {"key": KEY.key[:32]}
    return [operator.operate(value, parameters) for value in values]


def duckdb_sha256(connection: duckdb.DuckDBPyConnection, values: pl.DataFrame) -> pl.Series:
    """Hash the column to hexadecimal text."""
    return connection.sql("select sha256(value) as digest from values").pl()["digest"]


def cpu_ns(calls: dict[str, tuple[Callable[[], Any], int]], turns: int) -> dict[str, list[float]]:
    """Run every call once a turn, so that a slow spell of the machine meets all of them alike.

    Units: CPU nanoseconds of this process for one value.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, (call, rows) in calls.items():
            start = time.process_time_ns()
            call()
            taken[name].append((time.process_time_ns() - start) / rows)
    return taken


def check(values: pl.Series, sample: list[str], primitive: Any, digests: pl.Series) -> None:  # noqa: ANN401
    """Raise unless every peer and we computed what we say."""
    tokens = encrypt_column(values, KEY)
    ours = tokens[: len(sample)].to_list()
    assert ours == aessiv_loop(sample) == tink_loop(primitive, sample)
    opened = [primitive.decrypt_deterministically(_raw(token), KEY.associated[0]) for token in ours]
    assert opened == [value.encode() for value in sample]
    assert decrypt_column(tokens, {KEY.key_id: KEY}).equals(values)
    assert has_live_key(tokens, [KEY.key_id]).all()
    assert digests[: len(sample)].to_list() == [hashlib.sha256(v.encode()).hexdigest() for v in sample]


def _raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def measure(values: pl.Series, sample_rows: int, turns: int) -> dict[str, list[float]]:
    """Time every way to mask one column, and the way back."""
    sample, few = values[:sample_rows].to_list(), values[: sample_rows // 10].to_list()
    primitive, operator = tink_primitive(), Encrypt()
    connection = duckdb.connect(config={"threads": 1})
    frame, tokens, keys = pl.DataFrame({"value": values}), encrypt_column(values, KEY), {KEY.key_id: KEY}
    check(values, sample, primitive, duckdb_sha256(connection, frame))
    rows = len(values)
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "masking": (lambda: encrypt_column(values, KEY), rows),
        "masking, binary": (lambda: encrypt_column(values, KEY, text=False), rows),
        "masking, join form": (lambda: encrypt_column(values, KEY, keep_ciphertext=False), rows),
        "unmasking": (lambda: decrypt_column(tokens, keys), rows),
        "guard": (lambda: has_live_key(tokens, [KEY.key_id]), rows),
        "DuckDB sha256": (lambda: duckdb_sha256(connection, frame), rows),
        "AESSIV loop": (lambda: aessiv_loop(sample), len(sample)),
        "Tink": (lambda: tink_loop(primitive, sample), len(sample)),
        "Presidio": (lambda: presidio_loop(operator, few), len(few)),
    }
    return cpu_ns(calls, turns)


def report(rows: int, sample_rows: int, turns: int) -> dict[str, Any]:
    """Measure every column; the ratios are of medians."""
    rng = np.random.default_rng(20_240_229)
    ratios: dict[str, float] = {}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for make in (ipv4_column, mac_column, email_column):
        column = make(rows, rng)
        taken = measure(column, sample_rows, turns)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        figures[column.name] = {
            name: {"min": round(min(times), 1), "median": round(medians[name], 1)}
            for name, times in taken.items()
        }
        # The address, the most frequent of them, stands for the whole; the others say so.
        suffix = "" if column.name == "ip" else f" ({column.name})"
        for peer in (*LOOP_PEERS, "DuckDB sha256"):
            ratios[f"masking vs {peer}{suffix}"] = round(medians[peer] / medians["masking"], 2)
    return {"ratios": ratios, "ns_per_value": figures, "rows": rows, "turns": turns, "checked": True}


def print_table(found: dict[str, Any]) -> None:
    """Print what a person reads."""
    columns = list(found["ns_per_value"])
    print(f"CPU ns per value, min / median of {found['turns']} turns, {found['rows']:,} rows")
    print(f"{'':22}" + "".join(f"{column:>20}" for column in columns))
    for name in found["ns_per_value"][columns[0]]:
        cells = [found["ns_per_value"][column][name] for column in columns]
        print(f"{name:22}" + "".join(f"{cell['min']:>11.1f} /{cell['median']:>7.1f}" for cell in cells))
    for name, ratio in found["ratios"].items():
        print(f"{name:40}{ratio:>8.1f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--rows", type=int, default=1_000_000, help="values in a column")
    parser.add_argument("--sample", type=int, default=50_000, help="values for a loop")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    found = report(options.rows, options.sample, options.turns)
    print(json.dumps(found)) if options.json else print_table(found)


if __name__ == "__main__":
    main()
