"""The actions on the page of streams."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.process import eventually

from .conftest import Visits
from .site import Site
from .test_streams import card


def message(page: Page, text: str) -> None:
    """Wait for the message that the page shows after an action."""
    expect(page.locator(".messagelist")).to_contain_text(text)


def test_pause_and_resume(site: Site, visit: Visits) -> None:
    page = visit().page
    page.goto(site.streams)
    stream = card(page, "default")
    stream.get_by_role("link", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pause stream")
    page.get_by_role("button", name="Yes, pause it").click()

    message(page, "Pausing the stream “default” after the current transaction")
    eventually(lambda: site.state() == "paused", "the pause")
    site.execute("INSERT INTO zoo_keeper (name) VALUES ('unheard')")
    # The page refreshes itself.
    expect(stream.locator("header")).to_contain_text("paused")
    assert site.lag() > 0

    stream.get_by_role("link", name="Resume").click()
    page.get_by_role("button", name="Yes, resume it").click()
    message(page, "Resuming the stream “default”")
    eventually(lambda: site.state() == "running", "the resumption")
    eventually(lambda: site.lag() == 0, "the delivery")
    page.reload()
    expect(stream.locator("header")).to_contain_text("running")
    assert site.logged()[-2:] == [("default", "Paused."), ("default", "Resumed.")]


def test_orphaned_slot_can_be_dropped(site: Site, visit: Visits) -> None:
    page = visit().page
    page.goto(site.streams)
    row = page.get_by_role("row", name="left_behind")
    row.get_by_role("link", name="Drop").click()
    expect(page.locator("#content")).to_contain_text("This cannot be undone.")
    page.get_by_role("link", name="No, take me back").click()
    assert "left_behind" in site.slots()

    row.get_by_role("link", name="Drop").click()
    page.get_by_role("button", name="Yes, drop it").click()
    message(page, "The slot “left_behind” was dropped.")
    assert "left_behind" not in site.slots()
    expect(row).to_have_count(0)
    assert site.logged()[-1] == ("left_behind", "Dropped the slot.")
    site.make_orphan()


def test_slot_of_a_stopped_stream_can_be_dropped(site: Site, visit: Visits) -> None:
    page = visit().page
    page.goto(site.streams)
    stream = card(page, "second")
    stream.get_by_role("link", name="Drop slot").click()
    expect(page.locator("#content")).to_contain_text(
        "The stream “second” reads from it."
    )
    page.get_by_role("button", name="Yes, drop it").click()
    # The browser requires the reason.
    expect(page.get_by_label("Reason")).to_be_focused()
    assert "second_walex" in site.slots()

    page.get_by_label("Reason").fill("The second zoo has closed.")
    page.get_by_role("button", name="Yes, drop it").click()
    message(page, "The slot “second_walex” was dropped.")
    assert "second_walex" not in site.slots()
    expect(stream.locator("header")).to_contain_text("no slot")
    assert site.logged()[-1] == (
        "second_walex",
        "Dropped the slot. Used by: second. The second zoo has closed.",
    )
    # The command that the page has shown.
    site.run("walex_setup", "--stream=second")
    page.reload()
    expect(stream.locator("header")).to_contain_text("stopped")


def test_stream_can_be_paused_while_its_server_is_unreachable(
    site: Site, visit: Visits
) -> None:
    page = visit().page
    page.goto(site.streams)
    card(page, "away").get_by_role("link", name="Pause").click()
    page.get_by_role("button", name="Yes, pause it").click()

    message(page, "Its listener applies the change when it reconnects")
    expect(page.locator(".messagelist")).not_to_contain_text("s3cret")
    expect(card(page, "away")).to_contain_text("Pausing after the current")
    setting = "SELECT value FROM walex_django_streamsetting WHERE stream = 'away'"
    assert site.execute(setting) == [(True,)]
    assert site.logged()[-1] == ("away", "Paused.")
    site.execute("DELETE FROM walex_django_streamsetting WHERE stream = 'away'")
