"""The page of streams in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Visits
from .site import Site

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
PHONE: Any = {"width": 390, "height": 844}
DESKTOP: Any = {"width": 1280, "height": 900}

Scheme = Literal["light", "dark"]


def card(page: Page, name: str) -> Locator:
    """Return a stream's part of the page."""
    return page.get_by_role("region", name=name, exact=True)


@pytest.fixture(scope="module", autouse=True)
def traffic(site: Site) -> Iterator[None]:
    """Deliver events continuously."""
    with site.traffic():
        yield


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_shows_four_streams(
    site: Site, visit: Visits, scheme: Scheme, size: Any, tmp_path: Path
) -> None:
    page = visit(color_scheme=scheme, viewport=size).page
    page.goto(site.streams)

    expect(page.get_by_role("heading", level=1)).to_have_text("Streams")
    expect(card(page, "default")).to_contain_text("running")
    expect(card(page, "second")).to_contain_text("stopped")
    expect(card(page, "lost")).to_contain_text("slot lost")
    expect(card(page, "lost")).to_contain_text(
        "python manage.py walex_setup --recreate-slot"
    )
    expect(card(page, "away")).to_contain_text("server unreachable")
    expect(card(page, "away")).to_contain_text("Check that the server is running")
    expect(page.get_by_text("s3cret")).to_have_count(0)
    expect(page.get_by_role("row", name="left_behind")).to_contain_text("orphaned")
    expect(page.get_by_role("img", name="Lag of default")).to_be_visible()
    expect(page.get_by_role("img", name="Events per second of default")).to_be_visible()
    page.screenshot(path=tmp_path / f"{scheme}-{size['width']}.png", full_page=True)

    assert page.locator("#content").evaluate(CONTRAST) == []
    # The page fits the width of the window.
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_page_shows_a_notice_while_it_cannot_refresh(site: Site, visit: Visits) -> None:
    visitor = visit()
    page = visitor.page
    page.clock.install()
    page.goto(site.streams)
    visitor.context.set_offline(True)
    page.clock.fast_forward(6000)
    notice = page.get_by_role("status")
    expect(notice).to_contain_text("Not refreshed since")

    visitor.context.set_offline(False)
    page.clock.fast_forward(6000)
    expect(notice).to_be_hidden()
    assert all("ERR_INTERNET_DISCONNECTED" in text for text in visitor.complaints)
    visitor.complaints.clear()


def test_page_stops_refreshing_after_logout(site: Site, visit: Visits) -> None:
    visitor = visit()
    page = visitor.page
    page.clock.install()
    page.goto(site.streams)
    visitor.context.clear_cookies()
    page.clock.fast_forward(6000)

    expect(page.get_by_role("status")).to_contain_text("You are logged out")
    expect(card(page, "default")).to_be_visible()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.clock.fast_forward(60_000)
    page.evaluate("1")
    assert requests == []


def test_view_permission_shows_no_actions(site: Site, visit: Visits) -> None:
    page = visit("viewer").page
    page.goto(site.url)
    page.get_by_role("link", name="Streams").first.click()

    expect(card(page, "second")).to_contain_text("stopped")
    content = page.locator("#content")
    expect(content.get_by_role("link", name="Pause")).to_have_count(0)
    expect(content.get_by_role("link", name="Drop")).to_have_count(0)
    assert content.locator("form, button").count() == 0


def test_staff_without_permission_is_refused(site: Site, visit: Visits) -> None:
    visitor = visit("clerk")
    page = visitor.page
    page.goto(site.url)
    expect(page.get_by_role("link", name="Streams")).to_have_count(0)

    for path in ("", "default/pause/", "second/drop/second_walex/"):
        response = page.goto(f"{site.streams}{path}")
        assert response
        assert response.status == 403
    assert all("403" in text for text in visitor.complaints)
    visitor.complaints.clear()


def test_page_refreshes_itself_and_keeps_its_state(site: Site, visit: Visits) -> None:
    page = visit().page
    page.goto(site.streams)
    stream = card(page, "default")
    events = stream.get_by_role("cell").nth(2)
    before = events.inner_text()
    page.evaluate("window.same = true")
    tables = stream.locator("details").first
    tables.locator("summary").click()
    expect(tables).to_have_attribute("open", "")
    stream.get_by_role("link", name="Pause").focus()

    # Listeners report every ten seconds.
    expect(events).not_to_have_text(before)
    rate = stream.locator("dl").first.locator("dd").nth(1)
    expect(rate).to_have_text(re.compile(r"^[1-9].*/s$"))
    expect(stream).to_contain_text("Last delivered event")
    plot = stream.get_by_role("img", name="Events per second of default")
    expect(plot.locator(".walex-area")).to_have_count(1)
    # The page was not reloaded and keeps its state.
    assert page.evaluate("window.same")
    expect(tables).to_have_attribute("open", "")
    expect(stream.get_by_role("link", name="Pause")).to_be_focused()
