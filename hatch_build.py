"""Puts the manual pages into wheels. Each build makes them from the command line, so they are never out of date."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from tools.manual import write_pages

        pages = write_pages(Path(self.root) / "build" / "man")
        build_data["shared_data"] |= {str(page): f"share/man/man1/{page.name}" for page in pages}
