"""Rules for imports between the packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "walex_django"


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, by their absolute names."""
    names = set()
    package = ["walex_django", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize(
    ("package", "packages"),
    [
        ("pgoutput", ["pgoutput"]),
        ("replication", ["pgoutput", "replication"]),
    ],
)
def test_pgoutput_and_replication_do_not_import_django(
    package: str, packages: list[str]
) -> None:
    allowed = tuple(f"walex_django.{name}" for name in packages)
    for path in (PACKAGE / package).glob("*.py"):
        for name in imported(path):
            assert not name.startswith("django"), (path.name, name)
            if name.startswith("walex_django."):
                assert name.startswith(allowed), (path.name, name)


def test_only_commands_import_the_helpers_of_commands() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "management" not in path.parts:
            assert not any(
                "management" in name for name in imported(path) if "walex" in name
            )
