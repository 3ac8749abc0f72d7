"""A folder on any fsspec filesystem, reduced to the few verbs that a record store needs.

Every verb does what it says or raises StorageError with one sentence: the URL, what is wrong, what to do. Only
the FileNotFoundError of a read goes through: a file may vanish once it was listed, and the caller lists again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from themis.backends._causes import explain, is_refused, may_pass
from themis.backends._disk import Entry, copy_file, link_new, open_local, scan, walk, write_file
from themis.errors import StorageError, UsageError
from themis.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_ANSWER = 10.0
"""Seconds that a store has for its first answer to each verb: a missing S3 endpoint can cost minutes of retries, and
who may not write should hear of it before a model is asked."""

RETRY_SECONDS = 60.0
"""Seconds for which a request to a store is made again after an error that may pass."""

_SLOWEST = 1e6
"""Bytes per second; what moves data has its deadline and what the data takes at this rate."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two attempts at a request."""

_READ_AT_ONCE = 32
"""Objects fetched concurrently. One by one: to fetch a list of paths, fsspec first asks of each whether it is there."""

_REMOVED_AT_ONCE = 500

_LARGE = 8 << 20
"""Bytes of an object of which a filesystem may fetch pieces at the same time."""


class Place:
    """The folder at a URL. Thread-safe; opens its filesystem anew in a forked child and after unpickling.

    Paths are relative to the folder, with "/" between their parts.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._given = _absolute(os.fspath(url))
        self.url = shown(self._given)
        self.options = dict(storage_options or {})
        self.retry_seconds = retry_seconds
        self._opened: tuple[int, Any, str] | None = None
        fs, self._root = self._open()
        self.local: bool = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
        self._answered: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_opened": None,
        }  # a pickled filesystem would carry its secrets and connections

    def read(self, path: str, size: int = 0) -> bytes:
        """The whole file, which has about so many bytes. Raises FileNotFoundError."""
        return self._do("read", partial(_cat, self._full(path), size), size)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes from start up to end. Raises FileNotFoundError."""
        return self._do("read", lambda fs: bytes(fs.cat_file(self._full(path), start=start, end=end)), end - start)

    def read_many(self, paths: Sequence[str], size: int = 0) -> dict[str, bytes]:
        """The whole files by path, fetched many at once; those that are not there are left out.

        Args:
            paths: Of the files.
            size: About how many bytes they are together.
        """

        def fetch(path: str) -> bytes | None:
            try:
                return self.read(path, size)
            except FileNotFoundError:
                return None

        if self.local or len(paths) < 2:
            found = list(map(fetch, paths))
        else:
            with ThreadPoolExecutor(_READ_AT_ONCE, "themis-read") as pool:
                found = list(pool.map(fetch, paths))
        return {path: data for path, data in zip(paths, found, strict=True) if data is not None}

    def open_local(self, path: str) -> pa.NativeFile:
        """A file of this machine's disk. Raises FileNotFoundError."""
        return self._do("read", partial(open_local, self._full(path)))

    def write(self, path: str, data: bytes, until: float | None = None) -> None:
        """Put the file there, whole or not at all; on a local disk it is synced when this returns.

        A store that does not take it is asked again until then (monotonic), by default for `retry_seconds`.
        """
        if self.local:
            self._change(lambda _: write_file(Path(self._full(path)), data, os.replace))
        else:
            self._change(lambda fs: fs.pipe_file(self._full(path), data), len(data), until)

    def upload(self, source: Path, path: str) -> None:
        """Put a large file of this machine's disk there, whole or not at all."""
        if self.local:
            self._change(lambda _: copy_file(source, Path(self._full(path))))
        else:
            self._change(lambda fs: fs.put_file(str(source), self._full(path)), source.stat().st_size)

    def write_new(self, path: str, data: bytes) -> None:
        """Put the file there unless there is one."""
        if self.exists(path):
            return
        if self.local:
            self._change(lambda _: write_file(Path(self._full(path)), data, link_new))
        else:
            self._change(lambda fs: _create(fs, self._full(path), data))

    def exists(self, path: str = "") -> bool:
        """Whether there is a file, or a folder with something in it."""
        return self._do("read", lambda fs: bool(fs.exists(self._full(path))))

    def names(self, folder: str = "") -> list[str]:
        """The names of the files and folders directly in a folder, sorted, listed anew; [] where there is none."""
        return sorted(self._entries(folder))

    def files(self, folder: str) -> dict[str, int]:
        """The files directly in a folder with their bytes, by name, sorted, listed anew."""
        entries = self._entries(folder)
        return {name: int(entries[name]["size"] or 0) for name in sorted(entries) if _is_file(entries[name])}

    def folders(self) -> list[str]:
        """The names of the folders at the root, sorted, listed anew."""
        return sorted(name for name, entry in self._entries("").items() if not _is_file(entry))

    def tree(self, folder: str = "") -> dict[str, Entry]:
        """All files below a folder, by their path from the root; those that vanish meanwhile may be left out."""
        full = self._full(folder)
        if self.local:
            return self._do("list", lambda _: dict(walk(Path(full), Path(self._full("")))))
        found = self._do("list", lambda fs: _find(fs, full))
        skip = len(self._full("")) + 1
        return {path[skip:]: _entry(info) for path, info in found.items() if path.startswith(f"{full}/")}

    def remove_files(self, paths: Sequence[str]) -> None:
        """Delete files; one that is not there is none too many."""
        full = [self._full(path) for path in paths]
        for start in range(0, len(full), _REMOVED_AT_ONCE):
            self._change(partial(_remove, full[start : start + _REMOVED_AT_ONCE]))

    def remove(self, folder: str, last: str) -> None:
        """Delete a folder and all that is in it; of objects the one named `last` goes after the others."""
        full = self._full(folder)
        if self.local:
            self._change(lambda _: shutil.rmtree(full))
            return

        def remove_objects(fs: Any) -> None:
            inside = [path for path in _find(fs, full) if path.startswith(full + "/")]
            final = f"{full}/{last}"
            for group in ([path for path in inside if path != final], [path for path in inside if path == final]):
                if group:
                    _remove(group, fs)
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

    def _entries(self, folder: str) -> dict[str, dict[str, Any]]:
        """What is directly in a folder, by name; {} where there is none."""
        full = self._full(folder)
        try:
            entries = self._do("list", partial(scan if self.local else _list, full))
        except FileNotFoundError as error:
            if "specified bucket does not exist" in str(error):  # the words of S3 and its kin
                raise self._explained("list", error) from error
            return {}
        named = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries if entry["name"] != full}
        return {name: entry for name, entry in named.items() if name}

    def _do(self, doing: str, action: Callable[[Any], T], nbytes: int = 0, until: float | None = None) -> T:
        """What the action gives; it moves so many bytes, and is tried again until then (monotonic)."""
        try:
            if self.local:
                return action(self._open()[0])
            until = time.monotonic() + self.retry_seconds if until is None else until
            result = self._ask(doing, action, nbytes / _SLOWEST, until)
        except FileNotFoundError:
            self._answered.add(doing)
            raise
        except Exception as error:
            raise self._explained(doing, error) from error
        self._answered.add(doing)
        return result

    def _ask(self, doing: str, action: Callable[[Any], T], extra: float, until: float) -> T:
        """What a store answers; asked again, ever more slowly, after what may pass, until the deadline."""
        shortest = FIRST_ANSWER
        if doing not in self._answered:
            until, shortest = time.monotonic() + FIRST_ANSWER, 0.0
        pause, reason = _FIRST_PAUSE, None
        while True:
            left = until - time.monotonic()
            try:
                return _within(max(left, shortest) + extra, lambda: action(self._open()[0]))
            except Exception as error:  # noqa: BLE001 - raised again, or what it hides
                left = until - time.monotonic()
                # That nothing came in what time was left says less than what came before.
                reason = reason if reason and isinstance(error, TimeoutError) else error
                if not may_pass(error) or left <= 0:
                    raise reason from None
                logger.info("%s: asked again in %.1f s: %s", self.url, min(pause, left), error)
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _change(self, action: Callable[[Any], Any], nbytes: int = 0, until: float | None = None) -> None:
        try:
            self._do("write", action, nbytes, until)
        except FileNotFoundError as error:
            raise self._explained("write", error) from error

    def _explained(self, doing: str, error: Exception) -> StorageError:
        return StorageError(f"cannot {doing} {self.url}: {explain(error)}")


