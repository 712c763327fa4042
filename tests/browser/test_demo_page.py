"""The demo's page of streams, as a new user sees it."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, expect

from tests.process import Process

from .test_streams import card


def test_demo_shows_its_stream(browser: Browser, programs: Path | None) -> None:
    # The user that runs the server cannot access pytest's directory.
    with TemporaryDirectory(prefix="walex-demo-") as directory:
        Path(directory).chmod(0o755)
        env = {
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "TMPDIR": directory,
        }
        with Process("demo", "--pause=0", "--port=0", env=env) as demo:
            url = demo.wait_for("  Streams ").split()[1]
            (password,) = re.findall(r"password (\S+)\)", demo.wait_for("password"))
            page = browser.new_page()
            page.goto(url)
            page.get_by_label("Username").fill("demo")
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Log in").click()

            stream = card(page, "default")
            expect(stream.locator("header")).to_contain_text("running")
            expect(stream).to_contain_text("shop_walex")
            expect(stream.get_by_role("list", name="Problems")).to_have_count(0)
            page.close()
            demo.signal(signal.SIGINT)
            assert demo.wait() == 0, demo.output
