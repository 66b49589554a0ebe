"""A terminal in memory: it does what bars ask for (go up, erase, return), and says which lines one would see."""

import io
import re

_CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen(io.StringIO):
    """Everything that was ever on it, from the first line on, wrapped at `width` columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """The lines, without spaces at their ends, and without empty lines."""
        rows: list[str] = [""]
        y = x = 0
        for numbers, code, back, down, text in _CODE.findall(self.getvalue()):
            if code == "A":
                y = max(0, y - int(numbers or 1))
            elif code == "K":
                rows[y] = "" if numbers == "2" else rows[y][:x]
            elif back:
                x = 0
            elif down:
                y, x = y + 1, 0
                rows += [""] * (y + 1 - len(rows))
            for letter in text:
                if x == self.width:
                    y, x = y + 1, 0
                    rows += [""] * (y + 1 - len(rows))
                rows[y] = f"{rows[y]:<{x}}"[:x] + letter + rows[y][x + 1 :]
                x += 1
        return [row.rstrip() for row in rows if row.strip()]
