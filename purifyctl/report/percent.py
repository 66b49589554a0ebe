"""Shares as reports print them."""

from collections.abc import Mapping
from typing import Any

from purifyctl.metrics import format_share


def percent(value: float | None) -> str:
    """`33.6 %`; `-` where there is nothing to say."""
    return "-" if value is None else f"{100 * value:.1f} %"


def share(cell: Mapping[str, Any], name: str) -> str:
    """A figure of an evaluation's cell with its interval: `33.6 % [28.1, 39.6]`."""
    return format_share(cell[name], cell[f"{name}_interval"])
