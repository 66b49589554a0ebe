"""Makes manual pages from the command line itself: purifyctl(1), and one page for each command.

python tools/manual.py build/man        needs only the dependencies that purifyctl --help needs
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.core import publish_from_doctree
from docutils.utils import new_document
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

sys.path.insert(0, str(Path(__file__).parents[1]))
from purifyctl import __version__
from purifyctl.cli import app

EXIT_CODES = [
    ("0", "All went well."),
    ("1", "It failed; a message says why, and what to do next."),
    ("2", "An option, a recipe or a folder cannot work."),
    ("3", "It is finished; some inputs failed, and their rows say why."),
    ("130", "It was interrupted. The same command continues."),
]
ENVIRONMENT = [
    ("PURIFYCTL_CACHE", "Folder for engines that are built on first use. Default: purifyctl in the user's cache."),
    (
        "PURIFYCTL_STATE",
        "Folder for the user's decisions: the list of trusted bundles. Default: purifyctl in the user's state.",
    ),
    ("NO_COLOR", "No colours."),
]
_DEFAULTS = re.compile(r"  \[(?=[^\[]*$)")  # where typer appends "  [default: 5]" to markup


def write_pages(folder: Path) -> list[Path]:
    """Write purifyctl.1 and purifyctl-COMMAND.1 into `folder`, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = dict(_pages())
    for name, page in pages.items():
        (folder / name).write_text(page)
    return [folder / name for name in pages]


def _pages() -> Iterator[tuple[str, str]]:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    names = list(root.commands)
    others = [f"purifyctl-{name}(1)" for name in names]
    commands = _definitions((f"purifyctl-{name}(1)", _first_sentence(root.commands[name])) for name in names)
    sections = {
        "SYNOPSIS": [_paragraph("[bold]purifyctl[/] COMMAND [OPTIONS] [ARGUMENTS]")],
        "DESCRIPTION": [_paragraph(root.help or "")],
        "COMMANDS": [commands],
        "OPTIONS": [_options(root)],
        "EXIT STATUS": [_definitions(EXIT_CODES)],
        "ENVIRONMENT": [_definitions(ENVIRONMENT)],
    }
    yield "purifyctl.1", _page("purifyctl", (root.help or "").rstrip("."), sections)
    for name, other in zip(names, others, strict=True):
        command = root.commands[name]
        assert isinstance(command, TyperCommand)
        *description, example = _help(command)
        arguments = [p for p in command.params if isinstance(p, TyperArgument)]
        synopsis = " ".join([f"[bold]purifyctl {name}[/]", "\\[OPTIONS]", *map(_placeholder, arguments)])
        sections = {
            "SYNOPSIS": [_paragraph(synopsis)],
            "EXAMPLES": [_paragraph(example.removeprefix("Example: "))],
            "DESCRIPTION": [_paragraph(text) for text in description],
            "ARGUMENTS": [_definitions((_placeholder(p), p.help or "") for p in arguments)] if arguments else [],
            "OPTIONS": [_options(command, root)],
            "EXIT STATUS": [_definitions(EXIT_CODES)],
            "SEE ALSO": [_paragraph(", ".join(["purifyctl(1)", *(o for o in others if o != other)]))],
        }
        yield f"purifyctl-{name}.1", _page(f"purifyctl-{name}", _first_sentence(command), sections)


def _help(command: TyperCommand) -> list[str]:
    """The paragraphs of a command's help. The last one is an example."""
    return [" ".join(text.split()) for text in re.split(r"\n\s*\n", command.help or "")]


def _first_sentence(command: TyperCommand) -> str:
    text = Text.from_markup(_help(command)[0]).plain
    return re.split(r"[.:;] ", text)[0].rstrip(".")


def _placeholder(argument: TyperArgument) -> str:
    word = (argument.metavar or argument.name or "").upper()
    word = f"{word}..." if argument.nargs == -1 and not word.endswith("...") else word
    return word if argument.required else f"\\[{word}]"


def _options(command: TyperCommand | TyperGroup, root: TyperGroup | None = None) -> nodes.definition_list:
    parent = root.make_context("purifyctl", [], resilient_parsing=True) if root else None
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    found = [p for p in command.get_params(context) if isinstance(p, TyperOption) and not p.hidden]
    records = [p.get_help_record(context) for p in found]
    return _definitions(
        (f"[bold]{_escaped(names)}[/]", _DEFAULTS.sub(r"  \\[", text)) for names, text in filter(None, records)
    )


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _definitions(pairs: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> nodes.definition_list:
    found = nodes.definition_list()
    for term, text in pairs:
        definition = nodes.definition_list_item("", nodes.term("", "", *_inline(term)))
        definition += nodes.definition("", _paragraph(text))
        found += definition
    return found


def _paragraph(markup: str) -> nodes.paragraph:
    return nodes.paragraph("", "", *_inline(markup))


def _inline(markup: str) -> Iterator[nodes.Node]:
    """Rich's markup, as in the help texts. It can only be bold."""
    text = Text.from_markup(markup)
    at = 0
    for span in sorted(text.spans):
        yield nodes.Text(text.plain[at : span.start])
        yield nodes.strong("", text.plain[span.start : span.end])
        at = span.end
    yield nodes.Text(text.plain[at:])


def _page(name: str, subtitle: str, sections: dict[str, list[nodes.Node]]) -> str:
    document = new_document(name)
    document += [nodes.title("", name), nodes.subtitle("", subtitle)]
    about = [("version", f"purifyctl {__version__}"), ("manual section", "1"), ("manual group", "purifyctl manual")]
    document += nodes.docinfo(
        "", *(nodes.field("", nodes.field_name("", key), nodes.field_body("", nodes.Text(text))) for key, text in about)
    )
    for title, content in sections.items():
        if content:
            document += nodes.section("", nodes.title("", title), *content)
    return str(publish_from_doctree(document, writer="manpage", settings_overrides={"output_encoding": "unicode"}))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
