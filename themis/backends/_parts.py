"""Parts: immutable files of rows, in Parquet or JSON lines.

`<launch>-<number>-<crc32>.parquet` was written by a launch. `merged-<launch>-<number>-<crc32>.parquet` was made by a
compaction and names the parts it replaces, in the file's metadata or, of JSON lines, in the first row. The checksum is
the whole file's; parts of an earlier version have none in their name. Merged parts sort last, so that a store that
lists in order, page after page, never shows neither a part nor the one that replaced it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from themis import arrow
from themis.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc

    from themis.records import RecordKind

FORMATS = ("parquet", "jsonl")

_NAME = re.compile(r"(merged-)?(\d{6,}-[0-9a-f]+)-(\d{6,})(?:-([0-9a-f]{8}))?\.(parquet|jsonl)")
_REPLACES = "themis.replaces"
_FEW_COLUMNS = 6


@dataclass(frozen=True)
class PartName:
    """What the name of a part says.

    Attributes:
        name: The name itself.
        merged: Whether a compaction made it.
        launch: Who wrote it.
        number: Which of the launch's parts it is.
        checksum: CRC-32 of the file in hexadecimal digits, None for a part of an earlier version.
        format: Of FORMATS.
    """

    name: str
    merged: bool
    launch: str
    number: int
    checksum: str | None
    format: str

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """What a name says; None for a file that is no part."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return cls(name, bool(match[1]), match[2], int(match[3]), match[4], match[5])

    @property
    def ordinal(self) -> int:
        """The place of its launch in the order of launches."""
        return int(self.launch.partition("-")[0])


def part_name(launch: str, number: int, data: bytes, format_name: str, *, merged: bool = False) -> str:
    """The name for a part of this content."""
    prefix = "merged-" if merged else ""
    return f"{prefix}{launch}-{number:06d}-{checksum(data)}.{format_name}"


def checksum(data: bytes) -> str:
    """CRC-32 as in a part's name."""
    return f"{zlib.crc32(data):08x}"


def encode_part(format_name: str, tables: Iterable[pa.Table], replaces: dict[str, int] | None = None) -> bytes:
    """The content of a part: a row group for each table; at least one table.

    Args:
        format_name: Of FORMATS.
        tables: Of one schema.
        replaces: The parts that it replaces, by name, and how many rows each of them had.
    """
    return _parquet(tables, replaces) if format_name == "parquet" else _json_lines(tables, replaces)


def read_replaced(name: str, source: pa.NativeFile) -> dict[str, int]:
    """The parts that a merged part replaces, by name, and how many rows each had.

    Raises:
        StorageError: The part is damaged.
    """
    import pyarrow.parquet as pq

    with _damage_named(name):
        if name.endswith(".jsonl"):
            line = bytes(source.read()).split(b"\n", 1)[0]
            return dict(json.loads(line)[_REPLACES])
        metadata = pq.read_metadata(source).metadata or {}
        return dict(json.loads(metadata[_REPLACES.encode()]))


def read_part(
    kind: RecordKind,
    path: str,
    source: pa.NativeFile,
    columns: Sequence[str] | None,
    where: pc.Expression | None = None,
    *,
    buffered: bool = True,
) -> Iterator[pa.Table]:
    """The rows of a part, a row group at a time, those for which `where` holds.

    Args:
        kind: Of the rows.
        path: For messages.
        source: The part's content.
        columns: The pinned columns that are wanted; None for those and all others that it has.
        where: A condition on pinned columns; whole row groups are passed over where their statistics rule it out.
        buffered: Fetch all that is wanted of a row group at once.

    Raises:
        StorageError: The part is damaged; it names the file.
    """
    with _damage_named(path):
        if path.endswith(".jsonl"):
            yield from _read_lines(kind, path, source, columns, where)
        elif where is not None:
            yield from _read_where(kind, source, columns, where, buffered)
        else:
            yield from _read_groups(kind, source, columns, buffered)


def check_whole(path: str, data: bytes) -> None:
    """StorageError for a part whose content is not what its name says."""
    name = PartName.parse(path.rpartition("/")[2])
    if name and name.checksum not in {None, checksum(data)}:
        with _damage_named(path):
            raise ValueError("its checksum is not the one in its name")


