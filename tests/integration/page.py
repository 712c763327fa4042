"""The examples of docs/from-walex.md, and the project that they belong to."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from tests.process import ROOT

PAGE = (ROOT / "docs/from-walex.md").read_text()
EXAMPLES = dict(
    re.findall(r"<!-- example: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
)


class Project:
    """
    The page's project: the app ``todos`` and its tables.

    Args:
        root: The project's directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str) -> str:
        """Write an example to the file that it names; return the module's name."""
        first, _, _ = EXAMPLES[name].partition("\n")
        file = self.root / first.removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(EXAMPLES[name])
        importlib.invalidate_caches()
        return ".".join(file.relative_to(self.root).with_suffix("").parts)

    def run(self, name: str) -> dict[str, Any]:
        """Run an example on its own; return the names that it defines."""
        defined: dict[str, Any] = {}
        exec(EXAMPLES[name], defined)  # noqa: S102
        return defined
