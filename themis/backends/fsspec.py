"""Storage on any fsspec URL: immutable parts that only ever appear, no locks, no renames on an object store.

<root>/<run_id>/run.json                            what the run is
<root>/<run_id>/launches/<launch>.json              one for each writer: a process and its backend object
<root>/<run_id>/samples/<launch>-<number>.parquet
<root>/<run_id>/generations/<launch>-<number>.parquet
<root>/<run_id>/evaluations/<launch>-<number>.parquet
<root>/<run_id>/report.json
<root>/<run_id>/journal/<launch>-<number>.<kind>.*  local disk only: rows that are in no part yet
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - hooks at exit run last first: its own must be there before ours
import contextlib
import logging
import os
import threading
import time
import weakref
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._parts import FORMATS, part_names, read_journal, read_json, read_part
from themis.backends._place import Place
from themis.backends._writer import Limits, Writer, encode_json, run_json
from themis.backends.storage import StorageBackend, check_run_id
from themis.errors import ReportNotFoundError, RunNotFoundError, StorageError, UsageError
from themis.records import MetricResult, Report
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa

    from themis.records import EvaluationRecord, GenerationRecord, RecordKind, Sample

logger = logging.getLogger(__name__)

_LISTINGS = 10
"""How often a scan lists again because a file vanished before it was read."""

_OF_A_RUN = ("run.json", "launches", "samples", "generations", "evaluations", "report.json", "journal")


class FsspecStorageBackend(StorageBackend):
    """Keeps runs in the folder at a URL: a path, file://, memory://, s3:// and whatever else fsspec opens.

    What a save accepted becomes durable in the background, within `flush_seconds` or once there is enough of
    it, and at the latest in flush() and close(). On a local disk a journal keeps it even when this process is
    killed before. The object may be used again after close(). A pickled copy writes under a launch of its own;
    two objects that write one run in turn are two writers, and of one id the later writer's record wins.

    Args:
        url: The folder; it is made when there is none (a bucket is not).
        format: What is written, "parquet" or "jsonl"; both are read.
        storage_options: For the filesystem. Without, it finds credentials and endpoints where it always does.
        flush_rows: Records of one kind that make a part.
        flush_seconds: Seconds after which accepted records become a part.
        flush_bytes: Bytes of one kind in memory that make a part.

    Raises:
        UsageError: The protocol is unknown, its package is not installed, or an argument has a wrong value.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        format: str = "parquet",  # noqa: A002 - the word that a user looks for
        storage_options: Mapping[str, Any] | None = None,
        flush_rows: int = 20_000,
        flush_seconds: float = 5.0,
        flush_bytes: int = 32 << 20,
    ) -> None:
        if format not in FORMATS:
            raise UsageError(unknown("format", str(format), FORMATS))
        if flush_rows < 1 or flush_bytes < 1 or flush_seconds <= 0:
            given = f"flush_rows={flush_rows}, flush_bytes={flush_bytes}, flush_seconds={flush_seconds}"
            raise UsageError(f"{given}: each must be above 0")
        self._place = Place(url, storage_options)
        self._format = format
        self._limits = Limits(flush_rows, flush_bytes, flush_seconds)
        self._start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self._place, "format": self._format, "limits": self._limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._place, self._format, self._limits = state["place"], state["format"], state["limits"]
        self._start()

    def save_run_metadata(self, run_id: str, metadata: dict[str, Any]) -> None:
        self._place.write(f"{check_run_id(run_id)}/run.json", run_json(run_id, metadata))

    def load_run_metadata(self, run_id: str) -> dict[str, Any]:
        try:
            stored = self._load_json(f"{check_run_id(run_id)}/run.json")
        except FileNotFoundError:
            self._require(run_id)
            return {}
        metadata: dict[str, Any] = stored.get("metadata", {})
        return metadata

    def save_generation_record(self, run_id: str, record: GenerationRecord) -> None:
        self._writers.append(run_id, "generations", [record])

    def save_generation_records(self, run_id: str, records: Sequence[GenerationRecord]) -> None:
        self._writers.append(run_id, "generations", records)

    def load_generation_records(self, run_id: str) -> list[GenerationRecord]:
        return arrow.to_records(self.scan(run_id, "generations"))

    def save_evaluation_record(self, run_id: str, record: EvaluationRecord) -> None:
        self._writers.append(run_id, "evaluations", [record])

    def save_evaluation_records(self, run_id: str, records: Sequence[EvaluationRecord]) -> None:
        self._writers.append(run_id, "evaluations", records)

    def load_evaluation_records(self, run_id: str) -> list[EvaluationRecord]:
        return arrow.to_records(self.scan(run_id, "evaluations"))

    def save_samples(self, run_id: str, samples: Sequence[Sample]) -> None:
        self._writers.append(run_id, "samples", samples)

    def load_samples(self, run_id: str) -> list[Sample]:
        return arrow.to_records(self.scan(run_id, "samples"))

    def save_report(self, run_id: str, report: Report) -> None:
        self._place.write_new(f"{check_run_id(run_id)}/run.json", run_json(run_id, {}))
        self._place.write(f"{run_id}/report.json", encode_json(report.__dict__))

    def load_report(self, run_id: str) -> Report:
        try:
            stored = self._load_json(f"{check_run_id(run_id)}/report.json")
        except FileNotFoundError:
            self._require(run_id)
            raise ReportNotFoundError(
                f"run {run_id!r} in {self._place.url} has no report yet: finish it, or make one by evaluate()"
            ) from None
        metrics = stored.get("metrics", {})
        stored["metrics"] = {name: MetricResult(**metric) for name, metric in metrics.items()}
        known = {field.name for field in fields(Report)}
        return Report(**{name: value for name, value in stored.items() if name in known})

    def save_launch(self, run_id: str, launch: dict[str, Any]) -> None:
        self._writers.get(run_id).save_launch(launch)

    def load_launches(self, run_id: str) -> list[dict[str, Any]]:
        names = self._place.names(f"{check_run_id(run_id)}/launches")
        if not names:
            self._require(run_id)
        paths = [f"{run_id}/launches/{name}" for name in names if name.endswith(".json") and name[0] != "."]
        launches = []
        for path, source in self._place.sources(paths):
            with source:
                launches.append(read_json(f"{self._place.url}/{path}", source.read()))
        return launches

    def list_runs(self) -> list[str]:
        return [name for name in self._place.names() if self._is_run_id(name) and self._is_run(name)]

    def run_exists(self, run_id: str) -> bool:
        return self._is_run(check_run_id(run_id))

    def delete_run(self, run_id: str) -> None:
        self._writers.discard(run_id)
        self._require(check_run_id(run_id))
        self._place.remove(run_id, last="run.json")

    def scan(self, run_id: str, kind: RecordKind, columns: Iterable[str] | None = None) -> pa.Table:
        check_run_id(run_id)
        wanted = arrow.schema(kind).names if columns is None else arrow.check_columns(kind, columns)
        deciding = [name for name in ("id", "status", "launch", "seq") if name in arrow.schema(kind).names]
        tables = self._read(run_id, kind, list(dict.fromkeys([*wanted, *deciding])))
        if not tables:
            self._require(run_id)
            return arrow.schema(kind).empty_table().select(wanted)
        import pyarrow as pa

        return arrow.winners(pa.concat_tables(tables)).select(wanted)

    def flush(self) -> None:
        self._writers.flush()

    def close(self) -> None:
        self._writers.close()

    def _start(self) -> None:
        self._writers = Writers(self._place, self._format, self._limits)
        # Not the backend itself: the finalizer, and the thread, must not keep it alive.
        weakref.finalize(self, self._writers.close_quietly).atexit = False
        _LIVE.add(self._writers)

    def _read(self, run_id: str, kind: RecordKind, columns: Sequence[str]) -> list[pa.Table]:
        for _ in range(_LISTINGS):
            with contextlib.suppress(FileNotFoundError):  # a file vanished after it was listed: list again
                return self._read_once(run_id, kind, columns)
        raise StorageError(f"run {run_id!r} in {self._place.url} changes faster than it can be read: try again")

    def _read_once(self, run_id: str, kind: RecordKind, columns: Sequence[str]) -> list[pa.Table]:
        # The order matters: rows move from memory and journal into a part, so that who looks at the parts last
        # may see a row twice, and never misses one.
        writer = self._writers.peek(run_id)
        tables = [arrow.conform(kind, table, columns) for table in writer.pending(kind)] if writer else []
        journals = []
        if self._place.local:
            own = f"{writer.launch}-" if writer else "\0"
            names = self._place.names(f"{run_id}/journal")
            journals = [name for name in names if f".{kind}." in name and not name.startswith(own)]
        for name, source in self._place.sources([f"{run_id}/journal/{name}" for name in journals]):
            with source:
                tables.append(read_journal(kind, name, source, columns))
        parts = part_names(self._place.names(f"{run_id}/{kind}"))
        for name, source in self._place.sources([f"{run_id}/{kind}/{name}" for name in parts]):
            with source:
                tables.append(read_part(kind, f"{self._place.url}/{name}", source, columns))
        return tables

    def _load_json(self, path: str) -> dict[str, Any]:
        return read_json(f"{self._place.url}/{path}", self._place.read(path))

    def _require(self, run_id: str) -> None:
        if not self._is_run(run_id):
            raise RunNotFoundError(f"no run {run_id!r} in {self._place.url}; list_runs() gives what there is")

    def _is_run(self, run_id: str) -> bool:
        if self._place.local:  # where a folder may be somebody else's
            return any(self._place.exists(f"{run_id}/{name}") for name in _OF_A_RUN)
        return self._place.exists(run_id)

    @staticmethod
    def _is_run_id(name: str) -> bool:
        try:
            check_run_id(name)
        except UsageError:
            return False
        return True


