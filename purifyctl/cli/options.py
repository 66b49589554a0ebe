"""Commands and their options: what every command has, and what is read from the fields of an options dataclass."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from purifyctl import console, devices
from purifyctl.cli.app import app
from purifyctl.config.devices import DeviceOption
from purifyctl.config.options import Option, about

Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run this bundle, now and later, although it was built elsewhere. Engines are native code."
    ),
]
PrintRecipe = Annotated[
    bool, typer.Option("--print", help="Print the recipe and stop, so that you can make your own from it.")
]

_COMMON: Mapping[str, Any] = {
    "json": Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, events as JSON lines on stderr.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and errors.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")],
}


def command(
    name: str, *, short_help: str, panel: str, cls: type[TyperCommand] = TyperCommand
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the command `name`.

    The docstring begins with an example. The help shows it last, after what the command does.

    A parameter whose type is an options dataclass becomes one flag for each of its fields, in its place, and the
    function gets the dataclass. `--json`, `--quiet` and `--verbose` are added and obeyed.

    Parameters
    ----------
    short_help, panel
        What `purifyctl --help` says about the command, and under which heading.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        groups = {p.name: p.annotation for p in _parameters_of(function) if is_dataclass(p.annotation)}

        @functools.wraps(function)
        def call(**given: Any) -> None:
            console.configure(**{common: given.pop(common) for common in _COMMON})
            options = {name: _read(kind, given) for name, kind in groups.items()}
            for each in options.values():
                if isinstance(each, DeviceOption) and each.works_here:
                    devices.check(each.device)
            try:
                function(**options, **given)
            except KeyboardInterrupt as interrupt:
                console.error("Interrupted.", " ".join(getattr(interrupt, "__notes__", ())))
                raise

        shown: list[inspect.Parameter] = []
        for parameter in _parameters_of(function):
            shown += _flags(parameter.annotation) if parameter.name in groups else [parameter]
        shown += [_keyword(common, kind, False) for common, kind in _COMMON.items()]
        call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        # paragraphs on one line each: typer would keep the docstring's line breaks, whatever the terminal's width
        example, *what = (" ".join(p.split()) for p in inspect.cleandoc(function.__doc__ or "").split("\n\n"))
        help_text = "\n\n".join([*what, f"Example: {example}"])
        app.command(name, cls=cls, help=help_text, short_help=short_help, rich_help_panel=panel)(call)
        return function

    return register


def _parameters_of(function: Callable[..., None]) -> Iterator[inspect.Parameter]:
    for p in inspect.signature(function, eval_str=True).parameters.values():
        yield _keyword(p.name, p.annotation, p.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _flags(kind: Any) -> Iterator[inspect.Parameter]:
    """The flags of an options dataclass, as parameters that typer understands."""
    for field, hint, option in _options_of(kind):
        flag = option.flag or "--" + field.name.replace("_", "-")
        info = typer.Option(
            *filter(None, (flag, option.former)),
            help=option.help,
            metavar=option.metavar or None,
            min=option.minimum,
        )
        shown, default = hint, field.default
        if option.parse:
            shown, default = str | None, None
        elif typing.get_origin(hint) is tuple:
            shown, default = list[str if option.parse_each else typing.get_args(hint)[0]] | None, None  # type: ignore[misc]
        elif _none_is_a_word(hint, default):
            shown = Literal[(*typing.get_args(typing.get_args(hint)[0]), "none")]
        yield _keyword(field.name, Annotated[shown, info], default)


def _read(kind: Any, given: dict[str, Any]) -> Any:
    """Make an options dataclass of what was typed, and take that out of `given`."""
    values = {}
    for field, hint, option in _options_of(kind):
        value = given.pop(field.name)
        if value is None:
            value = field.default
        elif option.parse:
            value = option.parse(value)
        elif typing.get_origin(hint) is tuple:
            value = tuple(option.parse_each(each) if option.parse_each else each for each in value)
        elif value == "none" and _none_is_a_word(hint, field.default):
            value = None
        values[field.name] = value
    return kind(**values)


def _options_of(kind: Any) -> Iterator[tuple[Field[Any], Any, Option]]:
    """The fields of a dataclass that have a flag: each with its type, and with what it says about the flag."""
    hints = typing.get_type_hints(kind)
    inherited = {field.name for base in kind.__mro__[1:] if is_dataclass(base) for field in fields(base)}
    # those that several commands share come last
    for field in sorted(fields(kind), key=lambda field: field.name in inherited):
        if option := about(field):
            yield field, hints[field.name], option


def _none_is_a_word(hint: Any, default: Any) -> bool:
    """Whether `none` is typed for None: where a choice has None among its values, and another default."""
    return type(None) in typing.get_args(hint) and default is not None
