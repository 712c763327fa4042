"""The examples of docs/from-walex.md, and the project that they are of."""

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
    The project of the page: the app ``todos``, with its tables.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str) -> str:
        """Write an example into the file that it names; return its dotted name."""
        first, _, _ = EXAMPLES[name].partition("\n")
        file = self.root / first.removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(EXAMPLES[name])
        importlib.invalidate_caches()
        return ".".join(file.relative_to(self.root).with_suffix("").parts)

    def run(self, name: str) -> dict[str, Any]:
        """Run an example by itself; return what it defines."""
        defined: dict[str, Any] = {}
        exec(EXAMPLES[name], defined)  # noqa: S102
        return defined
