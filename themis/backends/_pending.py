"""Accepted rows that will be a part, with the journals that guard them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.backends._rows import rows_to_table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from themis.backends._journal import Journal
    from themis.backends._rows import Row
    from themis.records import RecordKind


@dataclass(eq=False)
class Pending:
    """Rows that will be in one part. `number` is unique among those of a writer."""

    kind: RecordKind
    number: int
    since: float = field(default_factory=time.monotonic)
    n_rows: int = 0
    nbytes: int = 0
    n_broken: int = 0
    _tables: list[pa.Table] = field(default_factory=list)
    _values: list[Any] = field(default_factory=list)
    _journals: dict[str, Journal] = field(default_factory=dict)

    def add_table(self, table: pa.Table) -> None:
        """Hold a table."""
        self._tables.append(table)
        self.n_rows += table.num_rows
        self.nbytes += table.get_total_buffer_size()  # `nbytes` takes thirty times as long

    def add_row(self, row: Row, nbytes: int) -> None:
        """Hold a single row, with its seq and saved_at."""
        self._values += row  # one list for all: with one each, the garbage collector took a tenth of the time
        self.n_rows += 1
        self.nbytes += nbytes

    def tables(self, run_id: str, launch: str) -> list[pa.Table]:
        """All rows."""
        if self._values:
            table = rows_to_table(self.kind, self._values, run_id, launch)
            self._tables, self._values = [*self._tables, table], []  # at once: an interruption must not double them
        return list(self._tables)

    def journal(self, suffix: str, entry: bytes, new: Callable[[Pending, str], Journal]) -> None:
        """Add an entry to the journal of this suffix, made when there is none, or a broken one."""
        if suffix in self._journals and self._journals[suffix].is_broken:
            self._journals[f"{suffix} {self.n_broken}"] = self._journals.pop(suffix)
            self.n_broken += 1
        if suffix not in self._journals:
            self._journals[suffix] = new(self, suffix)
        self._journals[suffix].append(entry)

    def end_journals(self, end: Callable[[Journal], Any]) -> None:
        """Do something with each journal, once."""
        while self._journals:
            end(self._journals.popitem()[1])
