"""A folder on any fsspec filesystem, reduced to the few verbs that a record store needs.

Every verb does what it says or raises StorageError with one sentence: the URL, what is wrong, what to do. Only
the FileNotFoundError of a read goes through: a file may vanish once it was listed, and the caller lists again.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from themis.errors import StorageError, UsageError
from themis.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

T = TypeVar("T")

FIRST_ANSWER = 10.0
"""Seconds that a store has for its first answer; a missing S3 endpoint can cost minutes of retries."""

_READ_AT_ONCE = 64
"""Objects fetched concurrently; bounds what is in memory besides the tables made of them."""


class Place:
    """The folder at a URL. Thread-safe; opens its filesystem anew in a forked child and after unpickling.

    Paths are relative to the folder, with "/" between their parts.
    """

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        self._given = _absolute(os.fspath(url))
        self.url = re.sub(r"//[^/@]*@", "//***@", self._given)  # a password has no place in a message
        self.options = dict(storage_options or {})
        self._opened: tuple[int, Any, str] | None = None
        fs, self._root = self._open()
        self.local: bool = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
        self._answered = self.local

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_opened": None,
        }  # a pickled filesystem would carry its secrets and connections

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return self._do("read", lambda fs: bytes(fs.cat_file(self._full(path))))

    def sources(self, paths: Sequence[str]) -> Iterator[tuple[str, pa.NativeFile]]:
        """Each path with its open file, in order; objects of a remote store are fetched many at once.

        Raises:
            FileNotFoundError: One of them is not there any more.
        """
        import pyarrow as pa

        if self.local:
            for path in paths:
                yield path, self._do("read", partial(_open_local, self._full(path)))
            return
        for start in range(0, len(paths), _READ_AT_ONCE):
            group = paths[start : start + _READ_AT_ONCE]
            contents = self._do("read", partial(_fetch, [self._full(path) for path in group]))
            yield from zip(group, map(pa.BufferReader, contents), strict=True)

    def write(self, path: str, data: bytes) -> None:
        """Put the file there, whole or not at all; on a local disk it is synced when this returns."""
        if self.local:
            self._change(lambda _: _write_file(Path(self._full(path)), data, os.replace))
        else:
            self._change(lambda fs: fs.pipe_file(self._full(path), data))

    def write_new(self, path: str, data: bytes) -> None:
        """Put the file there unless there is one."""
        if self.exists(path):
            return
        if self.local:
            self._change(lambda _: _write_file(Path(self._full(path)), data, _link_new))
        else:
            self._change(lambda fs: _create(fs, self._full(path), data))

    def exists(self, path: str = "") -> bool:
        """Whether there is a file, or a folder with something in it."""
        return self._do("read", lambda fs: bool(fs.exists(self._full(path))))

    def names(self, folder: str = "") -> list[str]:
        """The names of the files and folders directly in a folder, sorted, listed anew; [] where there is none."""
        try:
            entries = self._do("list", lambda fs: _list(fs, self._full(folder)))
        except FileNotFoundError as error:
            if "specified bucket does not exist" in str(error):  # the words of S3 and its kin
                raise self._explained("list", error) from error
            return []
        return sorted({entry.rstrip("/").rpartition("/")[2] for entry in entries} - {""})

    def remove(self, folder: str, last: str) -> None:
        """Delete a folder and all that is in it; of objects the one named `last` goes after the others."""
        full = self._full(folder)
        if self.local:
            self._change(lambda _: shutil.rmtree(full))
            return

        def remove_objects(fs: Any) -> None:
            fs.invalidate_cache()
            inside = [path for path in fs.find(full) if path.startswith(full + "/")]
            final = f"{full}/{last}"
            for group in ([path for path in inside if path != final], [path for path in inside if path == final]):
                if group:
                    fs.rm(group)
            if fs.isdir(full):  # a store that has folders
                fs.rm(full, recursive=True)

        self._change(remove_objects)

    def local_path(self, path: str) -> Path:
        """Where the file is on this machine's disk; only for a local place."""
        return Path(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")

    def _open(self) -> tuple[Any, str]:
        """The filesystem and the folder's path on it; a filesystem of its own for each process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *_open_filesystem(self._given, self.url, self.options))
        return self._opened[1], self._opened[2]

    def _do(self, doing: str, action: Callable[[Any], T]) -> T:
        try:
            if self._answered:
                return action(self._open()[0])
            result = _within(FIRST_ANSWER, lambda: action(self._open()[0]))
        except FileNotFoundError:
            self._answered = True
            raise
        except Exception as error:
            raise self._explained(doing, error) from error
        self._answered = True
        return result

    def _change(self, action: Callable[[Any], Any]) -> None:
        try:
            self._do("write", action)
        except FileNotFoundError as error:
            raise self._explained("write", error) from error

    def _explained(self, doing: str, error: Exception) -> StorageError:
        return StorageError(f"cannot {doing} {self.url}: {explain(error)}")


def explain(error: BaseException) -> str:
    """What is wrong and what to do, in a clause, for whatever a filesystem raises."""
    name = type(error).__name__
    if name in {"NoCredentialsError", "PartialCredentialsError"}:
        return f"{error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give storage_options"
    if isinstance(error, PermissionError):
        return f"no permission ({error}); check the credentials and what they may do there"
    if isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
        return f"a file is in the way of a folder ({error}); remove it or choose another URL"
    if isinstance(error, FileNotFoundError):
        return f"{error}; make the bucket or folder first, or choose another URL"
    if isinstance(error, TimeoutError | ConnectionError) or "Connect" in name or "Timeout" in name:
        return f"the store does not answer ({error}); check its address and the network"
    return f"{name}: {error}"


def _absolute(url: str) -> str:
    """The URL itself; a plain path made absolute, so that neither chdir nor another process moves it."""
    return url if "://" in url or "::" in url else str(Path(url).expanduser().absolute())


def _open_filesystem(given: str, shown: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    try:
        # Not shared with other users of fsspec, whose cached listings would hide what other processes write.
        arguments = {"use_listings_cache": False, **options, "skip_instance_cache": True}
        fs, path = fsspec.core.url_to_fs(given, **arguments)
    except ImportError as error:
        raise UsageError(f"{shown} cannot be used: {error}") from error
    except ValueError as error:
        if not str(error).startswith("Protocol not known"):
            raise UsageError(f"{shown} cannot be used: {error}") from error
        protocol = given.partition("://")[0]
        guess = nearest(protocol, fsspec.available_protocols())
        hint = f", did you mean {guess}://?" if guess else "."
        raise UsageError(
            f"{shown} cannot be used: fsspec knows no protocol {protocol!r}{hint} "
            "Give a path, file://, memory://, s3://, gs://, abfs:// or another that fsspec knows."
        ) from error
    except TypeError as error:
        raise UsageError(f"{shown} cannot be opened with these storage_options: {error}") from error
    return fs, path


def _within(seconds: float, action: Callable[[], T]) -> T:
    """The action's result; TimeoutError when it takes longer, and it is left to end on its daemon thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - raised below, on the caller's thread
            errors.append(error)

    thread = threading.Thread(target=call, name="themis-first-answer", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def _list(fs: Any, path: str) -> list[str]:
    fs.invalidate_cache()  # some filesystems cache listings whatever they are told
    return list(fs.ls(path, detail=False))


def _open_local(path: str, _: Any) -> pa.NativeFile:
    import pyarrow as pa

    return pa.OSFile(path)


def _fetch(paths: list[str], fs: Any) -> list[bytes]:
    """The whole objects, in order, fetched concurrently where the filesystem can."""
    if len(paths) == 1:  # `cat` of one path gives no dict
        return [fs.cat_file(paths[0])]
    contents = fs.cat(paths)
    return [contents[path] for path in paths]


def _create(fs: Any, path: str, data: bytes) -> None:
    """Write the object unless there is one, where the store can tell; else write it."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:  # somebody else was faster
        return
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:  # noqa: BLE001 - some stores refuse conditional writes, each with another error
        fs.pipe_file(path, data)


def _write_file(path: Path, data: bytes, put: Callable[[Path, Path], None]) -> None:
    """Write and sync a temporary file beside the path, put it there, and sync the folder."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _link_new(temporary: Path, path: Path) -> None:
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
