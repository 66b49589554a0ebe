"""Writes docs/reference.md: fills reference.md.j2 with what the code says about commands, recipes and rows.

It also writes the table of attacks in docs/attacks.md.

python -m docs.reference
"""

import ast
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any

import jinja2
from typer.main import get_command

from purifyctl import attacking, config, errors, parquet
from purifyctl.cli import app
from purifyctl.engine.manifest import Manifest
from purifyctl.evaluation.records import Outcome
from purifyctl.run.rows import Row

PAGE = Path(__file__).with_suffix(".md")
ATTACKS = Path(__file__).with_name("attacks.md")
COMMON = ("--json", "--quiet", "--verbose", "--help")  # options of every command; the page lists them once
_VALUES = {"path": "PATH", "str": "TEXT", "int": "N", "int range": "N", "float": "X", "list[int]": "N"}
_VALUES |= {"list[str]": "TEXT", "list[Path]": "PATH"}


def page() -> str:
    """The reference as Markdown."""
    template = Path(__file__).with_suffix(".md.j2").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(
        commands="\n\n".join(command(name) for name in get_command(app).commands),
        root=parameters(get_command(app), skip=("--help",)),
        common=parameters(get_command(app).commands["run"], only=COMMON),
        rows=columns(Row),
        records=columns(Outcome),
        attack_rows=columns(attacking.batch.Row, parquet_types=False),
        statuses=statuses(),
        train={name: keys(kind) for name, kind in _TRAIN.items()},
        gate=keys(config.GateConfig),
        engine=keys(config.EngineConfig),
        manifest=keys(Manifest, defaults=False),
    )


_TRAIN = {
    "Top level": config.TrainConfig,
    "`[network]`": config.NetworkConfig,
    "`[[classifiers]]`": config.ClassifierConfig,
    "`[objective]`": config.ObjectiveConfig,
    "`[[attacks]]`": config.TrainingAttack,
    "`[[phases]]`": config.Phase,
}


def command(name: str) -> str:
    """The section of one command: its help, its usage and its options."""
    found = get_command(app).commands[name]
    context = found.context_class(found, info_name=name)
    *paragraphs, example = [" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(found.help))]
    usage = (
        " ".join(["purifyctl", name, *found.collect_usage_pieces(context)])
        .replace("{", "")
        .replace("}", "")
        .replace("......", "...")
    )
    parts = [
        f"### purifyctl {name}",
        *map(_markdown, paragraphs),
        f"Usage: `{usage}`, such as {_markdown(example.removeprefix('Example: '))}",
    ]
    return "\n\n".join(
        [
            *(textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in parts),
            parameters(found),
        ]
    )


def parameters(found: Any, *, only: tuple[str, ...] = (), skip: tuple[str, ...] = COMMON) -> str:
    """A table of a command's arguments and options."""
    context = found.context_class(found)
    rows = []
    for parameter in found.get_params(context):
        if any(name in only for name in parameter.opts) or (
            not only and not any(name in skip for name in parameter.opts)
        ):
            left, meaning = parameter.get_help_record(context)
            names, value = re.fullmatch(r"(.*?)(?: (<.*>|[^-\s]\S*))?", left).groups()
            rows.append((f"`{names}`", _value(value), _markdown(meaning)))
    return _table(("option", "value", "meaning"), rows)


def _value(text: str | None) -> str:
    if not text:
        return ""
    inner = text.strip("<>")
    return " ".join(f"`{choice}`" for choice in inner.split("|")) if "|" in inner else f"`{_VALUES.get(inner, text)}`"


def _markdown(text: str) -> str:
    """Rich's markup as Markdown. What click adds in brackets at the end, such as the default, becomes italic."""
    text, extra = re.fullmatch(r"(.*?)(?:  \[([^\]]*)\])?", text, re.S).groups()
    text = re.sub(r"\[bold\](.*?)\[/\]", lambda found: f"`{found[1]}`", text).replace("\\[", "[")
    notes = [note.replace("x>=", "at least ") for note in (extra or "").split("; ") if note]
    return " ".join([text, *(f"*{note[0].upper()}{note[1:]}.*" for note in notes)])


def attacks() -> str:
    """A table of the attacks, which `docs/attacks.md` holds."""
    rows = []
    for attack in config.ATTACKS:
        counts = f"{attack.steps_are} ({attack.default_steps})" if attack.default_steps else "its own"
        rows.append((f"`{attack.kind}`", f"{attack.what} ({attack.paper})", counts))
    return _table(("attack", "what it does (published by)", "`--steps` counts (default)"), rows)


def columns(kind: type, *, parquet_types: bool = True) -> str:
    """A table of a row's columns. `kind` is a dataclass whose fields have comments."""
    types = (
        {field.name: str(field.type).replace("item: ", "") for field in parquet.schema(kind)}
        if parquet_types
        else {field.name: _type(field.type) for field in dataclasses.fields(kind)}
    )
    said = comments(kind)
    rows = [(f"`{name}`", types[name], _cell(said[name])) for name in types]
    return _table(("column", "type", "meaning"), rows)


def keys(kind: type, *, defaults: bool = True) -> str:
    """A table of a settings dataclass's keys."""
    said = comments(kind)
    rows = []
    for field in dataclasses.fields(kind):
        default = (_default(field),) if defaults else ()
        rows.append((f"`{field.name}`", _cell(_type(field.type)), *default, _cell(said[field.name])))
    return _table(("key", "type", *(("default",) if defaults else ()), "meaning"), rows)


def statuses() -> str:
    """A table of the values of a row's status, from the comments beside them."""
    lines = re.findall(r'^    "(\w+)",(?:  # (.*))?$', inspect.getsource(errors), re.M)
    return _table(("status", "meaning"), [(f"`{name}`", _cell(text or "all went well")) for name, text in lines])


def comments(kind: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, in its source. Fields of its bases are included."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(base))
        at_line = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                said[node.target.id] = at_line.get(node.end_lineno or 0, "")
    return said


def _default(field: dataclasses.Field[Any]) -> str:
    """The default as a recipe would write it."""
    if field.default_factory is not dataclasses.MISSING:
        return "`{}`" if field.default_factory is dict else "its defaults"
    if field.default is dataclasses.MISSING:
        return "*required*"
    default = [config.format_eps(eps) for eps in field.default] if field.name == "validation_eps" else field.default
    return f"`{json.dumps(default)}`"


def _type(annotation: Any) -> str:
    """A Python type in plain words."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if not isinstance(annotation, type):
        text = str(annotation)
    if "Literal" in text:
        return ", ".join(re.findall(r"'([^']*)'", text))
    text = re.sub(r"\b(?:\w+\.)+", "", text)
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    text = re.sub(r"\b(str|int|float|bool)\b", lambda found: words[found[1]], text).replace(" | None", "")
    text = re.sub(r"tuple\[(\w+(?: \w+)*), \.\.\.\]", r"list of \1", text)
    text = re.sub(r"tuple\[number, number\]", "list of 2 numbers", text)
    text = re.sub(r"list of (\w+Config|TrainingAttack)", "tables", text)
    return re.sub(r"^(\w+Config|dict\[.*|Parity)$", "table", text)


def _cell(text: str) -> str:
    return text.replace("\\\\", "\\").replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<")


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    ATTACKS.write_text(re.sub(r"(?m)^\| attack \|.*\n(?:\|.*\n)*", lambda _: f"{attacks()}\n", ATTACKS.read_text()))
