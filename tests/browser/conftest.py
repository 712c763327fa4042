"""A site, and a Chromium that looks at it."""

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
    def is_here(item: pytest.Item) -> bool:
        return Path(__file__).parent in item.path.parents

    for item in filter(is_here, items):
        item.add_marker(pytest.mark.services("chromium"))
    # One worker gets all of them when they come first, and starts one site.
    items.sort(key=lambda item: not is_here(item))


# As long as this package only: Playwright's event loop runs in the thread of the tests,
# and there Django takes no queries meanwhile.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
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
    """The site, with four streams that fare differently."""
    with sites.running(programs, originals.new()) as site:
        yield site


@dataclass
class Visit:
    """
    Somebody's look at the site.

    Attributes:
        page: what is seen.
        complaints: of the browser: errors, and what the policy has kept it from.
    """

    page: Page
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)


Visits = Callable[..., Visit]


@pytest.fixture(scope="package")
def cookies(browser: Browser, site: Site) -> Callable[[str], Any]:
    """Log in, once for each user."""
    kept: dict[str, Any] = {}

    def cookies(user: str) -> Any:
        if user not in kept:
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(site.url)
                page.get_by_label("Username").fill(user)
                page.get_by_label("Password").fill(PASSWORD)
                page.get_by_role("button", name="Log in").click()
                page.wait_for_selector("text=Site administration")
                kept[user] = context.storage_state()
        return kept[user]

    return cookies


@pytest.fixture
def visit(browser: Browser, cookies: Callable[[str], Any]) -> Iterator[Visits]:
    """Open a browser window as some user; nothing there may be complained of."""
    visits: list[Visit] = []

    def visit(user: str = "admin", **options: Any) -> Visit:
        context = browser.new_context(storage_state=cookies(user), **options)
        context.set_default_timeout(20_000)
        # Of the site's own accord there is none.
        context.route(re.compile("favicon.ico$"), lambda route: route.fulfill())
        visit = Visit(context.new_page(), context)
        visit.page.on(
            "console",
            lambda said: (
                visit.complaints.append(said.text)
                if said.type in {"error", "warning"}
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