class LocalFileStorageBackend(FsspecStorageBackend):
    """Keeps runs in a folder on this machine's disk: FsspecStorageBackend with a path.

    Args:
        storage_path: The folder; it is made when there is none.
        options: As for FsspecStorageBackend.
    """

    def __init__(self, storage_path: str | os.PathLike[str], **options: Any) -> None:
        if "://" in os.fspath(storage_path):
            raise UsageError(f"{storage_path} is a URL, and this takes a path: use FsspecStorageBackend")
        super().__init__(Path(storage_path).expanduser().absolute(), **options)


class Writers:
    """The writers of one backend in one process, by run, and the daemon thread that flushes what is due."""

    def __init__(self, place: Place, format_name: str, limits: Limits) -> None:
        self._new: Callable[[str], Writer] = lambda run_id: Writer(place, run_id, FORMATS[format_name], limits)
        self._reset()

    def _reset(self) -> None:
        self._wake = threading.Condition()
        self._by_run: dict[str, Writer] = {}
        self._thread: threading.Thread | None = None

    def get(self, run_id: str) -> Writer:
        """The run's writer, opened when there is none: from here on the run exists."""
        writer = self.peek(check_run_id(run_id))
        if writer:
            return writer
        with self._wake:
            if run_id not in self._by_run:
                self._by_run[run_id] = self._new(run_id)
            return self._by_run[run_id]

    def peek(self, run_id: str) -> Writer | None:
        """The run's writer, None when this process has saved nothing there."""
        return self._by_run.get(run_id)

    def append(self, run_id: str, kind: RecordKind, records: Sequence[Any]) -> None:
        """Accept the records, and see to it that they become durable."""
        writer = self.get(run_id)
        if records and writer.append(kind, records):
            with self._wake:
                self._run()
                self._wake.notify_all()

    def discard(self, run_id: str) -> None:
        """Forget the run's writer and what it holds."""
        with self._wake:
            writer = self._by_run.pop(run_id, None)
        if writer:
            writer.discard()

    def flush(self) -> None:
        """Return when everything accepted is durable; StorageError, after trying all of it, when something is not."""
        failures = []
        for writer in list(self._by_run.values()):
            try:
                writer.flush()
            except StorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Flush, and end the thread; a later append starts another."""
        with self._wake:
            thread, self._thread = self._thread, None
            self._wake.notify_all()
        if thread and thread is not threading.current_thread():
            thread.join()
        self.flush()

    def close_quietly(self) -> None:
        """Close where there is nobody to raise to: log what could not be written."""
        try:
            self.close()
        except StorageError:
            logger.exception("records that nobody flushed could not be written")

    def after_fork(self) -> None:
        """Start empty in a forked child: what the parent accepted is the parent's to write."""
        for writer in self._by_run.values():
            writer.release()
        self._reset()

    def _run(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_when_due, name="themis-storage", daemon=True)
            self._thread.start()

    def _flush_when_due(self) -> None:
        while True:
            with self._wake:
                if self._thread is not threading.current_thread():
                    return
                now = time.monotonic()
                waits = {writer: writer.due_in(now) for writer in self._by_run.values()}
                due = [writer for writer, wait in waits.items() if wait is not None and wait <= 0]
                if not due:
                    self._wake.wait(min((wait for wait in waits.values() if wait is not None), default=None))
            for writer in due:
                with contextlib.suppress(StorageError):  # logged, kept, and raised by flush() if it stays so
                    writer.flush()


_LIVE: weakref.WeakSet[Writers] = weakref.WeakSet()


def _close_all() -> None:
    for writers in list(_LIVE):
        writers.close_quietly()


def _after_fork() -> None:
    for writers in list(_LIVE):
        writers.after_fork()


# Plain atexit runs after the thread pools have ended, on which asynchronous filesystems resolve host names.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
os.register_at_fork(after_in_child=_after_fork)
