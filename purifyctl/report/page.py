"""An HTML page that needs nothing else: no script, no other file, no network."""

import base64
import io
import json
import time
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import purifyctl
from purifyctl.console import duration
from purifyctl.errors import ConfigError
from purifyctl.files import write_atomically
from purifyctl.metrics import Share, percent

SIDE = 512  # pixels of a picture at most: as large as a screen shows three beside each other


def write_page(file: Path, kind: str, folder: Path, **values: Any) -> None:
    """Write the page `kind`.html.j2, filled with `values`. The template escapes all of them, except plots.

    Parameters
    ----------
    kind
        What `folder` holds: "run", "training" ...

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    page = _environment().get_template(f"{kind}.html.j2")
    text = page.render(
        kind=kind,
        name=folder.absolute().name or str(folder),
        folder=str(folder.absolute()),
        made=time.time(),
        purifyctl=purifyctl.__version__,
        **values,
    )
    try:
        write_atomically(file, text.encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.", hint="check --out") from None


def data_uri(pixels: NDArray[np.uint8] | Image.Image, side: int = SIDE) -> str:
    """A picture (RGB uint8 [height, width, 3]) as it stands inside a page, at most `side` pixels wide and high."""
    small = pixels.convert("RGB") if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of name and value."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += flat(value, f"{prefix}{name}.")
        else:
            lines.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return lines


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("purifyctl", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": _visible,
        "percent": lambda value: percent(value).replace(" ", "\u00a0"),
        "interval": _interval,
        "moment": _moment,
        "duration": duration,
        "short": _short,
        "count": lambda n: f"{n:,}",
    }
    return environment


def _visible(text: Any) -> str:
    """The text with invisible characters, and those that reverse the text around them, written out: `\\u202e`."""
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c for c in str(text)
    )


def _interval(share: Share) -> str:
    """The 95 % interval: `78.9 to 90.2`."""
    return "-" if share.interval is None else "{:.1f} to {:.1f}".format(*(100 * end for end in share.interval))


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _short(value: float) -> str:
    """Two or three significant digits: `0.031`, `4.21`, `12.4`, `1,240`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"
