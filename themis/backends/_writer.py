"""What one process adds to one run: accepted rows, the journal that guards them, the parts they become."""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._alive import this_process
from themis.backends._causes import explain
from themis.backends._journal import (
    ROWS,
    TABLES,
    Journal,
    journal_name,
    rows_entry,
    rows_head,
    tables_entry,
    tables_head,
)
from themis.backends._lanes import Lane, Lanes
from themis.backends._parts import encode_part, part_name
from themis.backends._pending import Pending
from themis.backends._rows import encode_row
from themis.errors import StorageError, UsageError
from themis.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from themis.backends._place import Place
    from themis.backends._rows import Row
    from themis.records import RecordKind

logger = logging.getLogger(__name__)

BEAT_SECONDS = 15.0
"""How often a writer says that it lives; who was not heard of three times as long is gone."""

_FEW = 8
"""So many records of one call are kept as rows; of more, a table costs less."""

_LAUNCH = re.compile(r"(?:.*/)?(?:merged-)?(\d{6,})-[0-9a-f]+[.-].*")
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Limits:
    """When accepted rows become a part: the first of these that is reached. 0 seconds: at once."""

    rows: int
    nbytes: int
    seconds: float


class Writer:
    """Adds rows to one run from one process, under a launch id of its own. Thread-safe.

    Rows are accepted when `append` returns, and durable once a flush has put them into a part. A part that
    could not be written is kept and written again by the next flush.

    Raises:
        StorageError: The place cannot be written.
    """

    def __init__(self, place: Place, run_id: str, format_name: str, limits: Limits) -> None:
        self._place = place
        self._format = format_name
        self._limits = limits
        self._run_id = run_id
        # Reentrant: the garbage collector may run the backend's finalizer on a thread that holds them.
        self._lock = threading.RLock()
        self._flushing = threading.RLock()
        self._gone = False
        self._closed = False
        self._lanes = Lanes()
        self._sealed: list[Pending] = []
        self._seqs = count()
        self._numbers = count()
        self._not_before = 0.0
        self.is_behind = False
        """Whether more rows wait to be written than memory should hold."""
        self._failed: tuple[float, StorageError] | None = None
        self._fields: dict[str, Any] = {}
        self._written: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._started_at = time.time()
        self._next_beat = time.monotonic()
        place.write_new(f"{run_id}/run.json", run_json(run_id, {}))
        self.launch = next_launch(place.tree(run_id))
        self.save_launch({})

    def save_launch(self, fields: dict[str, Any]) -> None:
        """Write what this process says of itself, replacing what it said before."""
        with self._flushing:
            self._refuse_if_gone()
            self._fields, self._closed = fields, False
            self._write_launch(None)

    def append(self, kind: RecordKind, records: Sequence[Any]) -> bool:
        """Accept the records, all or none; True when that changes when the next flush is due.

        Raises:
            UsageError: A field cannot be stored.
            StorageError: The journal cannot be written, or this backend deleted the run meanwhile.
        """
        few = records if len(records) <= _FEW else ()
        rows = [row for row in (encode_row(kind, record) for record in few) if row]
        if len(rows) < len(records):
            return self._append_table(kind, records)
        return self._lanes.use(lambda lane: self._accept_rows(lane, kind, rows))

    def pending(self, kind: RecordKind) -> list[pa.Table]:
        """The accepted rows that are in no part yet."""
        with self._lock:  # so that no part is sealed between the two looks
            sealed = [part.tables(self._run_id, self.launch) for part in self._sealed if part.kind == kind]
            return [*chain(*sealed), *self._lanes.tables(kind, self._run_id, self.launch)]

    def due_in(self, now: float) -> float | None:
        """Seconds from `now` (monotonic) until a flush is due, at most 0 when it is; None if nothing waits."""
        with self._lock:
            parts = [*self._sealed, *self._lanes.parts()]
            if not parts:
                return None
            if any(self._is_full(*self._lanes.held(kind)) for kind in {part.kind for part in parts}):
                return self._not_before - now
            return max(self._not_before, min(part.since for part in parts) + self._limits.seconds) - now

    def beat_due_in(self, now: float) -> float | None:
        """Seconds from `now` (monotonic) until the next heartbeat is due; None once this launch said how it ended."""
        return None if self._gone or self._closed or "status" in self._fields else self._next_beat - now

    def beat(self) -> None:
        """Say that this process lives, unless somebody deleted the run."""
        self._next_beat = time.monotonic() + BEAT_SECONDS
        mark = f"{self._run_id}/run.json"
        with self._flushing:  # for which a deletion by this backend waits
            try:
                if not self._gone and self._place.exists(mark):
                    self._write_launch(None, until=0)
                    if not self._place.exists(mark):  # another process deleted the run in between
                        self._place.remove_files([self._launch_path()])
            except StorageError as error:
                logger.warning("run %s: no heartbeat: %s", self._run_id, error)

    def flush(self) -> None:
        """Return when everything accepted so far is durable.

        Raises:
            StorageError: A part could not be written; its rows are kept for the next flush.
        """
        began = time.monotonic()
        with self._flushing:
            if self._failed and self._failed[0] > began:  # what ended while this waited speaks for it too
                raise self._failed[1]
            until = time.monotonic() + self._place.retry_seconds
            # First what failed before: while the store takes nothing, rows gather in as few parts as they can.
            self._write_sealed(until)
            with self._lock:
                self._lanes.seal(self._sealed)
                self.is_behind = False
            self._write_sealed(until)

    def put_off(self) -> None:
        """Let some time pass before the next flush is due: the last one failed."""
        self._not_before = time.monotonic() + max(self._limits.seconds, 1.0)

    def close(self) -> None:
        """Flush, and say that this process writes no more; another append takes that back."""
        self.flush()
        with self._flushing:
            if not (self._gone or self._closed or "status" in self._fields):
                self._write_launch(time.time())
            self._closed = True

    def discard(self) -> None:
        """Forget what is pending, and its journals: the run is being deleted."""
        with self._flushing, self._lock:
            self._gone = True
            self._lanes.seal(self._sealed)
            parts, self._sealed = self._sealed, []
        for part in parts:
            part.end_journals(Journal.remove)

    def release(self) -> None:
        """Close the inherited journals in a forked child, whose parent goes on writing them."""
        for part in [*self._sealed, *self._lanes.parts()]:
            part.end_journals(Journal.close)

    def _append_table(self, kind: RecordKind, records: Sequence[Any]) -> bool:
        seqs = list(islice(self._seqs, len(records)))
        table = arrow.to_table(kind, records, run_id=self._run_id, launch=self.launch, seqs=seqs, saved_at=time.time())
        return self._lanes.use(lambda lane: self._accept_table(lane, kind, table))

    def _accept_table(self, lane: Lane, kind: RecordKind, table: pa.Table) -> bool:
        part = self._part(lane, kind)
        if self._place.local:
            self._journal(part, TABLES, tables_entry(table))
        part.add_table(table)
        return self._added(lane, part)

    def _accept_rows(self, lane: Lane, kind: RecordKind, rows: Sequence[tuple[Row, bytes]]) -> bool:
        part = self._part(lane, kind)
        saved_at = round(time.time() * _MICROSECONDS)
        seqs = list(islice(self._seqs, len(rows)))
        if self._place.local:
            entries = [rows_entry(seq, saved_at, line) for seq, (_, line) in zip(seqs, rows, strict=True)]
            self._journal(part, ROWS, b"".join(entries))
        for seq, (row, line) in zip(seqs, rows, strict=True):
            part.add_row([*row, seq, saved_at], len(line))
        return self._added(lane, part)

    def _part(self, lane: Lane, kind: RecordKind) -> Pending:
        """The part that takes the next rows of a kind; it is open once it has some."""
        self._refuse_if_gone()
        return lane.open.get(kind) or Pending(kind, next(self._numbers))

    def _refuse_if_gone(self) -> None:
        if self._gone:
            raise StorageError(f"run {self._run_id!r} was deleted while this was saved; save it again")

    def _added(self, lane: Lane, part: Pending) -> bool:
        """Hold the part that took rows; whether that changes when a flush is due."""
        is_first = part.kind not in lane.open
        lane.open[part.kind] = part
        n_rows, nbytes = self._lanes.held(part.kind)
        self.is_behind |= nbytes >= 2 * self._limits.nbytes
        if self._closed:
            self._closed, self._next_beat = False, time.monotonic()
        return is_first or self._is_full(n_rows, nbytes)

    def _is_full(self, n_rows: int, nbytes: int) -> bool:
        return n_rows >= self._limits.rows or nbytes >= self._limits.nbytes

    def _journal(self, part: Pending, suffix: str, entry: bytes) -> None:
        try:
            part.journal(suffix, entry, self._new_journal)
        except OSError as error:
            if not part.n_rows:
                part.end_journals(Journal.remove)
            path = self._journal_path(part, suffix)
            raise StorageError(f"cannot write {path}: {explain(error)}; nothing was saved") from error

    def _new_journal(self, part: Pending, suffix: str) -> Journal:
        head = tables_head(part.kind) if suffix == TABLES else rows_head(self._run_id, self.launch)
        return Journal(self._journal_path(part, suffix), head)

    def _journal_path(self, part: Pending, suffix: str) -> Path:
        name = journal_name(self.launch, part.number, part.kind, suffix, part.n_broken)
        return self._place.local_path(f"{self._run_id}/journal/{name}")

    def _write_sealed(self, until: float) -> None:
        """Write a part of each kind that is sealed; none is begun after the deadline (monotonic) once one failed."""
        failures: list[StorageError] = []
        for kind in dict.fromkeys(part.kind for part in self._sealed):
            if not failures or time.monotonic() < until:
                failures += filter(None, [self._write(kind, until)])
        if not failures:
            return
        with self._lock:
            n_rows = sum(part.n_rows for part in [*self._sealed, *self._lanes.parts()])
        error = StorageError(f"{failures[0]}; {n_rows} records of run {self._run_id!r} are kept for the next flush()")
        self.put_off()
        self._failed = (time.monotonic(), error)
        raise error from failures[0]

    def _write(self, kind: RecordKind, until: float) -> StorageError | None:
        """Write what is sealed of a kind as one part, the same one each time; what went wrong, if something did."""
        import pyarrow as pa

        sealed = [part for part in self._sealed if part.kind == kind]
        n_rows = sum(part.n_rows for part in sealed)
        try:
            with self._lock:
                tables = [table for part in sealed for table in part.tables(self._run_id, self.launch)]
            data = encode_part(self._format, [pa.concat_tables(tables)])
            name = part_name(self.launch, sealed[0].number, data, self._format)
            self._place.write(f"{self._run_id}/{kind}/{name}", data, until)
            pa.default_memory_pool().release_unused()  # else it keeps what the part took, some 20 MB
        except Exception as error:  # noqa: BLE001 - the other parts are written, and this one again
            logger.warning("%d %s of run %s wait: %s", n_rows, kind, self._run_id, error)
            what = f"{kind} of run {self._run_id!r} in {self._place.url}"
            return error if isinstance(error, StorageError) else StorageError(f"cannot write {what}: {error!r}")
        with self._lock:
            self._sealed = [part for part in self._sealed if part not in sealed]
            self._written[kind] += n_rows
            self._parts[kind] += 1
        for part in sealed:
            part.end_journals(Journal.remove)
        return None

    def _write_launch(self, closed_at: float | None, until: float | None = None) -> None:
        own = {"launch": self.launch, "run_id": self._run_id, "schema_version": SCHEMA_VERSION}
        with self._lock:
            written, parts = dict(self._written), dict(self._parts)
        self._next_beat = time.monotonic() + BEAT_SECONDS
        writer = {
            **this_process(),
            "started_at": self._started_at,
            "beat_at": time.time(),
            "beat_every": BEAT_SECONDS,
            "closed_at": closed_at,
            "parts": parts,
            "rows": written,
        }
        self._place.write(self._launch_path(), encode_json({**self._fields, **own, "writer": writer}), until)

    def _launch_path(self) -> str:
        return f"{self._run_id}/launches/{self.launch}.json"


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


def next_launch(files: Iterable[str]) -> str:
    """An id after all those that any file of the run is of: an order that no clock decides.

    Of a launch whose own file was lost or set aside, parts and journals tell.
    """
    ordinals = [int(match.group(1)) for name in files if (match := _LAUNCH.fullmatch(name))]
    return new_launch(max(ordinals, default=0) + 1)


def new_launch(ordinal: int) -> str:
    """An id of its own at this place in the order."""
    return f"{ordinal:06d}-{secrets.token_hex(4)}"
