"""Rows on their way to be accepted, and accepted ones that will be a part with the journals that guard them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.backends._rows import rows_to_table
from themis.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from themis.backends._journal import Journal
    from themis.backends._rows import Row
    from themis.records import RecordKind


def interrupted() -> StorageError:
    """Why an interruption refuses records."""
    return StorageError("it was interrupted; nothing was saved")


@dataclass(eq=False)
class Entry:
    """Records of one call on their way to be accepted; `error` is why they were not."""

    kind: RecordKind
    rows: list[Row]
    lines: list[bytes]
    done: bool = False
    error: Exception | None = None

    def end(self, error: Exception | None) -> None:
        """Tell the thread that waits, which looks at the error once it is done."""
        self.error = error
        self.done = True


@dataclass(eq=False)
class Pending:
    """Rows that will be one part. `number` is unique among the parts of a writer."""

    kind: RecordKind
    number: int
    since: float = field(default_factory=time.monotonic)
    n_rows: int = 0
    nbytes: int = 0
    n_broken: int = 0
    _tables: list[pa.Table] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)
    _journals: dict[str, Journal] = field(default_factory=dict)

    def add_table(self, table: pa.Table) -> None:
        """Hold a table."""
        self._tables.append(table)
        self.n_rows += table.num_rows
        self.nbytes += table.get_total_buffer_size()  # `nbytes` takes thirty times as long

    def add_rows(self, rows: list[Row], nbytes: int) -> None:
        """Hold single rows, which seq and saved_at were added to."""
        self._rows += rows
        self.n_rows += len(rows)
        self.nbytes += nbytes

    def tables(self, run_id: str, launch: str) -> list[pa.Table]:
        """All rows."""
        if self._rows:
            self._tables.append(rows_to_table(self.kind, self._rows, run_id, launch))
            self._rows = []
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
