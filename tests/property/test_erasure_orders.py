"""Deliveries, erasures and replays in any order: nothing of the erased, everything of anybody else."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.resources import Platform
from stores.contracts import load_contract
from stores.erasure_scan import SubjectMatcher
from stores.leaks import default_exclusions, scan_with
from stores.settings import Settings

CONTRACT = load_contract("logins")
PEOPLE = [f"5082b1ae-6523-4e3b-a1d8-9750b4407e{number:02x}" for number in range(4)]
EXAMPLES = int(os.environ.get("ERASURE_EXAMPLES", "4"))

WHO = st.integers(0, len(PEOPLE) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.lists(WHO, min_size=1, max_size=6)),
        st.tuples(st.just("erase"), st.lists(WHO, min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("replay"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
    ),
    min_size=2,
    max_size=6,
)


class Model:
    """A home, and beside it what it should hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = Platform(Settings(home=folder / "home"))
        self.platform.create_home("tester")
        self.sent: list[tuple[Path, list[int]]] = []
        self.rows: Counter[int] = Counter()
        self.gone: set[int] = set()

    def deliver(self, who: list[int]) -> None:
        path = self.folder / f"delivery-{len(self.sent)}"
        lines = [
            {
                "user_id": PEOPLE[one],
                "ip": "192.0.2.1",
                "device_id": f"{len(self.sent)}-{at}",
                "device_type": "ios",
                "app_version": "1.2",
            }
            for at, one in enumerate(who)
        ]
        path.write_text("".join(json.dumps(one) + "\n" for one in lines))
        self.sent.append((path, who))
        accepted, refused = self.take(path)
        kept = [one for one in who if one not in self.gone]
        assert (accepted, refused) == (len(kept), len(who) - len(kept))
        self.rows.update(kept)

    def take(self, path: Path) -> tuple[int, int]:
        platform = self.platform
        (batch,) = platform.landing.copy_in("logins", "default", [path])
        platform.intake.seal_batch(batch.id, CONTRACT)
        platform.intake.mask_batch(batch.id, CONTRACT)
        platform.intake.finish_batch(batch.id)
        counts = platform.ledger.counts([batch.id])
        assert counts.balances
        return counts.accepted, counts.refused

    def erase(self, who: list[int]) -> None:
        subjects = [self.platform.data_subjects("default").find(PEOPLE[one]) for one in who]
        digests = [f"digest {number}" for number in who]
        requests = self.platform.erasure_requests("default")
        self.platform.erasing("default").complete(requests.add(subjects, digests, "tester", "a test"))
        self.gone |= set(who)
        for one in who:
            self.rows.pop(one, None)

    def replay(self, number: int) -> None:
        """A file that came before changes nothing, whoever was erased since."""
        if self.sent:
            assert self.take(self.sent[number % len(self.sent)][0]) == (0, 0)

    def check(self) -> None:
        finder = self.platform.data_subjects("default")
        subjects = {number: finder.find(person) for number, person in enumerate(PEOPLE)}
        for key, column in (("raw.logins", "subject_ref"), ("masked.logins", "user_id_token")):
            if not self.platform.tables.exists("default", key):
                assert not self.rows
                continue
            with self.platform.tables.reading("default", key) as table:
                counts = dict(table.group_by(column).agg(pl.len()).collect().iter_rows())
            names = {one.ref: at for at, one in subjects.items()}
            names |= {one.tokens[0]: at for at, one in subjects.items()}
            assert {names[value]: count for value, count in counts.items()} == dict(self.rows)
        erased = [subjects[one] for one in sorted(self.gone)]
        if erased:
            home = self.platform.home
            report = scan_with(home.root, SubjectMatcher(erased), exclude=default_exclusions(home))
            assert (report.hits, report.unreadable) == ([], [])


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_any_order_leaves_exactly_what_should_be_left(steps: list[tuple[str, list[int]]]):
    with tempfile.TemporaryDirectory() as folder:
        model = Model(Path(folder))
        for kind, values in steps:
            if kind == "replay":
                model.replay(values[0])
            else:
                getattr(model, kind)(values)
        model.check()
