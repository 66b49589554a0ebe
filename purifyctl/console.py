"""What the commands say. No other module of purifyctl prints; only help and usage errors come from typer.

People read a terminal: notes, tables and progress go to stderr, results to stdout. With `--json`, stdout carries one
JSON document, and events are JSON lines on stderr. Where stderr is not a terminal, progress is a plain line now and
then.

A name or a text from a stranger may stand in every line and in every cell. So each is made `visible` here, line ends
included: what has several lines is given as several texts. What libraries print comes here, too.
"""

import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import TextWrapper
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from purifyctl import streams
from purifyctl.columns import LONG, fitting
from purifyctl.visible import visible

_STYLES = {"ok": "green", "missing": "yellow", "failed": "bold red"}  # of table cells with exactly this text


@dataclass
class _Settings:
    json: bool = False
    quiet: bool = False
    verbose: bool = False


_settings = _Settings()
_console: Console | None = None


def configure(*, json: bool = False, quiet: bool = False, verbose: bool = False, relay: bool = True) -> None:
    """Set what this process prints. The command line calls it once.

    What libraries print from native code is shown only under `verbose`. Decoders print about each damaged file, in the
    middle of tables and JSON lines, and the row of each failed input gives the reason anyway.

    Parameters
    ----------
    relay
        False: another process prints what native code prints here.
    """
    global _settings
    _settings = _Settings(json=json, quiet=quiet, verbose=verbose)
    stdout, stderr = _beneath(sys.stdout), _beneath(sys.stderr)
    if relay or not verbose:
        stderr = streams.take_native(_say if verbose else None)
    sys.stdout, sys.stderr = (streams.Lines(Console(file=stream), stream, _from_library) for stream in (stdout, stderr))


def _beneath(stream: TextIO) -> TextIO:
    """The stream that `configure` found, and that this module alone writes to."""
    return stream.beneath if isinstance(stream, streams.Lines) else stream


def _from_library(line: str) -> None:
    if _settings.json:
        event("output", text=line)
    else:
        _say(line)


def is_verbose() -> bool:
    return _settings.verbose


def hush() -> None:
    """From now on print only warnings and errors, because another process prints the same."""
    _settings.quiet = True
    _settings.json = False


def stderr() -> Console:
    """The one console of stderr: what it prints while a bar is shown comes above the bar, and never through it."""
    global _console
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a bar puts a proxy in place of stderr
    if _console is None or _console.file is not stream:
        _console = Console(file=stream, highlight=False)
    return _console


def _say(*lines: str, style: str = "") -> None:
    stderr().print(_wrapped(lines, stderr()), style=style, markup=False, soft_wrap=True)


