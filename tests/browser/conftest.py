"""Fixtures: a site, and a Chromium that visits it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.copies import Originals
from tests.programs import chromium

from . import site as sites
from .site import PASSWORD, Site

expect.set_options(timeout=20_000)  # the page is refreshed every five seconds


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def is_browser_test(item: pytest.Item) -> bool:
        return Path(__file__).parent in item.path.parents

    for item in filter(is_browser_test, items):
        item.add_marker(pytest.mark.services("chromium"))
    # First, so that one worker gets all of them and only one site is started.
    items.sort(key=lambda item: not is_browser_test(item))


# Only for this package: Playwright's event loop runs in the thread of the tests, where
# Django refuses queries meanwhile.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    program = chromium()
    assert program
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def site(programs: Path | None, originals: Originals) -> Iterator[Site]:
    """The site, with four streams in different states."""
    with sites.running(programs, originals.new()) as site:
        yield site


@dataclass
class Visit:
    """
    A user's visit to the site.

    Attributes:
        page: The page.
        context: The browser context with the user's session.
        complaints: The browser's errors and warnings, including policy violations.
    """

    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)


Visits = Callable[..., Visit]


@pytest.fixture(scope="package")
def cookies(browser: Browser, site: Site) -> Callable[[str], Any]:
    """Log in once for each user."""
    states: dict[str, Any] = {}

    def cookies(user: str) -> Any:
        if user not in states:
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(site.url)
                page.get_by_label("Username").fill(user)
                page.get_by_label("Password").fill(PASSWORD)
                page.get_by_role("button", name="Log in").click()
                page.wait_for_selector("text=Site administration")
                states[user] = context.storage_state()
        return states[user]

    return cookies


@pytest.fixture
def visit(browser: Browser, cookies: Callable[[str], Any]) -> Iterator[Visits]:
    """Open the browser as a user; fail if it logs errors or warnings."""
    visits: list[Visit] = []

    def visit(user: str = "admin", **options: Any) -> Visit:
        context = browser.new_context(storage_state=cookies(user), **options)
        context.set_default_timeout(20_000)
        # The site has no favicon.
        context.route(re.compile("favicon.ico$"), lambda route: route.fulfill())
        visit = Visit(context.new_page(), context)
        visit.page.on(
            "console",
            lambda message: (
                visit.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visits.append(visit)
        return visit

    yield visit
    for each in visits:
        each.context.close()
        assert each.complaints == []
