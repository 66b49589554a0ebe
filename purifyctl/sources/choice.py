"""Which files of a source become inputs, and a tally of those that do not."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from purifyctl.config.kinds import ending_of, is_picture
from purifyctl.errors import ConfigError

SHOWN = 3  # names of a kind that messages and summaries show
# Folders that systems put beside pictures, and fill with thumbnails or deleted files.
SYSTEM_FOLDERS = frozenset((b"@eaDir", b"#recycle", b"$RECYCLE.BIN", b"System Volume Information", b"__MACOSX"))


class LeftOut:
    """What a listing left out, and why. It is complete when the last input has been taken."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, why: str, path: bytes) -> None:
        """Count one file or folder."""
        self._n[why] = self._n.get(why, 0) + 1
        names = self._names.setdefault(why, [])
        if len(names) < SHOWN:
            names.append(path.decode("utf-8", "backslashreplace"))

    def expect(self, why: str) -> None:
        """Say how many there are, even if there are none."""
        self._n.setdefault(why, 0)

    def facts(self) -> dict[str, dict[str, Any]]:
        """How many were left out for each reason, and the names of the first ones. Plain data."""
        return {why: {"n": n, "such_as": self._names.get(why, [])} for why, n in self._n.items()}


def described(left_out: dict[str, dict[str, Any]]) -> str:
    """`LeftOut.facts` as one line: `no pictures: 3 (Thumbs.db, ...); by --exclude 'sub': 0`. Empty if nothing was."""
    reasons = []
    for why, found in left_out.items():
        names = ", ".join(found["such_as"])
        more = ", ..." if found["n"] > len(found["such_as"]) else ""
        reasons.append(f"{why}: {found['n']:,}{f' ({names}{more})' if names else ''}")
    return "; ".join(reasons)


SKIPPED = "no pictures"  # by their names and by their content


def skipped(left_out: dict[str, dict[str, Any]]) -> int:
    """How many files of `LeftOut.facts` are no pictures."""
    return int(left_out.get(SKIPPED, {}).get("n", 0))


class Choice:
    """Says of each file whether it is an input.

    A file is an input if the globs leave it, and if its name ends like a picture's or its content begins like one.

    Parameters
    ----------
    include, exclude
        Globs with the rules of .gitignore: a glob without a slash matches at any depth; one with a slash begins at the
        top; `**` stands for any number of folders; a glob that matches a folder matches everything in it; if several
        match, the last one counts, and `!` before a glob takes back what the ones before it matched. Case does not
        matter. Without `include` everything is included.
    strict
        Files that are no pictures are inputs, too, and will fail.

    Raises
    ------
    ConfigError
        A glob is malformed.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        strict: bool = False,
        left_out: LeftOut | None = None,
    ) -> None:
        self._include = [_Glob("--include", glob) for glob in include]
        self._exclude = [_Glob("--exclude", glob) for glob in exclude]
        self._strict = strict
        self.left_out = left_out or LeftOut()
        for glob in self._exclude:
            self.left_out.expect(glob.shown)

    def takes(self, path: bytes, header: Callable[[], bytes | None] | None) -> bool:
        """Whether this is an input; if not, it is counted.

        Parameters
        ----------
        path
            Relative to the source.
        header
            Reads the first bytes; it is only called if the name decides nothing. It returns None if nothing can be
            said without reading more: then this is an input. None: it is one whatever it is called.
        """
        if not self._include and not self._exclude:
            pass
        elif why := self._against(os.fsdecode(path).replace("\n", " ").lower()):
            self.left_out.add(why, path)
            return False
        if self._strict or header is None or ending_of(path):
            return True
        start = header()
        if start is None or is_picture(start):
            return True
        self.left_out.add(SKIPPED, path)
        return False

    def _against(self, path: str) -> str:
        """The option that leaves this path out. Empty: none does."""
        if self._include and not _last_match(self._include, path):
            return "not in --include"
        excluded = _last_match(self._exclude, path)
        return excluded.shown if excluded else ""


class _Glob:
    def __init__(self, flag: str, glob: str) -> None:
        from pathspec import GitIgnoreSpec  # imported where it is used, because it takes 30 ms

        self.shown = f"by {flag} {glob!r}"
        taken_back = glob.startswith("!")
        self.takes_back = taken_back
        text = glob[taken_back:]
        text = text[1:] if text.startswith("./") else text  # "./cats" begins at the top
        escape = "\\" if text.startswith(("#", "!")) else ""
        try:
            self._spec = GitIgnoreSpec.from_lines([escape + text.lower()])
        except ValueError as error:
            raise ConfigError(
                f"{flag} {glob!r} is no glob: {error}.", hint="put special characters in brackets: [[]"
            ) from None
        if not any(pattern.include for pattern in self._spec.patterns):
            raise ConfigError(f"{flag} {glob!r} is no glob that matches anything.", hint="such as '*.jpg' or 'cats'")

    def matches(self, path: str) -> bool:
        return self._spec.match_file(path)


def _last_match(globs: Sequence[_Glob], path: str) -> _Glob | None:
    """The last glob that matches, unless it takes back what the others matched."""
    last = next((glob for glob in reversed(globs) if glob.matches(path)), None)
    return None if last is None or last.takes_back else last
