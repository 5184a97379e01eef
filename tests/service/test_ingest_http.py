"""Data in over HTTP: landed once, bounded, resumable; and what becomes of it."""

import gzip
import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from lockhouse.service import ingest as ingest_routes
from stores.contracts import load_contracts
from stores.kept_parts import KeptParts
from stores.landing import Landing
from stores.leaks import default_exclusions, scan
from stores.uploads import Uploads

EVENTS = b'{"user_id": "u-77", "ip": "192.0.2.77"}\n{"user_id": "u-78", "ip": "192.0.2.78"}\n'


@pytest.fixture(scope="module")
def asked(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        made.headers.update(house.issue("d-client"))
        yield made


def landed(house: Any, job: str) -> bytes:
    batch = house.platform.landing.batch(job)
    assert batch is not None
    [(_, path, _)] = batch.files()
    return bytes(path.read_bytes())


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, pa.Codec("zstd").compress], ids=["plain", "gzip", "zstd"]
)
def test_events_land_as_they_were_sent(asked: TestClient, house: Any, pack: Callable[[bytes], Any]):
    content = bytes(pack(EVENTS))
    answer = asked.post("/v1/events/logins", content=content)
    job = answer.json()["job"]
    assert (answer.status_code, answer.headers["location"]) == (200, f"/v1/jobs/{job}")
    assert landed(house, job) == content
    state = asked.get(f"/v1/jobs/{job}").json()
    assert (state["state"], state["done"], state["source"]) == ("landed", False, "logins")


BODIES = [
    EVENTS,
    b"[]",
    b"neither",
    b'[{"user_id": 7}, {"user_id": "u-1", ',
    gzip.compress(EVENTS + b'{"ip": "canary-192.0.2.99"}\n' + EVENTS),
    b'{"MessageId": "m-1", "Body": "{\\"user_id\\": \\"u-79\\"}"}\n{"MessageId": 7}\n',
]


@pytest.mark.parametrize("content", BODIES, ids=["lines", "empty", "text", "cut", "gzip", "messages"])
def test_what_is_said_of_each_record_is_what_becomes_of_it(asked: TestClient, house: Any, content: bytes):
    # With a good record each, so that both ways are taken.
    good = made_file(f"good-{len(content)}")[:2000].rpartition(b"\n")[0] + b"\n"
    body = good + content if content.startswith(b"{") and b"MessageId" not in content else content
    answer = asked.post("/v1/events/logins", content=body, headers=house.issue("a-client"))
    assert answer.status_code == 200, answer.text
    told, job = answer.json(), answer.json()["job"]
    assert "canary" not in answer.text
    assert [one["index"] for one in told["records"]] == sorted(one["index"] for one in told["records"])
    results = [one["result"] for one in told["records"]]
    assert (told["accepted"], told["quarantined"]) == (results.count("accepted"), results.count("quarantined"))
    contract = load_contracts()["logins"]
    house.platform.intake.seal_batch(job, contract)
    state = asked.get(f"/v1/jobs/{job}", headers=house.issue("a-client")).json()
    assert (state["rows"], state["quarantined"]) == (len(results), told["quarantined"])
    assert state["accepted"] + state["duplicates"] == told["accepted"]
    reasons = sorted(one["reason"] for one in told["records"] if one["result"] == "quarantined")
    assert reasons_kept(house.platform, job) == reasons


def reasons_kept(platform: Any, batch: str) -> list[str]:
    # Nothing was ever quarantined: there is no table yet.
    if not platform.tables.exists("acme", "quarantine.logins"):
        return []
    with platform.tables.reading("acme", "quarantine.logins") as table:
        return sorted(table.filter(batch_id=batch).collect()["reason"].to_list())


def test_a_body_of_many_records_is_judged_in_the_job(asked: TestClient):
    for content in (EVENTS * 501, b'{"note": "' + b"x" * 300_000 + b'"}\n'):
        answer = asked.post("/v1/events/logins", content=content)
        assert (answer.status_code, set(answer.json())) == (202, {"job"})


