"""What several commands use: exit codes, options, what these stand for, tables."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from themis.errors import UsageError
from themis.gates import failures, parse_threshold
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from themis.backends import ExecutionBackend, FsspecStorageBackend
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


BACKENDS = {
    "threads": "LocalExecutionBackend",
    "ray": "RayExecutionBackend",
    "sequential": "SequentialExecutionBackend",
}

WHERE = (
    click.option(
        "--backend", default="threads", metavar="B", callback=one_of(tuple(BACKENDS)), help="threads, ray, sequential."
    ),
    click.option(
        "--address", metavar="A", help="Of a Ray cluster's head, HOST:PORT; default RAY_ADDRESS or a local Ray."
    ),
    click.option("--workers", "max_workers", type=click.IntRange(1), metavar="N", help="Requests in progress at once."),
)
"""The options that say where the work runs."""
JUDGE = (
    click.option("--judge-model", metavar="M", help="Whom metrics ask that ask a judge; as --model."),
    click.option("--judge-base-url", metavar="U", help="Address of the judge's server."),
)
GROUPS = click.option("--groups", is_flag=True, help="Results by group, and the mean over groups.")


Function = TypeVar("Function", bound="Callable[..., Any]")


def several(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """A decorator that adds options in this order."""

    def add(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return add


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


def open_backend(name: str, address: str | None) -> ExecutionBackend:
    """The backend of that name."""
    from themis import backends

    if address is not None and name != "ray":
        raise UsageError(f"--address {address} is a Ray cluster's; add --backend ray")
    options = {"address": address} if name == "ray" else {}
    backend: ExecutionBackend = getattr(backends, BACKENDS[name])(**options)
    return backend


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headings."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)


def check_writable(path: Path) -> None:
    """Raise UsageError for a file that --json could not write."""
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(
            f"--json {path}: {path.parent} is no folder that can be written; make it, or give another file"
        )


def write_json(path: Path, reports: Sequence[Report]) -> None:
    """Write one report as an object, several as a list."""
    from themis.formats import to_json

    content = [to_json(report) for report in reports]
    path.write_text(json.dumps(content[0] if len(content) == 1 else content, indent=2) + "\n", encoding="utf-8")
