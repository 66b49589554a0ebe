"""A command's options are the fields of one frozen dataclass: each field says what the command line needs to know.

    top: int = option(5, minimum=1, help="Classes per row.")

`cli/options.py` makes the flag `--top` from this field. `identity` says which fields a call that resumes must repeat.
"""

from collections.abc import Callable, Collection
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from purifyctl.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a field says about its flag. The field itself gives the name, the type and the default."""

    help: str
    flag: str = ""  # when it is not `--` and the field's name; "--a/--b" for a bool that may stay unset
    former: str = ""  # the flag's name in earlier versions, which still works
    metavar: str = ""  # what the help shows as the value
    minimum: int | None = None
    parse: Callable[[str], Any] | None = None  # makes the value from the flag's text
    parse_each: Callable[[str], Any] | None = None  # the flag can be repeated, and this makes one element of the tuple
    may_change: bool = False  # a call that resumes may give another value
    recorded_as: str = ""  # the key of the settings that records this field in another form, such as a file's SHA-256


def option(
    default: T,
    *,
    help: str,
    flag: str = "",
    former: str = "",
    metavar: str = "",
    minimum: int | None = None,
    parse: Callable[[str], Any] | None = None,
    parse_each: Callable[[str], Any] | None = None,
    may_change: bool = False,
    recorded_as: str = "",
) -> T:
    """A dataclass field that is an option of a command. The parameters are those of `Option`."""
    about = Option(help, flag, former, metavar, minimum, parse, parse_each, may_change, recorded_as)
    made: T = field(default=default, metadata={"option": about})
    return made


def about(entry: Field[Any]) -> Option | None:
    """What a field says about its flag. None: the command line does not set this field by a flag of its own."""
    found: Option | None = entry.metadata.get("option")
    return found


def check_minimums(options: Any) -> None:
    """Raises ConfigError when a field is below its minimum."""
    for entry in fields(options):
        said, value = about(entry), getattr(options, entry.name)
        if said and said.minimum is not None and value is not None and value < said.minimum:
            raise ConfigError(f"{entry.name} is {value}; it must be at least {said.minimum}.")


def identity(options: Any, *, always: Collection[str] = ()) -> dict[str, Any]:
    """The values that a call must repeat to resume an earlier one: those of every field that is not marked otherwise.

    Fields marked `may_change` or `recorded_as` are left out; the caller adds the keys that `recorded_as` names. A value
    that is the default is left out too: so a version with a new option can resume the folder of a version without it.

    Parameters
    ----------
    always
        Names of fields whose value is never left out.
    """
    values = {}
    for entry in fields(options):
        said, value = about(entry), getattr(options, entry.name)
        if not (said and (said.may_change or said.recorded_as)) and (value != entry.default or entry.name in always):
            values[entry.name] = value
    return values
