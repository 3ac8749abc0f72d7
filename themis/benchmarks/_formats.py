"""Bytes of a data file -> rows, for every format that read_rows knows. Errors here name the row, not the file."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import math
import zipfile
from typing import IO, TYPE_CHECKING, Any, cast

from themis.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from themis.benchmarks.base import Row

_LONGEST_FIELD = 1 << 28
"""Characters of one csv field; the csv module's own limit of 131,072 is less than a long context has."""


def split_name(name: str) -> tuple[str, str]:
    """The endings of a file name in lower case: what it is, and how it is compressed ("" for not)."""
    parts = name.lower().rsplit("/", maxsplit=1)[-1].split(".")
    compression = parts.pop() if parts[-1] in {"gz", "zst"} else ""
    return (parts[-1] if len(parts) > 1 else ""), compression


def rows_of(stream: IO[bytes], name: str) -> Iterator[Row]:
    """The rows of one open file, lazily; its name says the format.

    Raises:
        DataError: A row, which it names, is not what the format says.
    """
    ending, compression = split_name(name)
    if ending not in FORMATS:
        raise DataError(f"{name} is not a data file; known endings are {', '.join(FORMATS)}")
    if compression == "gz":
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
    elif compression == "zst":
        import pyarrow as pa

        stream = io.BufferedReader(pa.input_stream(stream, compression="zstd"))
    if compression and ending == "parquet":
        stream = io.BytesIO(stream.read())  # read from its end, which a compressed stream cannot be
    return FORMATS[ending](stream)


def _text(stream: IO[bytes]) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _jsonl_rows(stream: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(_text(stream), 1):
        if line.strip():
            yield _object(_parse(line, f"line {number}"), f"line {number}")


def _json_rows(stream: IO[bytes]) -> Iterator[Row]:
    value = _parse(_text(stream).read(), "the file")
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if len(lists) != 1:
            raise DataError(f"the object must have one list of rows; it has {len(lists)}: {', '.join(lists)}")
        (value,) = lists.values()
    if not isinstance(value, list):
        raise DataError(f"the file holds a {type(value).__name__}; it must hold a list of objects")
    for number, item in enumerate(value, 1):
        yield _object(item, f"row {number}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if where == "the file" else ""
        raise DataError(f"{where} is not JSON: {error.msg} at {line}column {error.colno}") from error


def _no_number(_: str) -> None:
    """NaN and Infinity, which Python writes and JSON does not have."""


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where} is a {type(value).__name__}; every row must be an object")
    return value


def _csv_rows(stream: IO[bytes], delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.reader(_text(stream), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        for number, values in enumerate(filter(None, reader), 1):
            if len(values) != len(header):
                raise DataError(f"row {number} has {len(values)} fields, but the header {len(header)}")
            yield dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} is not what the ending says: {error}") from error


def _tsv_rows(stream: IO[bytes]) -> Iterator[Row]:
    return _csv_rows(stream, "\t")


def _parquet_rows(stream: IO[bytes]) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
        for row in batch.to_pylist():
            yield {key: _json_value(value) for key, value in row.items()}


def _zip_rows(stream: IO[bytes]) -> Iterator[Row]:
    with zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if split_name(name)[0] in FORMATS and "__MACOSX/" not in name]
        if len(names) != 1:
            found = (
                f"it has {len(names)}, {names[0]} the first" if names else f"it has {len(archive.namelist())} others"
            )
            raise DataError(f"a zip must have one data file in it; {found}")
        with archive.open(names[0]) as member:
            yield from rows_of(member, names[0])


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


FORMATS: dict[str, Callable[[IO[bytes]], Iterator[Row]]] = {
    "jsonl": _jsonl_rows,
    "ndjson": _jsonl_rows,
    "json": _json_rows,
    "csv": _csv_rows,
    "tsv": _tsv_rows,
    "parquet": _parquet_rows,
    "zip": _zip_rows,
}
