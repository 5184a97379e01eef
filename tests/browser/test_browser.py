"""The pages in a real browser: sign in, look, download, find it in the trail; and no barrier found by axe."""

import json
import os
import re
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from lockhouse.service.application import make_application
from orchestration.resources import Platform
from stores.contracts import load_contracts
from stores.settings import load_settings
from stores.verification import verify_certificate
from transforms.access import Role
from transforms.capture.packets import Packets
from transforms.capture.reading import read_capture
from transforms.capture.synthetic import synthetic_capture

PASSWORD = "correct horse battery"  # noqa: S105
PAGES = (
    "captures?device=router-7&hour=2026-11-21T07:00",
    "captures?device=nothing&hour=2026-11-21T07:00",
    "captures",
    "audit",
    "audit?every=true",
    "subjects",
    "access?device=router-7",
    "ingest",
    "health",
)
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Platform, bytes]]:
    platform = Platform(load_settings(tmp_path_factory.mktemp("browser") / "home"))
    platform.create_home("root")
    content = synthetic_capture(7, 2000, datetime.fromisoformat("2026-11-21T08:00:00+00:00"))
    for batch in platform.landing.land("captures", "default", "hour.pcap", content, "router-7"):
        platform.captures.seal_batch(batch.id)
        platform.captures.mask_batch(batch.id)
        platform.captures.finish_batch(batch.id)
    lines = "".join(
        json.dumps(
            {
                "user_id": f"5082b1ae-6523-4e3b-a1d8-9750b4407e{at:02d}",
                "app_version": "2.3.0",
                "device_type": "ios",
                "ip": f"192.0.2.{at}",
                "locale": "FR",
                "device_id": f"593-47-59{at}",
            }
        )
        + "\n"
        for at in (10, 11, 10)
    )
    contract = load_contracts()["logins"]
    for batch in platform.landing.land("logins", "default", "a.jsonl", lines.encode() + b'{"foo": 1}\n'):
        platform.intake.seal_batch(batch.id, contract)
        platform.intake.mask_batch(batch.id, contract)
        platform.intake.finish_batch(batch.id)
    platform.users.add("olga", PASSWORD)
    platform.access.assign("olga", Role.OPERATOR)
    server = uvicorn.Server(
        uvicorn.Config(make_application(platform), port=0, log_level="error", access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", platform, content
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield launched
        launched.close()


def signed_in(browser: Browser, address: str, **options: Any) -> Page:
    page = browser.new_page(**options)
    page.goto(f"{address}/captures")
    page.get_by_label("Name").fill("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/captures")
    return page


def test_an_hour_is_found_seen_downloaded_and_in_the_trail(
    browser: Browser, served: tuple[str, Platform, bytes], tmp_path: Path
):
    address, _, content = served
    page = signed_in(browser, address)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: said.append(one.text))
    page.get_by_label("Device").fill("router-7")
    page.get_by_label("Hour that begins").fill("2026-11-21T07:00")
    page.get_by_role("button", name="Show").click()
    plot = page.get_by_role("img", name=re.compile("Packets per minute"))
    box = plot.bounding_box()
    assert box is not None
    assert box["height"] > 50
    assert plot.locator("rect").count() == 60
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download pcap").click()
    path = tmp_path / begun.value.suggested_filename
    begun.value.save_as(path)
    assert path.name == "router-7-20261121T070000Z.pcap"
    assert path.read_bytes() == content
    assert sum(len(one) for one in read_capture_parts(path)) == 2000
    page.get_by_role("link", name="Audit").click()
    page.wait_for_url("**/audit")
    assert page.get_by_text("captures:packets:exported").count() >= 2
    assert all(one.startswith(address) for one in asked), "a file came from elsewhere"
    assert said == [], "the browser complained"


def test_a_download_opens_in_wireshark(browser: Browser, served: tuple[str, Platform, bytes], tmp_path: Path):
    page = signed_in(browser, served[0])
    page.goto(f"{served[0]}/captures?device=router-7&hour=2026-11-21T07:00")
    counts = []
    for name in ("Download pcap", "Download anonymised pcap"):
        with page.expect_download() as begun:
            page.get_by_role("link", name=name, exact=True).click()
        path = tmp_path / f"{len(counts)}.pcap"
        begun.value.save_as(path)
        read = subprocess.run(
            ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.number"],
            check=True,
            capture_output=True,
            text=True,
        )
        counts.append(len(read.stdout.splitlines()))
    assert counts == [2000, 2000]


def test_somebody_is_erased_and_the_trail_says_so(
    browser: Browser, served: tuple[str, Platform, bytes], tmp_path: Path
):
    address, platform, _ = served
    person = "5082b1ae-6523-4e3b-a1d8-9750b4407e10"
    page = signed_in(browser, address)
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text))
    page.get_by_role("link", name="Subjects").click()
    page.get_by_label("A person's id").fill(person)
    page.get_by_label("A person's id").press("Enter")
    held = page.get_by_role("group", name="What is held, by table")
    assert (
        held.get_by_role("row").filter(has_text="masked.logins").get_by_role("cell").first.inner_text() == "2"
    )
    look_at(page, "subjects-found")
    page.get_by_role("button", name="Make the package").click()
    page.wait_for_url("**/subjects#requests")
    reload_until(page, "ready")
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download the package").click()
    begun.value.save_as(tmp_path / "package.zip")
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        assert json.loads(package.read("subject.json"))["subject"]["id"] == person
    page.get_by_label("A person's id").fill(person)
    page.get_by_role("button", name="Find").click()
    page.get_by_label("I am sure").check()
    page.get_by_role("button", name="Erase", exact=True).click()
    page.wait_for_url("**/subjects#requests")
    reload_until(page, "certified")
    look_at(page, "subjects-erased")
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download the certificate").click()
    begun.value.save_as(tmp_path / "certificate.json")
    assert verify_certificate(platform.home, tmp_path / "certificate.json", None).ok
    page.get_by_role("link", name="Audit").click()
    page.wait_for_url("**/audit")
    seen = page.content()
    while "subjects:erasure:requested" not in seen:
        page.get_by_role("link", name="Older entries").click()
        page.wait_for_url("**/audit?before=*")
        seen += page.content()
    assert "subjects:certificate:read" in seen
    assert person not in seen
    assert person not in page.url
    assert said == [], "the browser complained"


