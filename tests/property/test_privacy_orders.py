"""Random contracts and records, and deliveries, erasures, replays and rotations in any order.

Whatever the order: no personal value is readable, nobody loses a row but the erased, who keep none, and
equal values of a domain join, over sources and epochs. `PRIVACY_EXAMPLES` tries more.
"""

import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.data_subjects import Subject
from stores.erasure_scan import SubjectMatcher
from stores.leaks import default_exclusions, scan, scan_with
from stores.settings import Settings
from transforms.pii.contracts import Contract
from transforms.pii.siv import HEAD_CHARACTERS, decrypt_column
from transforms.pii.synthetic import synthetic_value

EXAMPLES = int(os.environ.get("PRIVACY_EXAMPLES", "3"))
PEOPLE = [f"5082b1ae-6523-4e3b-a1d8-9750b4407e{number:02x}" for number in range(4)]
CATEGORIES = {
    "ip": "user.device.ip_address",
    "mac": "user.device.device_id",
    "email": "user.contact.email",
    "device": "user.device.device_id",
}

# What may be made of a field, by its format; a text without a format belongs to the domain of devices.
ONE = ["[token]", "[vault]", "[hash]", "[seal]", "[redact]", "[drop]", "[token, seal]", "[hash, redact]"]
OUTPUTS = {
    "ip": [*ONE, "[token, {truncate: net24}, {truncate: net48}]"],
    "mac": ONE,
    "email": [*ONE, "[token, {truncate: domain}]"],
    "device": ONE,
}
FIELDS = st.lists(
    st.sampled_from(sorted(OUTPUTS)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.sampled_from(OUTPUTS[kind]), st.booleans())
    ),
    min_size=1,
    max_size=4,
)
WHO = st.integers(0, len(PEOPLE) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.lists(WHO, min_size=1, max_size=6)),
        st.tuples(st.just("erase"), st.lists(WHO, min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("replay"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
        st.tuples(st.just("rotate"), st.lists(st.integers(0, 1), min_size=1, max_size=1)),
    ),
    min_size=2,
    max_size=6,
)


def write_contract(fields: list[tuple[str, str, bool]]) -> str:
    """A contract of the source `visits` with these fields behind the PII line."""
    people = "{category: user.unique_id, domain: user, subject: true, outputs: [token]}"
    properties = [declared("person", "{format: uuid}", True, people)]
    for number, (kind, outputs, is_required) in enumerate(fields):
        pii = f"{{category: {CATEGORIES[kind]}, domain: {kind}, outputs: {outputs}}}"
        options = "{maxLength: 128}" if kind == "device" else f"{{format: {kind}}}"
        properties.append(declared(f"{kind}_{number}", options, is_required, pii))
    head = """
apiVersion: v3.1.0
kind: DataContract
id: visits
name: Visits
version: 1.0.0
status: active
team: {name: privacy}
schema:
  - name: visits
    customProperties:
      - {property: subjectKey, value: person}
      - {property: unknownFields, value: seal}
    properties:
"""
    return head + "".join(properties)


def declared(name: str, options: str, is_required: bool, pii: str) -> str:
    return f"""      - name: {name}
        logicalType: string
        logicalTypeOptions: {options}
        required: {str(is_required).lower()}
        classification: restricted
        description: A field of the test.
        customProperties:
          - {{property: pii, value: {pii}}}
"""


class Model:
    """A home, and beside it what it should hold."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dice = folder, random.Random(11)  # noqa: S311 - data for tests
        self.platform = Platform(Settings(home=folder / "home"))
        self.platform.create_home("tester")
        self.contracts = {source: load_contract(source) for source in ("visits", "logins")}
        self.sent: list[tuple[str, Path]] = []
        self.values: set[str] = set()
        self.rows: Counter[int] = Counter()
        self.gone: set[int] = set()
        self.subjects: list[Subject] = []

    def deliver(self, who: list[int]) -> None:
        """The same people visit and log in, from the same addresses."""
        kept = [one for one in who if one not in self.gone]
        visits = [self.visit(one) for one in who]
        logins = [self.login(one, visit) for one, visit in zip(who, visits, strict=True)]
        for source, records in (("visits", visits), ("logins", logins)):
            path = self.folder / f"{source}-{len(self.sent)}"
            path.write_text("".join(json.dumps(one) + "\n" for one in records))
            self.sent.append((source, path))
            assert self.take(source, path) == (len(kept), len(who) - len(kept))
        self.rows.update(kept)

    def visit(self, who: int) -> dict[str, Any]:
        made = {one.name: synthetic_value(one, self.dice) for one in self.contracts["visits"].fields}
        record = {name: value for name, value in made.items() if value is not None}
        record |= {"person": PEOPLE[who], "note": f"undeclared {self.dice.getrandbits(64):016x}"}
        self.values |= {str(value) for value in record.values()}
        return record

    def login(self, who: int, visit: dict[str, Any]) -> dict[str, Any]:
        seen = {name.partition("_")[0]: value for name, value in visit.items()}
        device = seen.get("device", f"only-{self.dice.getrandbits(64):016x}")
        self.values.add(str(device))
        return {
            "user_id": PEOPLE[who],
            "ip": seen.get("ip", "192.0.2.1"),
            "device_id": device,
            "device_type": "ios",
            "app_version": "1.2",
        }

    def take(self, source: str, path: Path) -> tuple[int, int]:
        platform, contract = self.platform, self.contracts[source]
        (batch,) = platform.landing.copy_in(source, "default", [path])
        platform.intake.seal_batch(batch.id, contract)
        platform.intake.mask_batch(batch.id, contract)
        platform.intake.finish_batch(batch.id)
        counts = platform.ledger.counts([batch.id])
        assert counts.balances
        return counts.accepted, counts.refused

    def erase(self, who: list[int]) -> None:
        subjects = [self.find(one) for one in who]
        digests = [f"digest {number}" for number in who]
        requests = self.platform.erasure_requests("default")
        self.platform.erasing("default").complete(requests.add(subjects, digests, "tester", "a test"))
        # With the tokens that they had at the time, whatever epoch comes.
        self.subjects += subjects
        self.gone |= set(who)
        for one in who:
            self.rows.pop(one, None)

    def replay(self, numbers: list[int]) -> None:
        """A file that came before changes nothing, whoever was erased since."""
        if self.sent:
            assert self.take(*self.sent[numbers[0] % len(self.sent)]) == (0, 0)

    def rotate(self, at_once: list[int]) -> None:
        rotation = self.platform.rotation("default")
        rotation.begin()
        rotation.renew_keys()
        for key in rotation.table_keys():
            rotation.map_tokens(key)
        rotation.map_cells()
        rotation.renew_cells()
        for key in rotation.table_keys():
            rotation.renew_table(key)
        rotation.finish()
        if at_once[0]:
            rotation.retire(at_once=True)

    def find(self, who: int) -> Subject:
        return self.platform.data_subjects("default").find(PEOPLE[who])

    def table(self, key: str) -> pl.DataFrame:
        if not self.platform.tables.exists("default", key):
            return pl.DataFrame()
        with self.platform.tables.reading("default", key) as table:
            return table.collect()

    def check(self) -> None:
        self.check_rows()
        self.check_joins()
        self.check_nothing_is_readable()

    def check_rows(self) -> None:
        named = {self.find(number).ref: number for number in range(len(PEOPLE))}
        for source, person in (("visits", "person"), ("logins", "user_id")):
            raw, masked = self.table(f"raw.{source}"), self.table(f"masked.{source}")
            refs = raw["subject_ref"].to_list() if raw.height else []
            assert Counter(named[ref] for ref in refs) == self.rows
            tokens = masked[f"{person}_token"] if masked.height else pl.Series([], dtype=pl.String)
            keys = self.platform.keys("default").live_token_keys("user")
            ids = decrypt_column(tokens, keys).to_list()
            assert Counter(PEOPLE.index(one) for one in ids) == self.rows

    def check_joins(self) -> None:
        """One value of a domain has one joinable token, in every table and column."""
        for domain in ("ip", "mac", "email", "device"):
            heads: dict[str, set[str]] = {}
            for tokens in self.tokens_of(domain):
                opened = decrypt_column(tokens, self.platform.keys("default").live_token_keys(domain))
                for value, token in zip(opened, tokens, strict=True):
                    heads.setdefault(value, set()).add(token[:HEAD_CHARACTERS])
            assert {value for value, found in heads.items() if len(found) > 1} == set()

    def tokens_of(self, domain: str) -> Iterator[pl.Series]:
        """The whole tokens of a domain: those of the vault are joined by their head alone."""
        for source, contract in self.contracts.items():
            masked = self.table(f"masked.{source}")
            for one in contract.fields:
                is_token = any(output.strategy == "token" for output in one.outputs)
                if masked.height and one.domain == domain and is_token:
                    yield masked[f"{one.name}_token"].drop_nulls()

    def check_nothing_is_readable(self) -> None:
        home = self.platform.home
        for report in (
            scan(home.root, sorted(self.values) or ["nothing"], exclude=default_exclusions(home)),
            scan_with(home.root, SubjectMatcher(self.subjects), exclude=default_exclusions(home)),
        ):
            assert (report.hits, report.unreadable) == ([], [])


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(FIELDS, STEPS)
def test_any_order_leaves_exactly_what_should_be_left(
    contracts_beside: Callable[..., AbstractContextManager[Path]],
    fields: list[tuple[str, str, bool]],
    steps: list[tuple[str, list[int]]],
):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contracts_beside(folder / "contracts", visits=write_contract(fields)):
            model = Model(folder)
            assert isinstance(model.contracts["visits"], Contract)
            for kind, values in steps:
                getattr(model, kind)(values)
            model.check()
