"""What can still be read of a damaged part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from themis.records import RecordKind


def readable_groups(kind: RecordKind, path: str, data: bytes) -> Iterator[pa.Table]:
    """The row groups of a Parquet part whose pages all have their checksums, where others have not.

    Nothing where all of them have: then the damage is in what describes the pages, and no row can be trusted.
    """
    groups = list(_groups(kind, path, data, None))
    if any(group is None for group in groups):
        yield from (group for group in groups if group is not None)


def lost_ids(kind: RecordKind, path: str, data: bytes) -> tuple[list[str], int | None]:
    """The ids in the row groups that cannot be read, as far as these can be; and how many rows that are."""
    if path.endswith(".jsonl"):
        lines = [line for line in data.split(b"\n") if line]
        return [name for line in lines if (name := _id_in(line))], len(lines)
    groups = list(_groups(kind, path, data, None))
    if not groups:
        return [], None
    ids = list(_groups(kind, path, data, ["id"]))
    some_readable = any(group is None for group in groups)
    lost = [ids[place] for place, group in enumerate(groups) if group is None or not some_readable]
    counts = _row_counts(data)
    n_rows = sum(counts[place] for place, group in enumerate(groups) if group is None or not some_readable)
    return [name for table in lost if table is not None for name in table.column("id").to_pylist()], n_rows


def _groups(kind: RecordKind, path: str, data: bytes, columns: list[str] | None) -> Iterator[pa.Table | None]:
    """Each row group, None for one that cannot be read; nothing where not even their number can be told."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.endswith(".jsonl"):
        return
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        pinned = file.schema_arrow.equals(arrow.schema(kind))
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return
    if not pinned:  # damaged itself, or of another version
        return
    for number in range(file.num_row_groups):
        try:
            yield arrow.conform(kind, file.read_row_group(number, columns), columns)
        except MemoryError:  # which is an ArrowException too
            raise
        except (pa.ArrowException, OSError, ValueError, UsageError):
            yield None


def _id_in(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["id"])
    except (ValueError, TypeError, KeyError):
        return None


def _row_counts(data: bytes) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata: Any = pq.read_metadata(pa.BufferReader(data))
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