def test_a_job_is_its_tenants_alone(asked: TestClient, house: Any):
    job = asked.post("/v1/events/logins", content=EVENTS).json()["job"]
    for other in ("a-client", "a-operator"):
        assert asked.get(f"/v1/jobs/{job}", headers=house.issue(other)).status_code == 404


@pytest.mark.parametrize(
    "job", ["x", "..", "%2e%2e%2f%2e%2e", "a" * 500, "01a1fec0-df13-775c-9309-0840fda3ec81.part"]
)
def test_a_job_that_is_none(asked: TestClient, job: str):
    assert asked.get(f"/v1/jobs/{job}").status_code == 404


def test_the_same_key_gives_the_first_answer_and_another_body_is_refused(asked: TestClient, house: Any):
    key = {"Idempotency-Key": "k-1"}
    first = asked.post("/v1/events/logins", content=EVENTS, headers=key)
    before = len(house.platform.landing.open_batches())
    again = asked.post("/v1/events/logins", content=EVENTS, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(house.platform.landing.open_batches()) == before
    other = asked.post("/v1/events/logins", content=EVENTS + b"\n{}", headers=key)
    assert other.status_code == 422
    theirs = asked.post("/v1/events/logins", content=EVENTS, headers={**house.issue("d-operator"), **key})
    assert theirs.json() != first.json()


def test_devices_are_told_when_to_send(asked: TestClient, house: Any):
    promised = {"source": "logins", "sha256": "c" * 64, "parts": [{"sha256": "c" * 64, "bytes": 1}]}
    house.platform.upload_policies.change("acme", 60, True, None)
    policy = asked.post("/v1/uploads", json=promised, headers=house.issue("a-client")).json()["policy"]
    assert policy == {"interval_seconds": 60, "wifi_only": True, "charging_only": False}
    others = asked.post("/v1/uploads", json=promised).json()["policy"]
    assert others == {"interval_seconds": 900, "wifi_only": False, "charging_only": False}


def test_a_request_that_failed_may_come_again_under_its_key(asked: TestClient):
    key = {"Idempotency-Key": "k-2"}
    promised = {"source": "nothing", "sha256": "a" * 64, "parts": [{"sha256": "a" * 64, "bytes": 1}]}
    for _ in range(2):
        assert asked.post("/v1/uploads", json=promised, headers=key).status_code == 404


@pytest.mark.parametrize(("path", "status"), [("nothing", 404), ("captures", 404), ("..%2flogins", 404)])
def test_events_of_no_source_are_refused(asked: TestClient, path: str, status: int):
    assert asked.post(f"/v1/events/{path}", content=EVENTS).status_code == status


def test_an_empty_body_and_a_damaged_one_are_refused(asked: TestClient):
    assert asked.post("/v1/events/logins", content=b" \n").status_code == 422
    assert asked.post("/v1/events/logins", content=gzip.compress(EVENTS)[:-9]).status_code == 422


def test_what_is_too_large_is_refused_before_it_is_taken(
    asked: TestClient, house: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ingest_routes, "MOST_EVENT_BYTES", 1000)
    monkeypatch.setattr(ingest_routes, "MOST_FILE_BYTES", 1000)
    before = len(house.platform.landing.open_batches())

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    for content in (b"x" * 1001, endless()):
        assert asked.post("/v1/events/logins", content=content).status_code == 413
    for content in (b"x" * 1001, endless()):
        assert asked.put("/v1/files/logins/a.jsonl", content=content).status_code == 413
    assert len(house.platform.landing.open_batches()) == before
    assert not list((house.platform.home.landing / ".uploads").glob(".*"))


def test_a_bomb_is_told_by_what_it_expands_to(asked: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_routes, "MOST_PLAIN_BYTES", 1 << 20)
    monkeypatch.setattr(ingest_routes, "MOST_FILE_PLAIN_BYTES", 1 << 20)
    bombs = (gzip.compress(bytes(5 << 20)), bytes(pa.Codec("zstd").compress(bytes(5 << 20), asbytes=True)))
    for bomb in bombs:
        assert asked.post("/v1/events/logins", content=bomb).status_code == 413
        assert asked.put("/v1/files/logins/bomb.gz", content=bomb).status_code == 413


def test_a_small_file_lands_for_its_device(asked: TestClient, house: Any):
    sent = house.files["default/router-7"]
    job = asked.put("/v1/files/captures/hour.pcap?device=router-9", content=sent).json()["job"]
    batch = house.platform.landing.batch(job)
    assert (batch.devices, batch.names) == (("router-9",), ("hour.pcap",))
    assert landed(house, job) == sent
    assert asked.put("/v1/files/captures/a.pcap?device=../x", content=sent).status_code == 422
    assert asked.put("/v1/files/logins/a.pcap?device=router-9", content=sent).status_code == 422


@pytest.mark.parametrize(
    "name",
    ["%0d%0aSet-Cookie:%20a=b", "..", "%2e%2e%2fx", ".hidden", "a%00b", "a%2fb", "x" * 129, "a%0ab", "%22"],
)
def test_names_of_files_that_are_more_than_names_are_refused(asked: TestClient, name: str):
    answer = asked.put(f"/v1/files/logins/{name}", content=b"{}")
    assert answer.status_code in (404, 405, 422)
    assert "set-cookie" not in answer.headers


def promised(content: bytes, size: int = 1000, source: str = "logins") -> dict[str, Any]:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return {
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parts": [{"sha256": hashlib.sha256(one).hexdigest(), "bytes": len(one)} for one in parts],
    }


def made_file(seed: str) -> bytes:
    return "".join(f'{{"user_id": "{seed}-{at}", "ip": "192.0.2.{at % 250}"}}\n' for at in range(150)).encode()


def test_an_upload_goes_on_where_it_was_broken_off(asked: TestClient, house: Any):
    content = made_file("resumed")
    begun = asked.post("/v1/uploads", json=promised(content)).json()
    count = len(begun["missing"])
    assert begun["missing"] == list(range(count))
    assert begun["policy"] == {"interval_seconds": 900, "wifi_only": False, "charging_only": False}
    path = f"/v1/uploads/{begun['upload']}"
    packs = (bytes, gzip.compress, lambda part: bytes(pa.Codec("zstd").compress(part, asbytes=True)))
    for at in range(count - 1):
        part = content[1000 * at : 1000 * (at + 1)]
        answer = asked.put(f"{path}/parts/{at}", content=packs[at % 3](part))
        assert answer.status_code == 200, answer.text
    assert asked.post(f"{path}/complete").status_code == 409
    assert asked.get(path).json()["missing"] == [count - 1]
    # The same parts in another upload need not be sent again.
    assert asked.post("/v1/uploads", json=promised(content)).json()["missing"] == [count - 1]
    asked.put(f"{path}/parts/{count - 1}", content=content[1000 * (count - 1) :])
    job = asked.post(f"{path}/complete").json()["job"]
    assert landed(house, job) == content
    assert asked.post(f"{path}/complete").json()["job"] == job
    assert asked.get(path).json() == {**begun, "missing": [], "job": job}


def send(asked: TestClient, content: bytes, headers: dict[str, str] | None = None) -> tuple[str, int]:
    """Upload a file as a device does; give the job, and how many bytes had to be sent."""
    begun = asked.post("/v1/uploads", json=promised(content), headers=headers).json()
    path, sent = f"/v1/uploads/{begun['upload']}", 0
    for at in begun["missing"]:
        part = content[1000 * at : 1000 * (at + 1)]
        sent += len(part)
        assert asked.put(f"{path}/parts/{at}", content=part, headers=headers).status_code == 200
    return asked.post(f"{path}/complete", headers=headers).json()["job"], sent


def test_a_file_that_changed_little_is_sent_little(asked: TestClient, house: Any):
    dice = random.Random(7)  # noqa: S311 - content for a test
    monday = bytes(dice.randbytes(200_000))
    tuesday = monday[:50_000] + dice.randbytes(10_000) + monday[60_000:]
    job, sent = send(asked, monday)
    assert (landed(house, job), sent) == (monday, len(monday))
    job, sent = send(asked, tuesday)
    assert landed(house, job) == tuesday
    assert sent <= 0.1 * len(tuesday)
    home = house.platform.home
    assert scan(home.root, [monday[:40].hex()], exclude=default_exclusions(home)).hits == []
    for path in home.parts.rglob("*.sealed"):
        assert monday[:40] not in path.read_bytes()
    # What one has sent is nobody else's to be asked about.
    for other in ("d-operator", "a-client"):
        begun = asked.post("/v1/uploads", json=promised(monday), headers=house.issue(other)).json()
        assert len(begun["missing"]) == 200


def test_kept_parts_expire_and_an_erasure_takes_them(house: Any, tmp_path: Path):
    moment = datetime.now(UTC)
    platform = house.platform
    kept = KeptParts(platform.home, platform.intake.sealer("acme"), 2, lambda: moment)
    content = b"x" * 2_500_000
    file = tmp_path / "part"
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    kept.keep("client:x", digest, file)
    assert b"".join(kept.open("client:x", digest)) == content
    moment += timedelta(days=1, hours=23)
    assert kept.held("client:x", [digest]) == {digest}
    kept.renew("client:x", digest)
    moment += timedelta(days=1)
    assert kept.held("client:x", [digest]) == {digest}
    moment += timedelta(days=5)
    kept.renew("client:x", digest)
    assert kept.held("client:x", [digest]) == set()
    assert kept.expire() == 1
    kept.keep("client:x", digest, file)
    copy = next(one for one in platform.copies("acme") if one.name == "upload parts")
    assert copy.count([], {}) >= 1
    copy.erase([], {})
    assert copy.count([], {}) == 0
    none = KeptParts(platform.home, platform.intake.sealer("acme"), 0, lambda: moment)
    none.keep("client:x", digest, file)
    assert none.held("client:x", [digest]) == set()


def test_a_kept_part_that_was_altered_lands_nowhere(asked: TestClient, house: Any):
    content = made_file("altered")
    send(asked, content)
    begun = asked.post("/v1/uploads", json=promised(content)).json()
    assert begun["missing"] == []
    for path in house.platform.home.parts.rglob("*.sealed"):
        sealed = bytearray(path.read_bytes())
        sealed[40] ^= 1
        path.write_bytes(sealed)
    answer = asked.post(f"/v1/uploads/{begun['upload']}/complete")
    assert answer.status_code == 409
    assert asked.get(f"/v1/uploads/{begun['upload']}").json()["missing"] == [0]
    house.platform.kept_parts("default").clear()


def test_a_part_that_is_not_the_promised_one_does_not_count(asked: TestClient):
    content = made_file("wrong")
    begun = asked.post("/v1/uploads", json=promised(content)).json()
    path = f"/v1/uploads/{begun['upload']}/parts/0"
    for wrong in (b"x" * 1000, content[:999], b"", gzip.compress(b"x" * 1000)):
        assert asked.put(path, content=wrong).status_code == 409
    assert asked.put(path, content=gzip.compress(bytes(60 << 20))).status_code in (409, 422)
    assert asked.put(path, content=b"x" * 200_000).status_code == 413
    assert asked.get(path.removesuffix("/parts/0")).json()["missing"] == begun["missing"]
    assert asked.put(path.replace("/0", "/999"), content=b"x").status_code == 404


def test_parts_that_do_not_make_the_promised_file_do_not_land(asked: TestClient, house: Any):
    content = made_file("joined")
    lie = {**promised(content), "sha256": "b" * 64}
    begun = asked.post("/v1/uploads", json=lie).json()
    for at in begun["missing"]:
        asked.put(f"/v1/uploads/{begun['upload']}/parts/{at}", content=content[1000 * at : 1000 * (at + 1)])
    before = len(house.platform.landing.open_batches())
    assert asked.post(f"/v1/uploads/{begun['upload']}/complete").status_code == 409
    assert len(house.platform.landing.open_batches()) == before


def test_an_upload_is_whose_it_is(asked: TestClient, house: Any):
    begun = asked.post("/v1/uploads", json=promised(made_file("mine"))).json()
    for other in ("d-operator", "a-client"):
        headers = house.issue(other)
        path = f"/v1/uploads/{begun['upload']}"
        assert asked.get(path, headers=headers).status_code == 404
        assert asked.put(f"{path}/parts/0", content=b"x", headers=headers).status_code == 404
        assert asked.post(f"{path}/complete", headers=headers).status_code == 404


def test_more_than_the_quota_is_asked_to_wait(house: Any):
    with house.client(upload_quota_bytes=10) as client:
        answer = client.post("/v1/uploads", json=promised(made_file("quota")), headers=house.issue("d-client"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    with house.client(upload_limit_bytes=10) as client:
        answer = client.post("/v1/uploads", json=promised(made_file("quota")), headers=house.issue("d-client"))
    assert answer.status_code == 413


def test_a_crash_between_landing_and_writing_it_down_lands_nothing_twice(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What lands twice bears the same bytes, and intake counts those as duplicates; nothing is lost."""
    from stores.uploads import Part

    uploads: Uploads = house.platform.uploads("default")
    content = made_file("crashed")
    parts = [Part(hashlib.sha256(content).hexdigest(), len(content))]
    upload = uploads.begin("client:x", "logins", None, parts[0].sha256, parts)
    with uploads.receiving(upload, 0) as file:
        file.write(content)
    taken: list[str] = []
    original = Landing.take_in

    def crashing(self: Landing, *arguments: Any) -> Any:
        taken.append(original(self, *arguments).id)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Landing, "take_in", crashing)
        with pytest.raises(KeyboardInterrupt):
            uploads.complete(upload)
    second = uploads.complete(upload)
    assert [landed(house, one) for one in (*taken, second)] == [content, content]
    assert uploads.complete(upload) == second


def test_an_upload_that_nobody_went_on_with_is_removed(house: Any, monkeypatch: pytest.MonkeyPatch):
    from stores import uploads as module
    from stores.uploads import Part

    uploads: Uploads = house.platform.uploads("acme")
    content = b"abandoned"
    parts = [Part(hashlib.sha256(content).hexdigest(), len(content))]
    upload = uploads.begin("client:x", "logins", None, parts[0].sha256, parts)
    with uploads.receiving(upload, 0) as file:
        file.write(content)
    monkeypatch.setattr(module, "ABANDONED_AFTER_S", -1)
    assert uploads.sweep() >= 1
    folder = house.platform.home.landing / ".uploads" / "acme"
    assert not (folder / upload.id).exists()
    assert not (folder / "parts" / parts[0].sha256).exists()


def test_what_was_sent_is_in_the_tables_and_the_job_says_so(house: Any, asked: TestClient):
    answer = asked.post("/v1/events/logins", content=made_file("through"), headers=house.issue("a-client"))
    job = answer.json()["job"]
    contract = load_contracts()["logins"]
    house.platform.intake.seal_batch(job, contract)
    house.platform.intake.mask_batch(job, contract)
    assert asked.get(f"/v1/jobs/{job}", headers=house.issue("a-client")).json()["state"] == "masked"
    house.platform.intake.finish_batch(job)
    state = asked.get(f"/v1/jobs/{job}", headers=house.issue("a-client")).json()
    assert (state["state"], state["done"], state["rows"]) == ("done", True, 150)
    assert state["rows"] == sum(state[name] for name in ("accepted", "quarantined", "duplicates", "refused"))
