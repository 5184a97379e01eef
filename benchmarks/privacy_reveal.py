"""Revealing a column at once, against value by value: tokens, vault cells, and the keys of the subjects.

Every cell of the vault is another person's. Loops run on a sample and are scaled; what both ways give is
compared. The unwrapping of subject keys is CPU time, held against its bound of half a second a million.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from orchestration.resources import Platform
from stores.keys import TenantKeys
from stores.settings import Settings
from stores.subjects import KEY_BYTES, SubjectKeys
from stores.tables import Commit
from stores.vault import Vault
from transforms.pii.ciphers import siv_decrypt
from transforms.pii.contracts import compile_contract
from transforms.pii.envelope import Place, open_sealed
from transforms.pii.identities import subject_referrer, subject_refs
from transforms.pii.siv import HEAD_BYTES, SivKey, decrypt_column, encrypt_column
from transforms.tables import VAULT_CELLS

TEXT = """
apiVersion: v3.1.0
kind: DataContract
id: people
version: 1.0.0
status: active
schema:
  - name: people
    customProperties: [{property: subjectKey, value: person}]
    properties:
      - {name: person, logicalType: string, required: true, description: A person., customProperties: [
          {property: pii, value: {category: user.unique_id, domain: user, subject: true, strategy: token}}]}
      - {name: email, logicalType: string, description: An address., customProperties: [
          {property: pii, value: {category: user.contact.email, domain: email, strategy: vault}}]}
"""


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Give the CPU time of some work, and what it gave."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def open_each_token(tokens: list[str], key: SivKey) -> list[str]:
    """Open tokens one by one."""
    import base64

    opened = []
    for token in tokens:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        opened.append(siv_decrypt(key.key, raw[5:], *key.associated).decode())
    assert HEAD_BYTES == 21
    return opened


def open_each_cell(cells: pl.DataFrame, subjects: SubjectKeys, tenant: str) -> list[str]:
    """Open cells one by one, each with a look-up of its subject's key."""
    place = Place(tenant, VAULT_CELLS.key, "cell/email")
    opened = []
    for row in cells.iter_rows(named=True):
        bound = place.of(row["token"].encode() + row["subject_ref"])
        opened.append(open_sealed(row["cell"], subjects.key(row["subject_ref"]), bound).decode())
    return opened


def fill_vault(platform: Platform, rows: int) -> tuple[Vault, pl.DataFrame]:
    """Keep an address for each of many people."""
    vault, keys = platform.intake.vault("default"), platform.keys("default")
    people = pl.Series("person", [f"person-{number}" for number in range(rows)])
    refs = subject_refs(people, subject_referrer(keys.identity_key("subject"), "user"))
    records = pl.DataFrame(
        {"person": people, "email": "mail." + people + "@example.org", "subject_ref": refs}
    ).with_columns(received_at=pl.lit(datetime(2026, 3, 2, tzinfo=UTC)))
    subject_keys = platform.subject_keys("default").keys_for(refs.to_list())
    vault.keep(compile_contract("people.yaml", TEXT), records, subject_keys, Commit("bench", 1, {}))
    return vault, records


def unwrap_keys(keys: TenantKeys, rows: int) -> float:
    """Unwrap and verify many subject keys; give the CPU time."""
    random = [secrets.token_bytes(16 + KEY_BYTES) for _ in range(rows)]
    plain = pl.Series(random, dtype=pl.Binary)
    wrapped = encrypt_column(plain, keys.wrapping_key(), text=False)
    refs = plain.bin.slice(0, 16)
    taken, opened = seconds_of(lambda: SubjectKeys(Path(), keys).unwrap_keys(refs, wrapped))
    assert opened.equals(plain.bin.slice(16))
    return taken


def report(rows: int, sample: int) -> dict[str, Any]:
    """Measure, check, and put the figures together."""
    with tempfile.TemporaryDirectory(prefix="lockhouse-bench-") as name:
        platform = Platform(Settings(home=Path(name) / "home"))
        platform.create_home("bench")
        vault, records = fill_vault(platform, rows)
        keys = platform.keys("default")
        tokens = encrypt_column(records["email"], keys.token_key("email"), keep_ciphertext=False)
        people = encrypt_column(records["person"], keys.token_key("user"), keep_ciphertext=False)
        cells_s, opened = seconds_of(lambda: vault.open("email", tokens, people))
        assert opened.to_list() == records["email"].to_list()
        with platform.tables.reading("default", VAULT_CELLS.key) as table:
            some = table.head(sample).collect()
        subjects = platform.subject_keys("default")
        each_s, values = seconds_of(lambda: open_each_cell(some, subjects, "default"))
        assert set(values) <= set(records["email"])
        whole = encrypt_column(records["email"], keys.token_key("email"))
        live = keys.live_token_keys("email")
        tokens_s, opened = seconds_of(lambda: decrypt_column(whole, live))
        assert opened.equals(records["email"])
        some_tokens = whole.head(sample).to_list()
        loop_s, values = seconds_of(lambda: open_each_token(some_tokens, keys.token_key("email")))
        assert values == records["email"].head(len(values)).to_list()
        unwrapped_s = unwrap_keys(keys, rows)
    per_cell, per_token = each_s / some.height, loop_s / len(some_tokens)
    million = unwrapped_s * 1_000_000 / rows
    return {
        "ratios": {
            "reveal of vault cells vs cell by cell": round(per_cell / (cells_s / rows), 1),
            "reveal of tokens vs token by token": round(per_token / (tokens_s / rows), 1),
            "unwrapping a million keys vs half a second": round(0.5 / million, 2),
        },
        "rows": rows,
        "seconds": {
            "vault cells": round(cells_s, 3),
            "tokens": round(tokens_s, 3),
            "a million keys unwrapped": round(million, 3),
        },
        "checked": True,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--rows", type=int, default=100_000, help="cells, each of another person")
    parser.add_argument("--sample", type=int, default=1_000, help="values for a loop")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    found = report(options.rows, options.sample)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.rows:,} values; CPU seconds: {found['seconds']}")
    for name, ratio in found["ratios"].items():
        print(f"{name:48}{ratio:>8.1f} x")


if __name__ == "__main__":
    main()
