"""Rows of a recording: files of this machine, read whole."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from themis.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, Any]

_SUFFIX = re.compile(r"\.(jsonl|ndjson|json|parquet)(\.(gz|zst|bz2|lz4))?$", re.IGNORECASE)


def read_rows(location: str, columns: Iterable[str] | None = None) -> list[Row]:
    """The rows of a file, or of every file of a folder, in the order of their names.

    Args:
        location: A path or file:// URL of a .jsonl, .json (a list of objects) or .parquet file, the text ones
            as .gz, .zst, .bz2 or .lz4 too; a .zip with one of the text ones in it; or the folder of a run (its
            "generations" are read) or of such files.
        columns: The fields that are needed; others may be left out.

    Raises:
        UsageError: It is not on this machine, or of no known format.
        DataError: There is no such file, or a row is not an object; rows count from 1.
    """
    path = local_path(location)
    folder = path / "generations" if (path / "generations").is_dir() else path
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if _SUFFIX.search(file.name))
        if not files:
            raise DataError(f"{folder} has no .jsonl, .json or .parquet file")
        return [row for file in files for row in _read_file(file, columns)]
    if not path.is_file():
        raise DataError(f"there is no file {path}; a recording is a .jsonl, .json or .parquet file, or a run's folder")
    return _read_file(path, columns)


def local_path(location: str) -> Path:
    """The path that a path or file:// URL names.

    Raises:
        UsageError: It is on another machine.
    """
    parts = urlsplit(location)
    if "://" not in location:
        return Path(location).expanduser()
    if parts.scheme != "file":
        raise UsageError(
            f"a recording is read from a path or file:// URL, not from {parts.scheme}://; for a stored run "
            "use ReplayModel(storage.load_generation_records(run_id)), for other files ReplayModel(rows)"
        )
    return Path(unquote(parts.path))


def _read_file(path: Path, columns: Iterable[str] | None) -> list[Row]:
    if path.suffix.lower() == ".zip":
        return _read_zip(path)
    match = _SUFFIX.search(path.name)
    if match is None:
        raise UsageError(f"{path} is of no known format; give .jsonl, .json (both also .gz, .zst), .parquet or .zip")
    if match[1].lower() == "parquet":
        return _read_parquet(path, columns)
    text = _read_text(path, match[3])
    return _json_list(text, path) if match[1].lower() == "json" else _json_lines(text, path)


def _read_zip(path: Path) -> list[Row]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".json", ".jsonl", ".ndjson"))]
        if len(names) != 1:
            raise DataError(f"{path} has to have one .json or .jsonl file in it; it has {len(names)}")
        text = archive.read(names[0]).decode("utf-8")
    return _json_list(text, path) if names[0].lower().endswith(".json") else _json_lines(text, path)


def _read_text(path: Path, compression: str | None) -> str:
    if compression is None:
        return path.read_text("utf-8")
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as stream:
        return bytes(stream.read()).decode("utf-8")


def _read_parquet(path: Path, columns: Iterable[str] | None) -> list[Row]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    wanted = None if columns is None else [name for name in file.schema_arrow.names if name in set(columns)]
    rows: list[Row] = file.read(columns=wanted).to_pylist()
    return rows


def _json_lines(text: str, path: Path) -> list[Row]:
    # Not splitlines(): JSON may hold U+2028 as it stands.
    lines = enumerate(text.split("\n"), 1)
    return [_row(line, number, path) for number, line in lines if line.strip()]


def _row(line: str, number: int, path: Path) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: row {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: row {number} is a {type(row).__name__}, not an object")
    return row


def _json_list(text: str, path: Path) -> list[Row]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; if each line is an object, name it .jsonl") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has to be a list of objects")
    return rows
