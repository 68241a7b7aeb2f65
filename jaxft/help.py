"""The help of training: one page for the command's own options, and one for each section of a configuration."""

import dataclasses
import difflib
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn, get_type_hints

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from jaxft.errors import UserError

REST = "run"  # the section of the fields that are in no other
REST_LINE = "Precision, the seed, how often to log, to save and to evaluate, the best model."


def show(options: Any, arguments: Sequence[str], program: str) -> NoReturn:
    """Prints the page that is asked for: of the command, of the sections that are named after `--help`, or of all.

    Args:
        options: the command's options with their defaults; those in `settings` are the configuration's.
        arguments: with `--help`, `--help SECTION ...` or `--help-all` among them.

    Raises:
        UserError: there is no such section.
        SystemExit: always, with code 0.
    """
    settings = options.settings
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    sections = [name for name, value in values.items() if _is_section(value)]
    named = _named(arguments, [*sections, REST])
    if "--help-all" in arguments:
        _print(options, (), program)
    elif named:
        shown = {name for name in values if name in named or (REST in named and name not in sections)}
        _print(settings, values.keys() - shown, program, description="")
    else:
        _print(options, {"settings"}, program)
        table = Table.grid(padding=(0, 2))
        for name in sections:
            table.add_row(name, _first_sentence(values[name]))
        table.add_row(REST, REST_LINE)
        more = f"{program} --help {sections[0]} shows a section, --help-all shows all."
        console = Console(width=min(shutil.get_terminal_size().columns, 80))
        console.print(Panel(table, title="sections of the configuration", title_align="left", subtitle=more))
    raise SystemExit(0)


def _named(arguments: Sequence[str], sections: Sequence[str]) -> list[str]:
    """The sections after `--help`."""
    start = next((index for index, word in enumerate(arguments) if word in ("-h", "--help")), len(arguments))
    named: list[str] = []
    for word in arguments[start + 1 :]:
        if word.startswith("-"):
            break
        if word not in sections:
            near = difflib.get_close_matches(word, sections, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(f"The configuration has no section {word!r}{hint} They are {', '.join(sections)}.")
        named.append(word)
    return named


def _is_section(value: Any) -> bool:
    """Whether a field of a configuration has fields of its own."""
    return dataclasses.is_dataclass(value[0] if isinstance(value, tuple) and value else value)


def _first_sentence(section: Any) -> str:
    kind = type(section[0] if isinstance(section, tuple) else section)
    return " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".") + "."


def _print(options: Any, hidden: Collection[str], program: str, description: str | None = None) -> None:
    """Prints the help of a dataclass without some of its fields, with the values of an instance as defaults."""
    kind, hints = type(options), get_type_hints(type(options), include_extras=True)
    fields = [
        (name, Annotated[hints[name], tyro.conf.Suppress], dataclasses.field(default=getattr(options, name)))
        for name in sorted(hidden)
    ]
    # A class of its own: tyro has no other way to hide a field for once. It finds what is said of the others in `kind`.
    page: Any = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)
    with suppress(SystemExit):
        tyro.cli(
            page,
            args=["--help"],
            default=options,
            config=(tyro.conf.AvoidSubcommands,),
            prog=program,
            description=description,
        )
