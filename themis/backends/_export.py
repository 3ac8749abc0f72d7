"""Records of a run as one file of another kind, and runs copied into another storage."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from themis import arrow
from themis.backends._parts import json_line
from themis.backends._place import Place, shown
from themis.errors import ReportNotFoundError, UsageError
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from themis.backends.storage import StorageBackend
    from themis.records import RecordKind

    Write: TypeAlias = Callable[[pa.Table], object]

_AT_ONCE = 1_000
"""Records that a copy hands over together."""


def export(storage: StorageBackend, run_id: str, kind: RecordKind, target: str, format_name: str | None) -> int:
    """See StorageBackend.export."""
    name = format_name or target.rpartition("/")[2].rpartition(".")[2].lower()
    if name not in _WRITERS:
        raise UsageError(f"{shown(target)} cannot be written: {unknown('format', name, _WRITERS)}")
    folder, slash, file_name = target.rpartition("/")
    place = Place(folder or slash or ".")
    count = 0
    with tempfile.TemporaryDirectory(prefix="themis-") as temporary:
        path = Path(temporary, "records")
        with path.open("wb") as file:
            write, end = _WRITERS[name](file, kind)
            for table in storage.scan_batches(run_id, kind):
                write(arrow.conform(kind, table))
                count += table.num_rows
            end()
        place.upload(path, file_name)
    return count


def copy_run(source: StorageBackend, run_id: str, target: StorageBackend) -> None:
    """Copy a run into another storage, of any kind and format: records, metadata, launches and report.

    The target's run has one launch, the copy. A record that the target has already wins or loses as any other.

    Raises:
        RunNotFoundError: The source has no such run.
    """
    target.save_run_metadata(run_id, source.load_run_metadata(run_id))
    for batch in _batches(source.iter_samples(run_id)):
        target.save_samples(run_id, batch)
    for batch in _batches(source.iter_generation_records(run_id)):
        target.save_generation_records(run_id, batch)
    for batch in _batches(source.iter_evaluation_records(run_id)):
        target.save_evaluation_records(run_id, batch)
    with suppress(ReportNotFoundError):
        target.save_report(run_id, source.load_report(run_id))
    launches = source.load_launches(run_id)
    last = {name: value for name, value in launches[-1].items() if name in {"status", "ended_at"}} if launches else {}
    target.flush()
    target.save_launch(run_id, {**last, "copied_from": launches})


def _batches(records: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for record in records:
        batch.append(record)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _csv(file: Any, kind: RecordKind) -> tuple[Write, Callable[[], object]]:
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
    names = arrow.schema(kind).names
    writer = csv.DictWriter(text, names)
    writer.writeheader()

    def write(table: pa.Table) -> None:
        for row in arrow.to_rows(table):
            writer.writerow({name: _cell(value) for name, value in row.items()})

    return write, text.flush


def _cell(value: Any) -> Any:
    """Text and numbers as they are, structure as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _jsonl(file: Any, _: RecordKind) -> tuple[Write, Callable[[], object]]:
    def write(table: pa.Table) -> None:
        for row in arrow.to_rows(table):
            file.write(json_line(row))

    return write, file.flush


def _parquet(file: Any, kind: RecordKind) -> tuple[Write, Callable[[], object]]:
    import pyarrow.parquet as pq

    writer = pq.ParquetWriter(file, arrow.schema(kind), compression="zstd", write_page_checksum=True)
    return writer.write_table, writer.close


_WRITERS: dict[str, Callable[[Any, RecordKind], tuple[Write, Callable[[], object]]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
