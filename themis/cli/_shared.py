"""What several commands use: exit codes, the option for the storage, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from themis.errors import UsageError
from themis.gates import failures, parse_threshold
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from themis.backends import FsspecStorageBackend
    from themis.gates import Threshold
    from themis.records import Report

OK, ERROR, USAGE, PARTIAL, GATE = 0, 1, 2, 3, 4

WIDE = 200
"""Columns of a table that no terminal shows: a log file or a pipe should get whole words."""

STORAGE = click.option(
    "--storage",
    metavar="URL",
    envvar="THEMIS_STORAGE",
    help="Where records are kept: a folder, s3://..., gs://..., az://...  [default: .themis/runs]",
)

FORMATS = ("table", "markdown", "csv", "json", "latex")
"""How reports and comparisons are printed."""


def one_of(names: Sequence[str]) -> Any:
    """A click callback that refuses other values and says which ones there are."""

    def check(_context: Any, option: Any, value: str | None) -> str | None:
        if value is not None and value not in names:
            raise click.BadParameter(unknown(option.name, value, names))
        return value

    return check


FORMAT = click.option(
    "--format", "form", default="table", callback=one_of(FORMATS), help="table, markdown, csv, json or latex."
)


def parsed(parse: Callable[[str], Any]) -> Any:
    """A click callback that parses each value of a repeatable option."""

    def parse_all(_context: Any, _option: Any, values: tuple[str, ...]) -> list[Any]:
        try:
            return [parse(value) for value in values]
        except UsageError as error:
            raise click.BadParameter(str(error)) from error

    return parse_all


FAIL_UNDER = click.option(
    "--fail-under",
    "thresholds",
    multiple=True,
    metavar="METRIC=VALUE",
    callback=parsed(parse_threshold),
    help="Exit code 4 when the mean is lower; METRIC.ci_low=VALUE for the lower end of the interval; repeatable.",
)


def exit_code(reports: Sequence[Report], thresholds: Sequence[Threshold]) -> int:
    """What a command that made reports ends with; says on stderr which thresholds they are below."""
    failed = failures(thresholds, reports)
    for line in failed:
        click.echo(f"themis: {line}", err=True)
    return GATE if failed else OK if all(report.status == "complete" for report in reports) else PARTIAL


def console(*, err: bool = False) -> Console:
    """Stdout, or stderr, for tables and text; wide where it is no terminal."""
    terminal = Console(stderr=err, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=err, highlight=False, width=WIDE)


def open_storage(url: str | None, **options: Any) -> FsspecStorageBackend:
    """The storage at a URL, or where runs are kept by default."""
    from themis.backends import FsspecStorageBackend
    from themis.evaluate import DEFAULT_STORAGE

    return FsspecStorageBackend(url or DEFAULT_STORAGE, **options)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headings."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)