def part_schema(kind: RecordKind, path: str, data: bytes) -> pa.Schema:
    """The columns that `read_part` gives of a part when it is asked for all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.endswith(".jsonl"):
        return next(read_part(kind, path, pa.BufferReader(data), None)).schema
    with _damage_named(path):
        found, pinned = pq.read_schema(pa.BufferReader(data)), arrow.schema(kind)
        return pa.schema([*pinned, *(field for field in found if field.name not in pinned.names)], pinned.metadata)


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


def _parquet(tables: Iterable[pa.Table], replaces: dict[str, int] | None) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    writer: Any = None
    for table in tables:
        if writer is None:
            schema = table.schema
            if replaces is not None:
                schema = schema.with_metadata({**(schema.metadata or {}), _REPLACES: json.dumps(replaces)})
            dictionary = [name for name in schema.names if name not in _OF_MANY_VALUES]
            writer = pq.ParquetWriter(
                file, schema, compression="zstd", write_page_checksum=True, use_dictionary=dictionary
            )
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
    writer.close()
    return file.getvalue()


_OF_MANY_VALUES = {"id", "generation_id", "response", "reasoning", "seq", "saved_at"}
"""Columns in which values hardly repeat: to look for repetitions takes time and gains nothing."""


def _json_lines(tables: Iterable[pa.Table], replaces: dict[str, int] | None) -> bytes:
    lines: list[bytes] = []
    for table in tables:
        for row in arrow.to_rows(table):
            first = {_REPLACES: replaces} if replaces is not None and not lines else {}
            lines.append(json_line({**row, **first}))
    return b"".join(lines)


def json_line(row: dict[str, Any]) -> bytes:
    """A row as one line; a lone surrogate, which UTF-8 cannot hold, as the escape that JSON has for it."""
    # Values of columns of another version may be such as JSON does not know.
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def _read_groups(
    kind: RecordKind, source: pa.NativeFile, columns: Sequence[str] | None, buffered: bool
) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=buffered) as file:
        _check_id(file.schema_arrow.names)
        # The threads of a few columns gain nothing and take memory of their own.
        wanted, threads = (None, True) if columns is None else (list(columns), len(columns) > _FEW_COLUMNS)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, wanted, use_threads=threads)
            yield arrow.conform(kind, table, columns, keep_unknown=columns is None)


def _read_where(
    kind: RecordKind, source: pa.NativeFile, columns: Sequence[str] | None, where: pc.Expression, buffered: bool
) -> Iterator[pa.Table]:
    import pyarrow.dataset as ds

    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=buffered)
    fragment = ds.ParquetFileFormat(default_fragment_scan_options=options).make_fragment(source)
    _check_id(fragment.physical_schema.names)
    pinned = arrow.schema(kind)
    for group in fragment.split_by_row_group(where, pinned):
        table = group.to_table(pinned, columns=list(columns or pinned.names), filter=where)
        yield arrow.conform(kind, table, columns)


def _read_lines(
    kind: RecordKind, path: str, source: pa.NativeFile, columns: Sequence[str] | None, where: pc.Expression | None
) -> Iterator[pa.Table]:
    data = bytes(source.read())
    check_whole(path, data)
    # Not splitlines(): text may hold other characters that Python takes for the end of a line.
    rows = [json.loads(line) for line in data.split(b"\n") if line]
    for row in rows[:1]:
        row.pop(_REPLACES, None)
    table = arrow.from_rows(kind, rows, keep_unknown=columns is None)
    table = table if where is None else table.filter(where)
    yield table if columns is None else table.select(list(columns))


def _check_id(names: Sequence[str]) -> None:
    if "id" not in names:
        raise ValueError("it has no column id")


@contextlib.contextmanager
def _damage_named(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (FileNotFoundError, StorageError, MemoryError):  # gone meanwhile; a store that does not answer; Arrow's too
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"the part {path} is damaged: {error}; verify() with repair sets it aside, so that a resume asks for its "
            "rows again"
        ) from error
    finally:  # a pool keeps what it had, and a few hundred kB of Parquet take 20 MB to read
        pa.default_memory_pool().release_unused()
