"""Tables of figures that fit a terminal: headings break between words, and wide tables between columns."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

GAP = 2  # columns of a terminal between two columns of a table
LONG = 30  # columns of a terminal; a cell that needs more is a text, and may take several lines


def fitting(table: Sequence[Sequence[str]], keys: int, width: int) -> Iterator[list[list[str]]]:
    """The pieces of a table that is wider than a terminal, or the table alone. No word and no figure is broken.

    Parameters
    ----------
    table
        Headings and rows; each cell is one line.
    keys
        How many columns say what a row is about. Each piece begins with them.
    width
        Of the terminal, in columns. A piece is wider only if its keys and one other column are.
    """
    headings, *rows = table
    needed = [
        max((_word(heading), *(cell_len(row[i]) if cell_len(row[i]) <= LONG else _word(row[i]) for row in rows)))
        for i, heading in enumerate(headings)
    ]
    for piece in _pieces(needed, keys, width):
        lines = [[row[i] for i in piece] for row in table]
        if _total(max(needed[i], cell_len(headings[i])) for i in piece) > width:
            lines[0] = [_broken(headings[i], needed[i]) for i in piece]
        yield lines


def _pieces(needed: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """The columns of each piece: the first `keys`, and as many others as fit beside them."""
    first = list(range(keys))
    pieces = [first]
    for i in range(keys, len(needed)):
        if len(pieces[-1]) > keys and _total(needed[k] for k in (*pieces[-1], i)) > width:
            pieces.append(first)
        pieces[-1] = [*pieces[-1], i]
    return pieces


def _word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _total(widths: Iterator[int]) -> int:
    return sum(width + GAP for width in widths) - GAP


def _broken(heading: str, width: int) -> str:
    lines: list[str] = []
    for word in heading.split():
        if lines and cell_len(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
