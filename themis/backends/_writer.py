"""What one process adds to one run: accepted rows, the journal that guards them, the parts they become."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._place import explain, make_folder
from themis.errors import StorageError, UsageError
from themis.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from themis.backends._parts import Format
    from themis.backends._place import Place
    from themis.records import RecordKind

logger = logging.getLogger(__name__)

_LAUNCH = re.compile(r"(\d{6,})-[0-9a-f]+\.json")


@dataclass(frozen=True)
class Limits:
    """When accepted rows become a part: the first of these that is reached."""

    rows: int
    nbytes: int
    seconds: float


class Journal:
    """A local file that grows by whole entries; a killed process leaves it behind for readers."""

    def __init__(self, path: Path, head: bytes) -> None:
        make_folder(path.parent)
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._length = 0
        self._head = head

    def append(self, entry: bytes) -> None:
        """Hand an entry to the operating system, whole or not at all."""
        data = entry if self._length else self._head + entry
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException:
            # Half an entry would hide every later one from readers.
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
            raise
        self._length += len(data)

    def close(self) -> None:
        """Give back the file descriptor."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Delete the file: its rows are in a part."""
        self.close()
        self._path.unlink(missing_ok=True)


@dataclass(eq=False)
class _Part:
    """Accepted rows that will be one part. `number` is unique among the parts of a writer."""

    kind: RecordKind
    number: int
    since: float
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    nbytes: int = 0
    journal: Journal | None = None


