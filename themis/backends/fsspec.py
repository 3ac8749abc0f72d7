"""Storage on any fsspec URL: immutable parts that only ever appear, no locks, no renames on an object store.

<root>/<run_id>/run.json                            what the run is
<root>/<run_id>/launches/<launch>.json              one for each writer: a process and its backend object
<root>/<run_id>/samples/<part>                      see _parts: unique names, written whole, never changed
<root>/<run_id>/generations/<part>
<root>/<run_id>/evaluations/<part>
<root>/<run_id>/report.json
<root>/<run_id>/journal/<launch>-<number>.<kind>.*  local disk only: rows that are in no part yet
<root>/<run_id>/damaged/                            parts that a repair set aside, and what it did
"""

from __future__ import annotations

import contextlib
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._layout import is_run, remove_run, runs_among
from themis.backends._parts import FORMATS, read_json
from themis.backends._place import RETRY_SECONDS, Place
from themis.backends._reader import Reader
from themis.backends._runs import run_infos
from themis.backends._upkeep import Upkeep
from themis.backends._verify import verify
from themis.backends._writer import Limits, encode_json, run_json
from themis.backends._writers import Writers
from themis.backends.storage import StorageBackend, check_run_id
from themis.errors import ReportNotFoundError, RunNotFoundError, StorageError, UsageError
from themis.records import MetricResult, Report
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc

    from themis.backends.runs import Compaction, RunInfo, Verification
    from themis.records import EvaluationRecord, GenerationRecord, RecordKind, Sample
    from themis.winners import IdSet

