"""Files of this machine's disk: written whole or not at all, listed, synced."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa


@dataclass(frozen=True)
class Entry:
    """A file: its bytes, and when it changed (epoch seconds), where the store says so."""

    size: int
    changed_at: float | None = None


def scan(path: str, _: Any) -> list[dict[str, Any]]:
    """What is directly in a folder, as fsspec lists it."""
    entries = []
    with os.scandir(path) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                is_folder = entry.is_dir()
                kind, size = ("directory", 0) if is_folder else ("file", entry.stat().st_size)
                entries.append({"name": entry.name, "type": kind, "size": size})
    return entries


def walk(folder: Path, root: Path) -> Iterator[tuple[str, Entry]]:
    """All files below a folder, by their path from the root."""
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                file = Path(path, name)
                stat = file.stat()
                yield file.relative_to(root).as_posix(), Entry(stat.st_size, stat.st_mtime)


def open_local(path: str, _: Any) -> pa.NativeFile:
    """The file, to be read."""
    import pyarrow as pa

    return pa.OSFile(path)


def write_file(path: Path, data: bytes, put: Callable[[Path, Path], object]) -> None:
    """Write and sync a temporary file beside the path, put it there, and sync the folder."""
    with _temporary(path) as (temporary, file):
        file.write(data)
        _sync(file)
        put(temporary, path)
    _sync_folder(path.parent)


def copy_file(source: Path, path: Path) -> None:
    """The same with the content of another file."""
    with _temporary(path) as (temporary, file):
        with source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
        _sync(file)
        temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside the path that is gone afterwards, unless it was moved."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def link_new(temporary: Path, path: Path) -> None:
    """Put the file there unless there is one."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:  # somebody else was faster
        return
    except OSError:  # a disk without hard links
        temporary.replace(path)


def make_folder(path: Path) -> None:
    """Make the folder and its parents; those made are durable."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