def _wrapped(lines: Sequence[str], where: Console) -> str:
    """On a terminal, lines end between words. Paths and next steps ("-> command") stay whole, to be copied."""
    wrapped = []
    for line in map(visible, lines):
        indent = line[: len(line) - len(line.lstrip())]
        fits = not where.is_terminal or len(line) <= where.width or line.lstrip().startswith("->")
        wrapper = TextWrapper(where.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        wrapped += [line] if fits else wrapper.wrap(line)
    return "\n".join(wrapped)


def shows_bars() -> bool:
    """Whether a bar can move: on a terminal, if people read it."""
    return not (_settings.json or _settings.quiet) and stderr().is_terminal and not stderr().is_dumb_terminal


def stdout_is_terminal() -> bool:
    return _beneath(sys.stdout).isatty()


def line(text: str) -> None:
    """How far the work is, for people who read a log. Programs get events."""
    if not (_settings.json or _settings.quiet):
        _say(text)


def event(name: str, **fields: Any) -> None:
    """An event for programs: a JSON line on stderr under `--json`. Otherwise nothing is printed."""
    if _settings.json:
        line = json.dumps({"event": name, "time": time.time(), **fields})
        print(line, file=_beneath(sys.stderr), flush=True)


def note(*lines: str) -> None:
    """Something worth knowing. Not printed under `--quiet`."""
    if _settings.json:
        event("note", text="\n".join(lines))
    elif not _settings.quiet:
        _say(*lines)


@functools.cache
def note_once(text: str) -> None:
    """`note`, but the same words only once in a process."""
    note(text)


def detail(text: str) -> None:
    """Something that few users want to know: printed only under `--verbose`."""
    if _settings.verbose:
        note(text)


def warn(first: str, *lines: str) -> None:
    """Something that needs attention. Printed even under `--quiet`."""
    if _settings.json:
        event("warning", text="\n".join([first, *lines]))
    else:
        _say(f"warning: {first}", *lines, style="yellow")


@functools.cache
def warn_once(text: str) -> None:
    """`warn`, but the same words only once in a process."""
    warn(text)


def error(text: str, hint: str = "") -> None:
    """Why the command stops, and the next step."""
    lines = [text, *([f"  -> {hint}"] if hint else [])]
    if _settings.json:
        event("error", text="\n".join(lines))
    else:
        _say(f"error: {lines[0]}", *lines[1:], style="bold red")


def trace(text: str) -> None:
    """A traceback. Each of its lines is printed alone."""
    for line in text.rstrip().split("\n"):
        _from_library(line)


def raw(text: str) -> None:
    """Text on stdout, under every option: a version, a recipe. It is unchanged, except on a terminal."""
    if stdout_is_terminal():
        text = "".join(visible(line.expandtabs(4)) + "\n" for line in text.splitlines())
    print(text, end="", file=_beneath(sys.stdout), flush=True)


def result(data: Mapping[str, Any]) -> None:
    """The command's result for programs: one JSON document on stdout, only under `--json`."""
    if _settings.json:
        print(json.dumps(data, indent=2), file=_beneath(sys.stdout), flush=True)


def answer(*lines: str) -> None:
    """What people want to know at the end, on stdout."""
    if not (_settings.json or _settings.quiet):
        stdout = Console(file=_beneath(sys.stdout), highlight=False)
        stdout.print(_wrapped(lines, stdout), markup=False, soft_wrap=True)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True, keys: int = 1
) -> None:
    """A table for people, on stdout. The first column is left-aligned.

    A table of figures that is wider than the terminal is cut between columns, so that no word and no figure is broken.

    Parameters
    ----------
    right
        The other columns hold figures, and are right-aligned. False: they hold texts, and long ones take several lines.
    keys
        How many columns say what a row is about. Each piece of a table that is cut begins with them.
    """
    shown = [[visible(cell) for cell in row] for row in (columns, *rows)]
    if not right:
        out = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in shown[0]:
            out.add_column(Text(column), overflow="fold")
        for row in shown[1:]:
            out.add_row(*map(Text, row))
        _show(title, out)
        return
    for headings, *lines in fitting(shown, keys, Console(file=_beneath(sys.stdout)).width):
        out = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        for i, heading in enumerate(headings):
            is_short = all(cell_len(line[i]) <= LONG for line in lines)
            out.add_column(Text(heading), justify="right" if i else "left", no_wrap=is_short, overflow="fold")
        for line in lines:
            out.add_row(*map(Text, line))
        _show(title, out, "")
        title = ""


def sections(columns: Sequence[str], rows: Sequence[tuple[*tuple[str, ...], Sequence[str]]]) -> None:
    """A table of texts for people, on stdout.

    The last cell of a row is given as lines. A row whose first cell is not empty begins a section. Cells that say "ok",
    "missing" or "failed" are coloured.
    """
    out = Table()
    for column in columns:
        out.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        if row[0]:
            out.add_section()
        *cells, lines = row
        out.add_row(*(_cell(cell, _STYLES.get(cell, "")) for cell in cells), Text("\n").join(map(_cell, lines)))
    _show("", out)


def facts(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Named facts for people, on stdout: one per line. A long fact continues below its own column."""
    grid = Table.grid(padding=(0, 2))
    for name, text in rows:
        grid.add_row(_cell(name, "bold"), Text(visible(text), overflow="fold"))
    _show(title, grid)


def _cell(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)  # Text: square brackets in a cell are not markup


def _show(title: str, *what: Table | str) -> None:
    if _settings.json or _settings.quiet:
        return
    stdout = Console(file=_beneath(sys.stdout), highlight=False)
    if title:
        stdout.print(visible(title), style="bold", markup=False)
    for each in what:
        stdout.print(each)


def duration(seconds: float) -> str:
    """A duration in at most two units: `1 h 20 min`."""
    parts: list[str] = []
    left = round(seconds) if seconds >= 10 else round(seconds, 1)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            whole = left if unit == "s" else int(left // size)
            parts.append(f"{whole:g} {unit}")
            left -= whole * size
        elif parts:
            break
    return " ".join(parts[:2])
