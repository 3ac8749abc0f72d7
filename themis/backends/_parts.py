"""Tables as bytes and back, for the two formats: whole parts, and journals that grow by whole entries."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from themis import arrow
from themis.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from themis.records import RecordKind


@dataclass(frozen=True)
class Format:
    """How rows are written. A journal is the head of its kind, then an entry for each table."""

    suffix: str
    journal_suffix: str
    part: Callable[[pa.Table], bytes]
    journal_head: Callable[[RecordKind], bytes]
    journal_entry: Callable[[pa.Table], bytes]


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _ipc_head(kind: RecordKind) -> bytes:
    return arrow.schema(kind).serialize().to_pybytes()  # type: ignore[no-any-return] # pyarrow is untyped here


def _ipc_entry(table: pa.Table) -> bytes:
    return b"".join(batch.serialize() for batch in table.to_batches())


def _json_lines(table: pa.Table) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in arrow.to_rows(table))


FORMATS = {
    "parquet": Format(".parquet", ".arrows", _parquet, _ipc_head, _ipc_entry),
    "jsonl": Format(".jsonl", ".jsonl", _json_lines, lambda _: b"", _json_lines),
}
_SUFFIXES = tuple(form.suffix for form in FORMATS.values())


def part_names(names: Sequence[str]) -> list[str]:
    """Those that are parts, of either format; foreign files and what is being written are not."""
    return [name for name in names if name.endswith(_SUFFIXES) and not name.startswith(".")]


def read_part(kind: RecordKind, path: str, source: pa.NativeFile, columns: Sequence[str]) -> pa.Table:
    """The named columns of a part.

    Raises:
        StorageError: The part is damaged; it names the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.endswith(".jsonl"):
            return _from_lines(kind, source.read()).select(list(columns))
        with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False) as file:
            if "id" not in file.schema_arrow.names:
                raise ValueError("it has no column id")
            return arrow.conform(kind, file.read(columns=list(columns)), columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(f"the part {path} is damaged: {error}") from error
    finally:  # a pool keeps what it had, and a few hundred kB of Parquet take 20 MB to read
        pa.default_memory_pool().release_unused()


def read_journal(kind: RecordKind, path: str, source: pa.NativeFile, columns: Sequence[str]) -> pa.Table:
    """The named columns of a journal's whole entries; a tail that a dying process left torn is passed over."""
    import pyarrow as pa

    data = source.read()
    if path.endswith(".jsonl"):
        return _from_lines(kind, data[: data.rfind(b"\n") + 1]).select(list(columns))
    batches = []
    try:
        with pa.ipc.open_stream(data) as reader:
            while True:
                batches.append(reader.read_next_batch())
    except (StopIteration, pa.ArrowInvalid, OSError):
        pass  # the end, whole or torn
    table = pa.Table.from_batches(batches) if batches else arrow.schema(kind).empty_table()
    return arrow.conform(kind, table, columns)


def _from_lines(kind: RecordKind, data: bytes) -> pa.Table:
    # Not splitlines(): text may hold other characters that Python takes for the end of a line.
    return arrow.from_rows(kind, [json.loads(line) for line in data.split(b"\n") if line])


def read_json(path: str, data: bytes) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
        StorageError: It holds none; it names the file.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} is damaged: it holds no JSON object")
    return cast("dict[str, object]", value)
