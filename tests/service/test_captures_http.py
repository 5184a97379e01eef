"""Downloads over HTTP: exact lengths, ranges, tags, hours, aliases, and what the trail says of broken ones."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from transforms.ranges import UNSATISFIABLE, attachment, parse_range
from waiting import LONGEST_S, wait_for

PATH = "/v1/devices/router-7/capture?from=2026-11-21T07:00:00Z&to=2026-11-21T08:00:00Z"


@pytest.fixture(scope="module")
def asked(house: Any) -> Iterator[TestClient]:
    with house.client() as made:
        made.headers.update(house.issue("d-investigator"))
        yield made


def test_what_comes_out_is_what_came_in(asked: TestClient, house: Any):
    answer = asked.get(PATH)
    sent = house.files["default/router-7"]
    assert answer.content == sent
    assert int(answer.headers["content-length"]) == len(sent)
    assert answer.headers["content-type"] == "application/vnd.tcpdump.pcap"
    assert answer.headers["lockhouse-packets"] == "500"
    assert 'filename="router-7-20261121T070000Z.pcap"' in answer.headers["content-disposition"]


def test_pcapng_and_anonymised_files_have_their_exact_length(asked: TestClient):
    for more in ("&format=pcapng", "&anonymise=true", "&anonymise=true&format=pcapng"):
        answer = asked.get(PATH + more)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content)
        head = asked.head(PATH + more)
        assert head.headers["content-length"] == answer.headers["content-length"]
        assert head.headers["etag"] == answer.headers["etag"]
        assert head.content == b""


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_range_is_that_part_of_the_whole(asked: TestClient, house: Any, data: st.DataObject):
    whole = house.files["default/router-7"]
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first, len(whole) + 100))
    text = data.draw(
        st.sampled_from([f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{len(whole) - first}"])
    )
    answer = asked.get(PATH, headers={"Range": text})
    assert answer.status_code == 206
    end = min(last + 1, len(whole)) if text.endswith(f"-{last}") else len(whole)
    assert answer.content == whole[first:end]
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{len(whole)}"


def test_a_range_behind_the_end_and_one_of_another_version(asked: TestClient, house: Any):
    whole = house.files["default/router-7"]
    behind = asked.get(PATH, headers={"Range": f"bytes={len(whole)}-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    stale = asked.get(PATH, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (stale.status_code, stale.content) == (200, whole)
    several = asked.get(PATH, headers={"Range": "bytes=0-1,4-5"})
    assert (several.status_code, several.content) == (200, whole)


def test_what_has_not_changed_is_not_sent_again(asked: TestClient, house: Any):
    tag = asked.get(PATH).headers["etag"]
    assert not tag.startswith("W/")
    again = asked.get(PATH, headers={"If-None-Match": f'"x", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert json.loads(house.entries(principal="client:d-investigator")[-1].parameters)["bytes"] == 0
    for other in ("&format=pcapng", "&anonymise=true"):
        assert asked.get(PATH + other, headers={"If-None-Match": tag}).status_code == 200
    shorter = PATH.replace("08:00:00", "07:59:59")
    assert asked.get(shorter, headers={"If-None-Match": tag}).status_code == 200


def test_more_than_an_hour_is_refused_with_the_split(asked: TestClient):
    answer = asked.get(PATH.replace("T08:", "T09:"))
    assert answer.status_code == 422
    assert "2026-11-21T07:00:00Z to 2026-11-21T08:00:00Z" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "startTime=1795244400&stopTime=1795248000",
        "after=2026-11-21T07:00:00Z&before=2026-11-21T08:00:00Z",
        "from=2026-11-21T08:00:00%2B01:00&to=2026-11-21T09:00:00%2B01:00",
    ],
)
def test_times_go_by_the_names_that_others_use(asked: TestClient, house: Any, query: str):
    answer = asked.get(f"/v1/devices/router-7/capture?{query}")
    assert answer.content == house.files["default/router-7"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "from=secret-value&to=2026-11-21T08:00:00Z",
        "from=2026-11-21T07:00:00&to=2026-11-21T08:00:00Z",
        "from=2026-11-21T08:00:00Z&to=2026-11-21T07:00:00Z",
        "from=1e99&to=2",
        "from=99999999999999&to=2",
        "from=0001-01-01T00:00:00%2B23:00&to=2026-11-21T08:00:00Z",
    ],
)
def test_times_that_are_none_are_refused_without_being_repeated(asked: TestClient, query: str):
    for place in ("capture", "packets-per-minute"):
        answer = asked.get(f"/v1/devices/router-7/{place}?{query}")
        assert answer.status_code == 422
        assert "secret-value" not in answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_minutes_add_up(asked: TestClient, house: Any):
    found = asked.get(PATH.replace("/capture?", "/packets-per-minute?")).json()
    assert sum(found["packets_per_minute"].values()) == found["packets"] == 500
    assert set(found["bytes_per_minute"]) == set(found["packets_per_minute"])
    # A classic file is its header, and sixteen bytes and what was captured for each packet.
    assert sum(found["bytes_per_minute"].values()) == len(house.files["default/router-7"]) - 24 - 16 * 500


@given(st.text(max_size=40), st.integers(0, 1000))
def test_no_header_makes_a_range_beyond_the_file(header: str, size: int):
    span = parse_range(f"bytes={header}", size)
    if isinstance(span, tuple):
        assert 0 <= span[0] < span[1] <= size
    else:
        assert span is None or span is UNSATISFIABLE


@given(st.text(max_size=60))
def test_no_name_of_a_file_breaks_out_of_its_header(name: str):
    written = attachment(name)
    assert written.isascii()
    assert written.isprintable()
    assert written.count('"') == 2


@pytest.fixture(scope="module")
def port(house: Any) -> Iterator[int]:
    """The service on a real port."""
    config = uvicorn.Config(house.application(), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def test_a_download_that_is_broken_off_is_in_the_trail_with_what_was_sent(
    house: Any, port: int, monkeypatch: pytest.MonkeyPatch
):
    from stores.capture_exports import CaptureExports

    original, is_gone = CaptureExports.stream, threading.Event()

    def slow(self: Any, plan: Any, change: Any = None) -> Iterator[memoryview]:
        for part in original(self, plan, change):
            for at in range(0, len(part), 1000):
                yield part[at : at + 1000]
                if at >= 3000:
                    is_gone.wait(LONGEST_S)
                time.sleep(0.02)

    monkeypatch.setattr(CaptureExports, "stream", slow)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", PATH, headers=house.issue("granted"))
    answer = connection.getresponse()
    length = int(answer.headers["content-length"])
    try:
        answer.read(2000)
        # Durable before the first byte: the entry is there while the rest is still on its way.
        assert house.entries(principal="client:granted")[-1].outcome == "allowed"
        answer.close()
        connection.close()
    finally:
        is_gone.set()
    wait_for(lambda: house.entries(principal="client:granted")[-1].outcome != "allowed")
    last = house.entries(principal="client:granted")[-1]
    assert last.outcome == "failed"
    assert 0 < json.loads(last.parameters)["bytes"] < length