def shown(url: str) -> str:
    """The URL for a message, where neither a password nor a signature in its query has a place."""
    if "://" not in url:
        return url
    # A password may hold a slash, and then its "@" stands behind it.
    masked = re.sub(r"//(?:[^/@:]*:(?!\d+/)[^@]*|[^/@]*)@", "//***@", url)
    return re.sub(r"\?.+", "?***", masked)


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

    thread = threading.Thread(target=call, name="themis-store", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # at the end of a program Python begins no more threads: better late than not at all
        call()
    else:
        thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def _list(path: str, fs: Any) -> list[dict[str, Any]]:
    fs.invalidate_cache()  # some filesystems cache listings whatever they are told
    return list(fs.ls(path, detail=True))


def _is_file(entry: dict[str, Any]) -> bool:
    return bool(entry["type"] != "directory")


def _find(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    """All objects below a path, listed anew."""
    fs.invalidate_cache()
    return dict(fs.find(path, detail=True))


def _entry(info: dict[str, Any]) -> Entry:
    """Every filesystem has another name for the time of the last change."""
    times = (info.get(name) for name in ("LastModified", "last_modified", "updated", "mtime", "modified", "created"))
    found = next((value for value in times if value is not None), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return Entry(int(info.get("size") or 0), found.timestamp() if isinstance(found, datetime) else found)


def _remove(paths: list[str], fs: Any) -> None:
    """Delete the objects, as many at once as the filesystem can; some complain about one that is gone."""
    try:
        fs.rm(paths)
    except FileNotFoundError:
        for path in paths:
            with suppress(FileNotFoundError):
                fs.rm(path)


def _cat(path: str, size: int, fs: Any) -> bytes:
    """A whole object; s3fs asks for its size first, which takes as long, unless a range is asked for."""
    if size > _LARGE:
        return bytes(fs.cat_file(path))
    try:
        return bytes(fs.cat_file(path, start=0))
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) or "ange" not in str(error):
            raise
        return bytes(fs.cat_file(path))  # an object of no bytes has no range


def _create(fs: Any, path: str, data: bytes) -> None:
    """Write the object unless there is one, where the store can tell; else write it."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:  # somebody else was faster
        return
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        # Some stores refuse conditional writes, each with another error, and some mean by it that there is one.
        if not is_refused(error):
            raise
        if not fs.exists(path):
            fs.pipe_file(path, data)
