"""Shares as tables print them."""

from collections.abc import Mapping
from typing import Any

from purifyctl.metrics import format_share


def share(cell: Mapping[str, Any], name: str) -> str:
    """A figure of an evaluation's cell with its interval: `33.6 % [28.1, 39.6]`."""
    return format_share(cell[name], cell[f"{name}_interval"])
