"""What several commands use: exit codes, the option for the storage, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from themis.backends import FsspecStorageBackend

OK, ERROR, USAGE, PARTIAL = 0, 1, 2, 3

WIDE = 200
"""Columns of a table that no terminal shows: a log file or a pipe should get whole words."""

STORAGE = click.option(
    "--storage",
    metavar="URL",
    envvar="THEMIS_STORAGE",
    help="Where records are kept: a folder, s3://..., gs://..., az://...  [default: .themis/runs]",
)


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
