"""The console in a real browser: log in, search, review, edit a policy, try a text; both themes, phone and desk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
expect = sync_api.expect
"""Waits until what it says holds: a click does not wait for the page that it leads to."""

PATIENCE = 300_000
"""Milliseconds."""

SHOTS = os.environ.get("CORRAL_SCREENSHOTS")
"""Folder for screenshots of every page, to be looked at."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=PATIENCE)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server_in: Any, listening: Any) -> Iterator[tuple[str, str]]:
    import httpx2

    folder: Path = tmp_path_factory.mktemp("browser")
    server = server_in(folder, policies={"default": "id: everybody\ncontent: full\n"})
    _, secret = server.keys.create("ann", scopes=["admin", "moderate"])
    with listening(server) as url:
        texts = ["How do I bake the bread?", "a TRIGGER", "Wie backe ich das Brot?", "another TRIGGER"]
        headers = {"Authorization": f"Bearer {secret}"}
        answer = httpx2.post(f"{url}/v1/moderations", json={"input": texts}, headers=headers, timeout=300)
        answer.raise_for_status()
        yield url, secret


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def logged_in(browser: Any, site: tuple[str, str], problems: list[str], **context: Any) -> Any:
    url, secret = site
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(f"{url}/console")
    page.get_by_label("API key").fill(secret)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    return page


def test_a_person_works_through_the_console(browser: Any, site: tuple[str, str]) -> None:
    problems: list[str] = []
    page = logged_in(browser, site, problems)
    problems.clear()  # the login page itself is answered 401
    expect(page.locator("svg")).to_have_count(6)

    page.get_by_role("link", name="Decisions").click()
    page.get_by_label("Action").select_option("block")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(2)

    page.get_by_role("link", name="Review").click()
    expect(page.locator("article pre")).to_have_text(["another TRIGGER", "a TRIGGER"])
    page.get_by_label("Note").first.fill("as expected")
    page.get_by_role("button", name="harmful").first.click()
    expect(page.locator("article")).to_have_count(1)

    page.get_by_role("link", name="Policies").click()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("YAML").fill("id: changed\nprompt: {threshold: 7}\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("threshold")
    page.get_by_label("YAML").fill("id: changed\ncontent: full\nprompt: {action: flag}\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("In force")

    page.get_by_role("link", name="Playground").click()
    page.get_by_label("Prompt").fill("a TRIGGER")
    page.get_by_role("button", name="Judge").click()
    expect(page.get_by_label("Result")).to_contain_text("flag")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("API key").wait_for()
    assert [problem for problem in problems if "401" not in problem and "400" not in problem] == []


def test_the_keyboard_is_enough(browser: Any, site: tuple[str, str]) -> None:
    page = logged_in(browser, site, [])
    page.goto(f"{site[0]}/console/playground")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("hello")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Result").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_its_width(browser: Any, site: tuple[str, str], theme: str, width: int) -> None:
    viewport = {"width": width, "height": 800}
    page = logged_in(browser, site, [], color_scheme=theme, viewport=viewport)
    for path in ("", "/decisions", "/review", "/policies", "/policies/default", "/playground"):
        page.goto(f"{site[0]}/console{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        shoot(page, f"{theme}-{width}{path.replace('/', '-') or '-overview'}")
    page.goto(f"{site[0]}/console/decisions")
    page.locator("tbody a").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shoot(page, f"{theme}-{width}-decision")
