"""The documentation is complete, and its links and examples are valid."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from walex_django.conf import parsers, reader
from walex_django.signals import ALL

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
EVENTS = (ROOT / "docs/events.md").read_text()
COMMANDS = (ROOT / "docs/commands.md").read_text()
CHECKS = (ROOT / "docs/checks.md").read_text()


def test_each_setting_is_documented() -> None:
    documented = re.findall(r"^\| `([A-Z_]+)` \|", SETTINGS, re.MULTILINE)

    assert sorted(documented) == sorted(parsers.KEYS)


def test_each_check_is_documented() -> None:
    documented = re.findall(r"^\| `walex_django\.([EWI]\d+)`", CHECKS, re.MULTILINE)
    sources = "".join(path.read_text() for path in ROOT.glob("walex_django/**/*.py"))

    assert sorted(documented) == sorted(set(re.findall(r'"([EWI]\d{3})"', sources)))


def test_each_signal_is_documented() -> None:
    for signal in ALL:
        assert f"`{signal.name}`" in EVENTS


@pytest.mark.parametrize(
    "name", [name for name, app in get_commands().items() if app == "walex_django"]
)
def test_each_option_of_a_command_is_documented(name: str) -> None:
    section = COMMANDS.partition(f"## `{name}`")[2].partition("\n## ")[0]
    assert section
    parser = load_command_class("walex_django", name).create_parser("manage.py", name)
    of_django = load_command_class("django.core", "check").create_parser("m", "check")
    common = {"--stream", *of_django._option_string_actions, "--skip-checks"}
    for action in parser._actions:
        if action.option_strings and not common & set(action.option_strings):
            assert f"`{action.option_strings[0]}" in section, action.option_strings


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_existing_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_links_to_sections_match_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!https:)([^)#]*)#([^)]*)\)", page.read_text())
    for target, anchor in links:
        text = (page.parent / target if target else page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = [
            re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings
        ]
        assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("page", [README, EVENTS, SETTINGS])
def test_python_in_the_documentation_is_valid(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        ast.parse(block)


def test_settings_in_the_readme_are_valid() -> None:
    (block,) = re.findall(r"```python\n# settings.py\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, object] = {}
    exec(block, namespace)  # noqa: S102 - it is our own

    configs, problems = reader.read(namespace["WALEX"])
    assert problems == []
    assert configs["default"].slot_name == "shop_walex"
