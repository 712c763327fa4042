"""The architecture page says what import-linter checks."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def contract_layers() -> list[set[str]]:
    """Return the layers of the contract, the lowest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    [layers] = [each["layers"] for each in contracts if each["type"] == "layers"]
    return [set(layer.split(" : ")) for layer in reversed(layers)]


def diagram_layers() -> list[set[str]]:
    """Return the layers of the first diagram, the lowest first."""
    diagram = PAGE.split("```mermaid\n")[1].split("```")[0]
    labels = dict(re.findall(r'^ *(\w+)\["([^"]*)"\]$', diagram, re.MULTILINE))
    pairs: dict[str, str] = {}
    for line in diagram.splitlines():
        nodes = line.split(" --> ")
        pairs |= {below.strip(): above.strip() for below, above in pairwise(nodes)}
    [node] = pairs.keys() - pairs.values()
    chain = [node]
    while node := pairs.get(node, ""):
        chain.append(node)
    assert chain == list(labels)
    return [set(labels[each].split(", ")) for each in chain]


def test_diagram_shows_the_layers_of_the_import_contract() -> None:
    assert diagram_layers() == contract_layers()


def test_modules_that_the_page_names_exist() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)
    assert named
    for name in named:
        assert (ROOT / "walex_django" / name).exists(), name


def test_no_module_is_longer_than_400_lines() -> None:
    modules = (ROOT / "walex_django").rglob("*.py")
    long = [str(m) for m in modules if len(m.read_text().splitlines()) > 400]
    assert not long