class Writer:
    """Adds rows to one run from one process, under a launch id of its own. Thread-safe.

    Rows are accepted when `append` returns, and durable once a flush has put them into a part. A part that
    could not be written is kept and written again, under the same name, by the next flush.

    Raises:
        StorageError: The place cannot be written.
    """

    def __init__(self, place: Place, run_id: str, form: Format, limits: Limits) -> None:
        self._place = place
        self._form = form
        self._limits = limits
        self._run_id = run_id
        # Reentrant: the garbage collector may run the backend's finalizer on a thread that holds them.
        self._lock = threading.RLock()
        self._flushing = threading.RLock()
        self._deleted = False
        self._open: dict[RecordKind, _Part] = {}
        self._sealed: list[_Part] = []
        self._next_seq = 0
        self._next_number = 0
        self._not_before = 0.0
        place.write_new(f"{run_id}/run.json", run_json(run_id, {}))
        self.launch = _new_launch(place.names(f"{run_id}/launches"))
        self.save_launch({})

    def save_launch(self, fields: dict[str, Any]) -> None:
        """Write what this process says of itself, replacing what it said before."""
        own = {"launch": self.launch, "run_id": self._run_id, "schema_version": SCHEMA_VERSION}
        self._place.write(f"{self._run_id}/launches/{self.launch}.json", encode_json({**fields, **own}))

    def append(self, kind: RecordKind, records: Sequence[Any]) -> bool:
        """Accept the records, all or none; True when that changes when the next flush is due.

        Raises:
            UsageError: A field cannot be stored.
            StorageError: The journal cannot be written, or this backend deleted the run meanwhile.
        """
        with self._lock:
            first = self._next_seq
            self._next_seq += len(records)
        table = arrow.to_table(
            kind, records, run_id=self._run_id, launch=self.launch, first_seq=first, saved_at=time.time()
        )
        with self._lock:
            if self._deleted:
                raise StorageError(f"run {self._run_id!r} was deleted while this was saved; save it again")
            part = self._open.get(kind) or self._new_part(kind)
            self._write_journal(part, table)
            part.tables.append(table)
            part.rows += table.num_rows
            part.nbytes += table.get_total_buffer_size()  # `nbytes` takes thirty times as long
            is_first = part.rows == table.num_rows
            return is_first or self._full(part)

    def pending(self, kind: RecordKind) -> list[pa.Table]:
        """The accepted rows that are in no part yet."""
        with self._lock:
            parts = [*self._sealed, *self._open.values()]
            return [table for part in parts if part.kind == kind for table in part.tables]

    def due_in(self, now: float) -> float | None:
        """Seconds from `now` (monotonic) until a flush is due, at most 0 when it is; None if nothing waits."""
        with self._lock:
            parts = [*self._sealed, *self._open.values()]
            if not parts:
                return None
            if any(self._full(part) for part in parts):
                return self._not_before - now
            return max(self._not_before, min(part.since for part in parts) + self._limits.seconds) - now

    def flush(self) -> None:
        """Return when everything accepted so far is durable.

        Raises:
            StorageError: A part could not be written; its rows are kept for the next flush.
        """
        with self._flushing:
            with self._lock:
                self._sealed += self._open.values()
                self._open = {}
                sealed = list(self._sealed)
            failures = [error for part in sealed if (error := self._write(part))]
            if failures:
                self._not_before = time.monotonic() + self._limits.seconds
                raise failures[0]

    def discard(self) -> None:
        """Forget what is pending, and its journals: the run is being deleted."""
        with self._flushing, self._lock:
            parts = [*self._sealed, *self._open.values()]
            self._sealed, self._open, self._deleted = [], {}, True
        for part in parts:
            if part.journal:
                part.journal.remove()

    def release(self) -> None:
        """Close the inherited journals in a forked child, whose parent goes on writing them."""
        for part in [*self._sealed, *self._open.values()]:
            if part.journal:
                part.journal.close()

    def _full(self, part: _Part) -> bool:
        return part.rows >= self._limits.rows or part.nbytes >= self._limits.nbytes

    def _new_part(self, kind: RecordKind) -> _Part:
        part = _Part(kind, self._next_number, time.monotonic())
        self._next_number += 1
        return part

    def _write_journal(self, part: _Part, table: pa.Table) -> None:
        """Journal the table, if the place is a local disk; the part is open from here on."""
        if self._place.local:
            try:
                part.journal = part.journal or self._new_journal(part)
                part.journal.append(self._form.journal_entry(table))
            except OSError as error:
                if part.journal and not part.rows:
                    part.journal.remove()
                path = self._journal_path(part)
                raise StorageError(f"cannot write {path}: {explain(error)}; nothing was saved") from error
        self._open[part.kind] = part

    def _new_journal(self, part: _Part) -> Journal:
        return Journal(self._journal_path(part), self._form.journal_head(part.kind))

    def _journal_path(self, part: _Part) -> Path:
        name = f"{self.launch}-{part.number:06d}.{part.kind}{self._form.journal_suffix}"
        return self._place.local_path(f"{self._run_id}/journal/{name}")

    def _write(self, part: _Part) -> StorageError | None:
        """Write a sealed part; what went wrong, if something did."""
        import pyarrow as pa

        name = f"{self.launch}-{part.number:06d}{self._form.suffix}"
        try:
            data = self._form.part(pa.concat_tables(part.tables))
            self._place.write(f"{self._run_id}/{part.kind}/{name}", data)
            pa.default_memory_pool().release_unused()  # else it keeps what the part took, some 20 MB
        except StorageError as error:
            logger.warning("%d %s of run %s wait: %s", part.rows, part.kind, self._run_id, error)
            return error
        with self._lock:
            self._sealed = [other for other in self._sealed if other is not part]
        if part.journal:
            part.journal.remove()
        return None


def run_json(run_id: str, metadata: dict[str, Any]) -> bytes:
    """The content of run.json."""
    return encode_json({"run_id": run_id, "schema_version": SCHEMA_VERSION, "metadata": metadata})


def encode_json(value: dict[str, Any]) -> bytes:
    """JSON text in UTF-8.

    Raises:
        UsageError: The value is not JSON.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot be stored as JSON: {error}") from error
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _new_launch(names: Sequence[str]) -> str:
    """An id after all those in the folder: an order that no clock decides."""
    ordinals = [int(match.group(1)) for name in names if (match := _LAUNCH.fullmatch(name))]
    return f"{max(ordinals, default=0) + 1:06d}-{secrets.token_hex(4)}"