_PROBED_AT_ONCE = 32
"""Folders of a store that are looked into concurrently."""


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
        flush_seconds: Seconds after which accepted records become a part; with 0 every save returns once it is one.
        flush_bytes: Bytes of one kind in memory that make a part; who saves faster than they can be written waits
            once there are twice as many.
        retry_seconds: Seconds for which a request to an object store is made again after an error that may pass.

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
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        if format not in FORMATS:
            raise UsageError(unknown("format", str(format), FORMATS))
        if flush_rows < 1 or flush_bytes < 1 or flush_seconds < 0 or retry_seconds < 0:
            given = f"flush_rows={flush_rows}, flush_bytes={flush_bytes}, flush_seconds={flush_seconds}"
            raise UsageError(f"{given}, retry_seconds={retry_seconds}: rows and bytes start at 1, seconds at 0")
        self._place = Place(url, storage_options, retry_seconds)
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
        return self._report(f"{self._place.url}/{run_id}/report.json", stored)

    @staticmethod
    def _report(path: str, stored: dict[str, Any]) -> Report:
        """The report out of its JSON; fields that this version does not know, of a later one, are left out."""
        known = {field.name for field in fields(Report)}
        kept = {name: value for name, value in stored.items() if name in known}
        try:
            kept["metrics"] = _results(kept.get("metrics") or {})
            kept["groups"] = {name: _results(found) for name, found in (kept.get("groups") or {}).items()}
            return Report(**kept)
        except (TypeError, AttributeError) as error:
            raise StorageError(f"{path} is no report that can be read: {error}") from error

    def save_launch(self, run_id: str, launch: dict[str, Any]) -> None:
        self._writers.get(run_id).save_launch(launch)

    def load_launches(self, run_id: str) -> list[dict[str, Any]]:
        folder = f"{check_run_id(run_id)}/launches"
        paths = [f"{folder}/{name}" for name in self._place.names(folder) if name.endswith(".json") and name[0] != "."]
        if not paths:
            self._require(run_id)
        return [read_json(f"{self._place.url}/{path}", data) for path, data in self._place.read_many(paths).items()]

    def list_runs(self) -> list[str]:
        folders = [name for name in self._place.folders() if self._is_run_id(name)]
        with ThreadPoolExecutor(_PROBED_AT_ONCE, "themis-list") as pool:
            probe = map if self._place.local or len(folders) < 2 else pool.map
            return [name for name, is_one in zip(folders, probe(self._is_run, folders), strict=True) if is_one]

    def run_exists(self, run_id: str) -> bool:
        return self._is_run(check_run_id(run_id))

    def delete_run(self, run_id: str) -> None:
        with self._writers.discarded(check_run_id(run_id)):
            self._require(run_id)
            remove_run(self._place, run_id)

    def scan(
        self, run_id: str, kind: RecordKind, columns: Iterable[str] | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        if where is not None:
            import pyarrow as pa

            tables = list(self.scan_batches(run_id, kind, columns, where))
            return pa.concat_tables(tables) if tables else self._no_rows(run_id, kind, columns)
        wanted = arrow.schema(kind).names if columns is None else arrow.check_columns(kind, columns)
        table = self._reader(run_id, kind).table(wanted)
        return self._no_rows(run_id, kind, wanted) if table is None else table

    def scan_batches(
        self, run_id: str, kind: RecordKind, columns: Iterable[str] | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        wanted = None if columns is None else arrow.check_columns(kind, columns)
        if where is not None:
            arrow.check_filter(kind, where)
        count = 0
        for table in self._reader(run_id, kind).batches(wanted, where):
            count += 1
            yield table
        if not count:
            self._require(run_id)

    def ids(self, run_id: str, kind: RecordKind, *, without_errors: Collection[str] = ()) -> IdSet:
        found = self._reader(run_id, kind).ids(without_errors)
        if not found:
            self._require(run_id)
        return found

    def values(self, run_id: str, kind: RecordKind, column: str) -> set[Any]:
        found = self._reader(run_id, kind).values(*arrow.check_columns(kind, [column]))
        if not found:
            self._require(run_id)
        return found

    def run_info(self, run_id: str) -> RunInfo:
        self._require(run_id)
        return run_infos(self._place, [run_id])[0]

    def run_infos(self, run_ids: Iterable[str] | None = None) -> list[RunInfo]:
        if run_ids is not None:
            return run_infos(self._place, list(map(check_run_id, run_ids)))
        # Of many runs everything is listed anyway, which takes a store fewer requests than a look into each.
        found = self.list_runs() if self._place.local else runs_among(self._place.tree())
        return run_infos(self._place, list(filter(self._is_run_id, found)))

    def compact(self, run_id: str, *, keep_replaced: bool = False) -> Compaction:
        """Merge small parts into large ones, and parts of the other format into this one's.

        Safe while others read and write, and when it is killed: readers count no row twice, the next compaction
        finishes what was begun. Journals of processes that died become parts too. Of several rows of an id those that
        can never win are left out.

        Args:
            run_id: The run.
            keep_replaced: Leave the merged parts' originals to the next compaction, for other tools that read now.

        Raises:
            StorageError: A part is damaged: verify() with repair first.
        """
        self._require(check_run_id(run_id))
        self._writers.flush()
        return Upkeep(self._place, run_id, self._format).compact(keep_replaced=keep_replaced)

    def verify(self, run_id: str, *, repair: bool = False) -> Verification:
        """Read everything that a run has, and say what is not as it was written.

        Args:
            run_id: The run.
            repair: Set damaged parts aside (in the run's folder `damaged`), so that a resume asks for their rows
                again and for no others; what of them can still be read is kept. Remove what dead processes left.
        """
        self._require(check_run_id(run_id))
        self._writers.flush()
        return verify(self._place, run_id, self._format, repair=repair)

    def preflight(self, run_id: str) -> None:
        launch = self._writers.get(run_id).launch  # which has been written just now
        folder, name = f"{run_id}/launches", f"{launch}.json"
        listed, stored = name in self._place.names(folder), {}
        if listed:
            with contextlib.suppress(FileNotFoundError):
                stored = self._load_json(f"{folder}/{name}")
        if stored.get("launch") != launch:
            raise StorageError(
                f"cannot {'read' if listed else 'list'} {self._place.url}: {folder}/{name} was written just now and is "
                "not found there; a store that lags behind its writes cannot keep runs, choose another URL"
            )

    def flush(self) -> None:
        self._writers.flush()

    def close(self) -> None:
        self._writers.close()

    def _start(self) -> None:
        self._replaced: dict[str, dict[str, int]] = {}
        self._writers = Writers(self._place, self._format, self._limits)
        # Not the backend itself: the finalizer, and the thread, must not keep it alive.
        weakref.finalize(self, self._writers.close_forgotten).atexit = False

    def _reader(self, run_id: str, kind: RecordKind) -> Reader:
        return Reader(self._place, check_run_id(run_id), kind, self._writers.peek(run_id), self._replaced)

    def _no_rows(self, run_id: str, kind: RecordKind, columns: Iterable[str] | None) -> pa.Table:
        """A table without rows, for a run that exists."""
        self._require(run_id)
        return arrow.no_rows(kind).select(arrow.schema(kind).names if columns is None else list(columns))

    def _load_json(self, path: str) -> dict[str, Any]:
        return read_json(f"{self._place.url}/{path}", self._place.read(path))

    def _require(self, run_id: str) -> None:
        if not self._is_run(run_id):
            what_there_is = "list_runs(), or `themis runs list`, gives what there is"
            raise RunNotFoundError(f"no run {run_id!r} in {self._place.url}; {what_there_is}")

    def _is_run(self, run_id: str) -> bool:
        return is_run(self._place, run_id)

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


def _results(stored: dict[str, dict[str, Any]]) -> dict[str, MetricResult]:
    """Results by metric or group, with the fields that a MetricResult has."""
    known = MetricResult.__annotations__
    return {
        name: MetricResult({field: value for field, value in result.items() if field in known})
        for name, result in stored.items()
    }
