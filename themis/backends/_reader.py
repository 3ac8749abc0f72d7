"""Reading one kind of a run's records: what is in memory, in journals and in parts, each row once.

A reader lists first and reads afterwards. What vanished in between, a journal that became a part or parts that were
merged, makes it list again.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from themis import arrow
from themis.backends._journal import journals_of, read_journal
from themis.backends._parts import PartName, read_part, read_replaced
from themis.errors import StorageError
from themis.winners import DECIDING, IdSet, Settled, Winners, winners

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc

    from themis.backends._place import Place
    from themis.backends._writer import Writer
    from themis.records import RecordKind

T = TypeVar("T")

_LISTINGS = 10
"""How often a reader lists again because a file vanished before it was read."""

_WHOLE = 512 << 10
"""An object of at most so many bytes is fetched whole: another request would take longer."""

_TAIL = 64 << 10
"""Bytes at the end of a part that are fetched first: they hold the description of what is where."""

_PARTS_AT_ONCE = 16
_BYTES_AT_ONCE = 64 << 20
"""Objects, and bytes of them, that are fetched ahead of who reads them."""


@dataclass(frozen=True)
class Snapshot:
    """Where the rows of a kind were found, in the order in which they are read.

    Attributes:
        pending: Tables of this process's own writer that are in no part yet.
        journals: Paths of other writers' journals.
        parts: The parts that count, and their bytes, by path.
        replaced: Paths of parts that a merged part replaces and that are there nevertheless.
    """

    pending: list[pa.Table]
    journals: list[str]
    parts: dict[str, int]
    replaced: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self.pending or self.journals or self.parts)


class Reader:
    """Reads the rows of one kind of one run.

    Args:
        place: Where runs are.
        run_id: The run.
        kind: Of records.
        writer: This process's own writer of the run, when there is one.
        known: What merged parts replace, by path, kept between readers: parts never change.
    """

    def __init__(
        self,
        place: Place,
        run_id: str,
        kind: RecordKind,
        writer: Writer | None,
        known: dict[str, dict[str, int]],
    ) -> None:
        self._place = place
        self._run_id = run_id
        self._kind = kind
        self._writer = writer
        self._known = known
        names = arrow.schema(kind).names
        self._deciding = [name for name in DECIDING if name in names]

    def snapshot(self) -> Snapshot:
        """What there is to be read now."""
        # The order matters: rows move from memory and journal into a part, so that who looks at the parts last
        # may see a row twice, and never misses one.
        pending = self._writer.pending(self._kind) if self._writer else []
        journals = []
        if self._place.local:
            own = f"{self._writer.launch}-" if self._writer else "\0"
            names = journals_of(self._kind, self._place.names(f"{self._run_id}/journal"))
            journals = [f"{self._run_id}/journal/{name}" for name in names if not name.startswith(own)]
        folder = f"{self._run_id}/{self._kind}"
        parts = {f"{folder}/{name}": size for name, size in self.listed(folder).items() if PartName.parse(name)}
        merged = [path for path in parts if "/merged-" in path]
        replaced = {f"{folder}/{name}" for path in merged for name in self.replaces(path, parts[path])}
        live = {path: size for path, size in parts.items() if path not in replaced}
        return Snapshot(pending, journals, live, sorted(replaced & set(parts)))

    def replaces(self, path: str, size: int) -> dict[str, int]:
        """The names of the parts that a merged part replaces, and the rows that each had."""
        if path not in self._known:
            with self._source(path, size, whole=path.endswith(".jsonl")) as source:
                self._known[path] = read_replaced(f"{self._place.url}/{path}", source)
        return self._known[path]

    def table(self, columns: Sequence[str]) -> pa.Table | None:
        """The named columns of the winning rows; None when there are no rows at all."""
        import pyarrow as pa

        wanted = list(dict.fromkeys([*columns, *self._deciding]))
        tables = self._again(lambda found: list(self.tables(found, wanted)))
        return winners(pa.concat_tables(tables)).select(list(columns)) if tables else None

    def batches(self, columns: Sequence[str] | None, where: pc.Expression | None = None) -> Iterator[pa.Table]:
        """The winning rows, those for which `where` holds, table by table; in memory are keys and some tables.

        What is saved meanwhile is not promised to be among them.
        """
        names = arrow.schema(self._kind).names if columns is None else list(columns)
        wanted = list(dict.fromkeys([*names, *self._deciding]))
        done = IdSet().keys
        for _ in range(_LISTINGS):
            chosen = Winners(without=done)
            try:
                found = self.snapshot()
                for table in self.tables(found, self._deciding):
                    chosen.add(table)
                chosen.decide()
                for table in self.tables(found, wanted, where):
                    rows = table.filter(chosen.take(table))
                    if rows.num_rows:
                        yield rows.select(names)
            except FileNotFoundError:
                done = chosen.taken()
                continue
            return
        raise self._too_fast()

    def ids(self, without_errors: Collection[str]) -> IdSet:
        """The ids of the records that stand: see StorageBackend.ids."""
        columns = self._deciding + ["error_kind"] * ("error_kind" in arrow.schema(self._kind).names)

        def collect(found: Snapshot) -> IdSet:
            settled = Settled(without_errors)
            for table in self.tables(found, columns):
                settled.add(table)
            return settled.ids()

        return self._again(collect)

    def values(self, column: str) -> set[Any]:
        """The different values in a column, of rows that do not win too; None not among them."""

        def collect(found: Snapshot) -> set[Any]:
            tables = self.tables(found, [column])
            return {value for table in tables for value in table.column(column).unique().to_pylist()} - {None}

        return self._again(collect)

    def tables(
        self, found: Snapshot, columns: Sequence[str] | None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """All rows of a snapshot, also those that do not win.

        Raises:
            FileNotFoundError: Something vanished.
        """
        for table in chain(found.pending, map(self._journal, found.journals)):
            yield arrow.conform(self._kind, table if where is None else table.filter(where), columns)
        for path, source in self._sources(found.parts, whole=columns is None):
            with source:
                url = f"{self._place.url}/{path}"
                yield from read_part(self._kind, url, source, columns, where, buffered=not self._place.local)

    def listed(self, folder: str) -> dict[str, int]:
        """The files of a folder, as they were at one moment."""
        files = self._place.files(folder)
        # A disk lists in no order: of a part that is being replaced neither may show. Twice the same is true.
        for _ in range(_LISTINGS if self._place.local else 0):
            again = self._place.files(folder)
            if again.keys() == files.keys():
                break
            files = again
        return files

    def _again(self, read: Callable[[Snapshot], T]) -> T:
        """What a function makes of a snapshot of which nothing vanished while it read."""
        for _ in range(_LISTINGS):
            try:
                return read(self.snapshot())
            except FileNotFoundError:
                continue
        raise self._too_fast()

    def _too_fast(self) -> StorageError:
        return StorageError(f"run {self._run_id!r} in {self._place.url} changes faster than it can be read: try again")

    def _journal(self, path: str) -> pa.Table:
        with self._place.open_local(path) as source:
            return read_journal(self._kind, path, source.read_buffer())

    def _sources(self, parts: dict[str, int], *, whole: bool) -> Iterator[tuple[str, pa.NativeFile]]:
        """The parts, each open, in order; objects of a store are opened and fetched ahead, many at once."""
        if self._place.local:
            for path in parts:
                yield path, self._place.open_local(path)
            return
        waiting: deque[tuple[str, int, Any]] = deque()
        left = deque(parts.items())
        held = 0
        with ThreadPoolExecutor(_PARTS_AT_ONCE, "themis-read") as pool:
            while left or waiting:
                while left and len(waiting) < _PARTS_AT_ONCE and (not held or held + left[0][1] <= _BYTES_AT_ONCE):
                    path, size = left.popleft()
                    held += size
                    waiting.append((path, size, pool.submit(self._source, path, size, whole=whole)))
                path, size, source = waiting.popleft()
                yield path, source.result()
                held -= size

    def _source(self, path: str, size: int, *, whole: bool) -> pa.NativeFile:
        import pyarrow as pa

        if self._place.local:
            return self._place.open_local(path)
        if whole or size <= _WHOLE or path.endswith(".jsonl"):
            return pa.BufferReader(self._place.read(path, size))
        return pa.PythonFile(_Ranges(self._place, path, size), mode="r")


class _Ranges(io.RawIOBase):
    """An object of which only what is read is fetched; its end, where a part says what is where, at once."""

    def __init__(self, place: Place, path: str, size: int) -> None:
        self._place = place
        self._path = path
        self._size = size
        self._at = 0
        self._tail_from = max(size - _TAIL, 0)
        self._tail = place.read_range(path, self._tail_from, size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, so many or all that are left."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        start, self._at = self._at, max(end, self._at)
        if start >= end:
            return b""
        if start >= self._tail_from:
            return self._tail[start - self._tail_from : end - self._tail_from]
        data = self._place.read_range(self._path, start, end)
        if len(data) != end - start:
            raise StorageError(f"cannot read {self._place.url}/{self._path}: it was cut off; try again")
        return data
