"""Text from strangers, so that it can be shown: names, and what manifests, servers and libraries say."""

import unicodedata

FORMULA = tuple("=+-@＝＋－＠")  # spreadsheets take a cell that begins like this for a formula; the last four are wide


def visible(text: str) -> str:
    """A text in which every character can be seen: on one line, and without power over a terminal.

    Control characters, line ends, what turns the direction of writing (bidirectional overrides), characters without
    width, and halves of characters (lone surrogates) are written as Python writes them: \\n, \\x1b, \\u202e. A byte of
    a file's name that is not UTF-8 is written as \\xNN, as in rows.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or unicodedata.category(char) == "Zs" else _code(char) for char in text)


def visible_cell(value: object) -> object:
    """A cell of a CSV file: a text is made visible, and gets an apostrophe in front if it begins like a formula.
    Anything else is unchanged, negative numbers included.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _code(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # Python's way to keep a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
