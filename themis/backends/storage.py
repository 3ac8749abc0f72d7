"""StorageBackend: where records are kept."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from themis.errors import RunNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from types import TracebackType

    import pyarrow as pa
    import pyarrow.compute as pc

    from themis.backends.runs import RunInfo
    from themis.records import EvaluationRecord, GenerationRecord, RecordKind, Report, Sample
    from themis.winners import IdSet

_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def check_run_id(run_id: str) -> str:
    """The run id itself, when it is one.

    Raises:
        UsageError: It is not 1 to 128 characters out of A-Z, a-z, 0-9, ".", "_" and "-", or it is "." or "..".
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id) or run_id in {".", ".."}:
        raise UsageError(
            f"the run id {run_id!r} cannot be used: give 1 to 128 characters out of A-Z, a-z, 0-9, '.', '_' and '-'"
        )
    return run_id


def run_place(run: str) -> tuple[str | None, str]:
    """The URL of the storage and the id of the run that "URL/ID" means; None and the id where no URL is given."""
    url, slash, run_id = run.rstrip("/").rpartition("/")
    return (url or "/") if slash else None, run_id


class StorageBackend(ABC):
    """Keeps the records of runs. Write the eleven abstract methods; everything else has a default built on them.

    The contract, which themis.testing.StorageBackendTests checks:

    - Thread-safe, and safe for several processes that write to one run.
    - Records come back as a list in no promised order, each id once: of several records of one id a success beats an
      error, then the last one saved wins. What was saved is read back at once, before any flush.
    - Saving a record makes the run exist. What does not exist raises RunNotFoundError, a missing report
      ReportNotFoundError. Deleting "run1" leaves "run10" alone.
    - Run ids are 1 to 128 characters out of A-Z, a-z, 0-9, ".", "_" and "-"; anything else is a UsageError.

    Defaults work in a subclass that never calls `super().__init__()`.
    """

    @abstractmethod
    def save_run_metadata(self, run_id: str, metadata: dict[str, Any]) -> None:
        """Keep what the run is (JSON), replacing what was kept before."""

    @abstractmethod
    def load_run_metadata(self, run_id: str) -> dict[str, Any]:
        """What save_run_metadata was given last; {} for a run that has only records."""

    @abstractmethod
    def save_generation_record(self, run_id: str, record: GenerationRecord) -> None:
        """Keep one answer."""

    @abstractmethod
    def load_generation_records(self, run_id: str) -> list[GenerationRecord]:
        """All answers of a run, each id once."""

    @abstractmethod
    def save_evaluation_record(self, run_id: str, record: EvaluationRecord) -> None:
        """Keep one score."""

    @abstractmethod
    def load_evaluation_records(self, run_id: str) -> list[EvaluationRecord]:
        """All scores of a run, each id once."""

    @abstractmethod
    def save_report(self, run_id: str, report: Report) -> None:
        """Keep the report, replacing an earlier one."""

    @abstractmethod
    def load_report(self, run_id: str) -> Report:
        """The report kept last."""

    @abstractmethod
    def list_runs(self) -> list[str]:
        """The ids of all runs, sorted."""

    @abstractmethod
    def run_exists(self, run_id: str) -> bool:
        """Whether anything was saved under this id."""

    @abstractmethod
    def delete_run(self, run_id: str) -> None:
        """Remove a run and all that is in it."""

    def close(self) -> None:  # noqa: B027 - optional
        """Make everything accepted durable and give back what is held. Idempotent."""

    def preflight(self, run_id: str) -> None:  # noqa: B027 - optional
        """Prove in seconds that the run can be written, listed and read, before anything is asked. Default: nothing.

        Raises:
            StorageError: It cannot; the message says what is missing.
        """

    def flush(self) -> None:  # noqa: B027 - optional
        """Return when everything accepted so far is durable."""

    def save_generation_records(self, run_id: str, records: Sequence[GenerationRecord]) -> None:
        """Keep several answers."""
        for record in records:
            self.save_generation_record(run_id, record)

    def save_evaluation_records(self, run_id: str, records: Sequence[EvaluationRecord]) -> None:
        """Keep several scores."""
        for record in records:
            self.save_evaluation_record(run_id, record)

    def save_samples(self, run_id: str, samples: Sequence[Sample]) -> None:  # noqa: B027 - optional
        """Keep the samples asked, so that viewing and scoring again need no data source. The default keeps none."""

    def load_samples(self, run_id: str) -> list[Sample]:
        """The samples kept, each id once; [] where the storage keeps none."""
        self.load_run_metadata(run_id)
        return []

    def save_launch(self, run_id: str, launch: dict[str, Any]) -> None:  # noqa: B027 - optional
        """Keep where and with what this process writes (JSON), replacing what it said before. Default: nothing."""

    def load_launches(self, run_id: str) -> list[dict[str, Any]]:
        """What every process that wrote to the run said of itself, in their order; [] where none is kept."""
        self.load_run_metadata(run_id)
        return []

    def scan(
        self, run_id: str, kind: RecordKind, columns: Iterable[str] | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """The records of one kind as an Arrow table, each id once, in no promised order.

        Args:
            run_id: The run.
            kind: "samples", "generations" or "evaluations".
            columns: Those that are wanted; all by default.
            where: A condition on the records that are wanted, for example `pyarrow.compute.field("score") == 0`.
        """
        from themis import arrow

        load: dict[RecordKind, Any] = {
            "samples": self.load_samples,
            "generations": self.load_generation_records,
            "evaluations": self.load_evaluation_records,
        }
        table = arrow.to_table(kind, load[kind](run_id))
        table = table if where is None else table.filter(where)
        return table if columns is None else table.select(arrow.check_columns(kind, columns))

    def scan_batches(
        self, run_id: str, kind: RecordKind, columns: Iterable[str] | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """What `scan` gives, table by table; a storage that can holds only some of them in memory."""
        yield self.scan(run_id, kind, columns, where)

    def iter_samples(self, run_id: str) -> Iterator[Sample]:
        """The samples kept, each id once, read as they are taken."""
        return self._iter(run_id, "samples")

    def iter_generation_records(self, run_id: str) -> Iterator[GenerationRecord]:
        """All answers of a run, each id once, read as they are taken."""
        return self._iter(run_id, "generations")

    def iter_evaluation_records(self, run_id: str) -> Iterator[EvaluationRecord]:
        """All scores of a run, each id once, read as they are taken."""
        return self._iter(run_id, "evaluations")

    def ids(self, run_id: str, kind: RecordKind, *, without_errors: Collection[str] = ()) -> IdSet:
        """The ids of the records of one kind, without those whose record is an error of one of these kinds."""
        from themis import arrow
        from themis.winners import DECIDING, Settled

        names = arrow.schema(kind).names
        settled = Settled(without_errors)
        for table in self.scan_batches(run_id, kind, [name for name in (*DECIDING, "error_kind") if name in names]):
            settled.add(table)
        return settled.ids()

    def values(self, run_id: str, kind: RecordKind, column: str) -> set[Any]:
        """The different values that a column ever had, None not among them."""
        tables = self.scan_batches(run_id, kind, [column])
        return {value for table in tables for value in table.column(column).unique().to_pylist()} - {None}

    def run_info(self, run_id: str) -> RunInfo:
        """The run at a glance."""
        from themis.backends._runs import described

        return described(self, run_id)

    def run_infos(self, run_ids: Iterable[str] | None = None) -> list[RunInfo]:
        """The runs at a glance, sorted by id: all, or those of these ids that exist."""
        infos = []
        for run_id in self.list_runs() if run_ids is None else sorted(run_ids):
            with suppress(RunNotFoundError):  # deleted meanwhile
                infos.append(self.run_info(run_id))
        return infos

    def export(
        self,
        run_id: str,
        kind: RecordKind,
        target: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002
    ) -> int:
        """Write the records of one kind to one file, and return how many they are.

        Args:
            run_id: The run.
            kind: "samples", "generations" or "evaluations".
            target: A path or URL; what is there is replaced.
            format: "csv", "jsonl" or "parquet"; by default what the target's name ends with.
        """
        from themis.backends._export import export

        return export(self, run_id, kind, os.fspath(target), format)

    def _iter(self, run_id: str, kind: RecordKind) -> Iterator[Any]:
        from themis import arrow

        for table in self.scan_batches(run_id, kind):
            yield from arrow.to_records(table, kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