def reload_until(page: Page, text: str) -> None:
    deadline = time.monotonic() + 120
    while not page.get_by_text(text, exact=True).count():
        assert time.monotonic() < deadline, page.content()
        time.sleep(2)
        page.reload()


def look_at(page: Page, name: str) -> None:
    """Look for barriers in both lights and widths, where a page holds what a form has brought."""
    folder = os.environ.get("SCREENSHOTS")
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 900})
            found = Axe().run(page).response
            assert found["violations"] == [], (name, json.dumps(found["violations"])[:2000])
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
                f"{name} scrolls sideways"
            )
            if folder:
                page.screenshot(path=f"{folder}/{name}-{scheme}-{width}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})


def read_capture_parts(path: Path) -> list[Packets]:
    return [one for one in read_capture(path.read_bytes()) if isinstance(one, Packets)]


def test_it_goes_by_keyboard_alone(browser: Browser, served: tuple[str, Platform, bytes]):
    page = browser.new_page()
    page.goto(f"{served[0]}/sign-in")
    page.wait_for_function("document.activeElement.id === 'name'")
    page.keyboard.type("olga")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/captures")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_has_a_barrier_in_any_light_on_any_width(
    browser: Browser, served: tuple[str, Platform, bytes], scheme: Any, width: int
):
    page = signed_in(browser, served[0], color_scheme=scheme, viewport={"width": width, "height": 900})
    folder = os.environ.get("SCREENSHOTS")
    for name in PAGES:
        page.goto(f"{served[0]}/{name}")
        found = Axe().run(page).response
        assert found["violations"] == [], (name, json.dumps(found["violations"])[:2000])
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{name} scrolls sideways"
        )
        if folder:
            shown = re.sub(r"\W+", "-", name)[:24]
            page.screenshot(path=f"{folder}/{shown}-{scheme}-{width}.png", full_page=True)
    page.context.clear_cookies()
    page.goto(f"{served[0]}/sign-in")
    assert Axe().run(page).response["violations"] == []
    if folder:
        page.screenshot(path=f"{folder}/sign-in-{scheme}-{width}.png", full_page=True)
