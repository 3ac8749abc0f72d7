"""Rows from anywhere: a file or URL that fsspec opens, or the place of a shipped benchmark's data."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from themis.benchmarks._formats import FORMATS, rows_of, split_name
from themis.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import fsspec

    from themis.benchmarks.base import Row

_KNOWN = f"{', '.join(f'.{ending}' for ending in FORMATS)}, each plain or with .gz or .zst"


def read_rows(url: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None) -> Iterator[Row]:
    """The rows of a data file in its order, lazily; of several files (a glob) one after the other, by name.

    The file's ending says what it is: jsonl (or ndjson), json (a list of objects, or an object with one list
    of them), csv, tsv or parquet, each plain or compressed as .gz or .zst; or a zip with one such file in it.
    A folder stands for the one data file in it. The values are JSON: a NaN becomes None, a date its ISO text,
    bytes their base64 text; csv and tsv have only text.

    Args:
        url: A path, or any URL that fsspec opens, hf://datasets/OWNER/NAME/FILE included.
        storage_options: Passed on to the fsspec filesystem.

    Raises:
        DataError: It cannot be opened or read; it names the URL, the row, the reason and what to do.
    """
    url = os.fspath(url)
    with _named(url):
        fs, path = _filesystem(url, storage_options or {})
        files = _files(fs, path, url)
    empty = True
    for file in files:
        with _named(file if len(files) > 1 else url), fs.open(file, "rb") as stream:
            for row in rows_of(stream, _name(file)):
                empty = False
                yield row
    if empty:
        raise DataError(f"{url}: there are no rows in it")


@contextmanager
def open_file(url: str) -> Iterator[IO[bytes]]:
    """A file at a path or URL, open for reading from any place in it.

    Raises:
        DataError: It cannot be opened, or what is done with it fails; it names the URL, the reason and what to do.
    """
    with _named(url):
        fs, path = _filesystem(url, {})
        with fs.open(path, "rb") as stream:
            yield stream


def file_exists(url: str) -> bool:
    """Whether there is a file at a path or URL."""
    with _named(url):
        fs, path = _filesystem(url, {})
        return bool(fs.exists(path))


def locate(file: str | Sequence[str], hub: str) -> str:
    """Where a shipped benchmark's rows are: $THEMIS_DATA/<file> where that exists, else its address on the hub.

    Of several files, or of those that fit a pattern as "mmlu/test.*", the first one that is there.
    """
    found = next((path for each in _names(file) if (path := _local(each)) and path.exists()), None)
    return str(found) if found else hub


def shipped_rows(file: str | Sequence[str], hub: str, *, instead: str = "give data=URL") -> Iterator[Row]:
    """The rows of a shipped benchmark, lazily; an error advises what can be done instead.

    Raises:
        DataError: They are neither on this machine nor to be had from the hub; it says how to get them.
    """
    place = locate(file, hub)
    try:
        yield from read_rows(place)
    except DataError as error:
        if place != hub:
            raise
        wanted = _names(file)[0]
        local = _local(wanted)
        here = f"THEMIS_DATA is set, but there is no {local}" if local else "THEMIS_DATA is not set"
        advice = f"to do without the hub, put the data at $THEMIS_DATA/{wanted}, or {instead}"
        raise DataError(f"{error} ({here}; {advice})") from error


def example_rows(file: str | Sequence[str], hub: str) -> Iterator[Row]:
    """As shipped_rows, of few-shot examples, whose place data=URL does not change."""
    return shipped_rows(file, hub, instead="ask without examples")


def read_text(url: str) -> str:
    """The text of a file at a path or any URL that fsspec opens.

    Raises:
        DataError: It cannot be read; it names the URL and the reason.
    """
    with _named(url):
        fs, path = _filesystem(url, {})
        return bytes(fs.cat_file(path)).decode("utf-8")


def _names(file: str | Sequence[str]) -> Sequence[str]:
    return [file] if isinstance(file, str) else file


def _local(file: str) -> Path | None:
    root = os.environ.get("THEMIS_DATA")
    if not root:
        return None
    return next(iter(sorted(Path(root).glob(file))), None) or Path(root) / file


def is_data_name(name: str) -> bool:
    """Whether a text can only mean data: it has a protocol, or the ending of a data file."""
    return "://" in name or split_name(_name(name))[0] in FORMATS


def stem(url: str) -> str:
    """The name of a data file without folders, endings and query; "custom" where nothing is left."""
    return Path(_name(url)).name.split(".", maxsplit=1)[0].strip("*? ") or "custom"


def _name(path: str) -> str:
    """The path that ends in the file's ending: of an HTTP URL without its query."""
    return urlsplit(path).path if path.startswith(("http://", "https://")) else path.split("::", maxsplit=1)[0]


def _filesystem(url: str, options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec

    if url.startswith("hf://"):
        # huggingface_hub reads HF_ENDPOINT when it is imported; here it counts when the rows are read.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
        options = {**({"endpoint": endpoint} if endpoint else {}), **options}
    fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path


def _files(fs: fsspec.AbstractFileSystem, path: str, url: str) -> list[str]:
    if "*" in path:
        if files := sorted(fs.glob(path)):
            return [str(file) for file in files]
        raise DataError(f"{url}: no file matches")
    if split_name(_name(path))[0] in FORMATS:
        return [path]
    if not fs.isdir(path):
        if not fs.exists(path):
            raise FileNotFoundError(path)
        raise DataError(f"{url}: its ending does not say what it is; known are {_KNOWN}")
    files = sorted(file for file in fs.find(path) if split_name(file)[0] in FORMATS)
    if len(files) == 1:
        return files
    found = f"it has {len(files)}, {files[0]} the first" if files else f"it has none ({_KNOWN})"
    raise DataError(f"{url} is a folder and must have one data file, but {found}; give the file, or a glob")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turns whatever a filesystem raises into a DataError that names the URL."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(url):
            raise
        raise DataError(f"{url}: {error}") from error
    except Exception as error:
        raise DataError(f"{url}: {_reason(error)}") from error


_UNREACHABLE = "its server cannot be reached ({cause}); check the network and the address"
# Filesystems have no error types in common, so the names of the types and of their bases must do; the first
# that fits counts.
_REASONS = {
    "GatedRepoError": "the data is gated: accept its terms on the hub, then set HF_TOKEN to that account's token",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, so that the hub may not be asked; unset it",
    "ImportError": "a package that opens it is missing: {error}",
    "RepositoryNotFoundError": "the hub has no such data set, or hides it: check the name, or set HF_TOKEN",
    "FileNotFoundError": "there is no such file; check the path",
    "EntryNotFoundError": "there is no such file; check the path",
    "PermissionError": "access is denied; check your credentials ({error})",
    "NoCredentialsError": "there are no credentials; set those of the storage ({error})",
    "TransportError": _UNREACHABLE,
    "ConnectionError": _UNREACHABLE,
    "TimeoutError": _UNREACHABLE,
    "ClientConnectionError": _UNREACHABLE,
}


def _reason(error: Exception) -> str:
    """What went wrong and what to do."""
    chain = list(_chain(error))
    names = {base.__name__ for cause in chain for base in type(cause).__mro__}
    if isinstance(error, UnicodeDecodeError | EOFError | gzip.BadGzipFile | zlib.error | zipfile.BadZipFile):
        return f"it is not what its ending says: {_short(error)}"
    known = next((text for name, text in _REASONS.items() if name in names), None)
    if known is None:
        return _short(error)
    return known.format(error=_short(error), cause=_short(chain[-1]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
