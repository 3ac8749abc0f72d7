"""Compaction: small parts become large ones, while others read and write, and whenever it is killed.

The merged part is written first, under a new name; it names the parts that it replaces. From then on readers pass over
those. They are removed afterwards, once the merged part was read back whole; what a killed compaction left of them,
the next one removes in the same way. A part that a writer puts back, because the reply to its first attempt was lost,
is passed over too.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from themis import arrow
from themis.backends._journal import OtherVersionError, journals_of, left_behind, read_journal
from themis.backends._parts import PartName, check_whole, encode_part, part_name, part_schema, read_part
from themis.backends._reader import Reader
from themis.backends._runs import KINDS
from themis.backends._writer import new_launch
from themis.backends.runs import Compaction
from themis.errors import StorageError
from themis.winners import DECIDING, Winners

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from themis.backends._place import Place
    from themis.backends._reader import Snapshot
    from themis.records import RecordKind

TARGET_BYTES = 64 << 20
"""Bytes of a merged part at most, as far as its originals' bytes tell; a part of half of it is large enough."""

_TRIES = 10

GROUP_BYTES = 32 << 20
GROUP_ROWS = 100_000
"""What a row group of a merged part has at most, in memory."""


class Upkeep:
    """Changes the parts of one run without changing its records."""

    def __init__(self, place: Place, run_id: str, format_name: str) -> None:
        self._place = place
        self._run_id = run_id
        self._format = format_name

    def compact(self, *, keep_replaced: bool) -> Compaction:
        """See FsspecStorageBackend.compact."""
        self.adopt_journals()
        done = [self._compact_kind(kind, keep_replaced=keep_replaced) for kind in KINDS]
        return Compaction(self._run_id, *map(sum, zip(*done, strict=True)))

    def reader(self, kind: RecordKind) -> Reader:
        """A reader of what is in parts and journals."""
        return Reader(self._place, self._run_id, kind, None, {})

    def adopt_journals(self) -> list[str]:
        """Turn what killed processes left in journals into parts; the paths of those journals.

        Raises:
            OtherVersionError: One is of another version; the others are parts by now.
        """
        if not self._place.local:
            return []
        folder = f"{self._run_id}/journal"
        adopted: list[str] = []
        strange: list[OtherVersionError] = []
        for kind in KINDS:
            for name in journals_of(kind, self._place.names(folder)):
                with orphaned(self._place.local_path(f"{folder}/{name}")) as gone:
                    if not gone:
                        continue
                    try:
                        self._adopt(kind, f"{folder}/{name}")
                        adopted.append(f"{folder}/{name}")
                    except OtherVersionError as error:
                        strange.append(error)
        if strange:
            raise strange[0]
        return adopted

    def write_part(
        self, kind: RecordKind, tables: Iterable[pa.Table], replaces: dict[str, int]
    ) -> tuple[str, int, int]:
        """Write tables of one schema, a row group each, as a merged part of the run; its path, rows and bytes."""
        counts: list[int] = []

        def counted() -> Iterator[pa.Table]:
            for table in tables:
                counts.append(table.num_rows)
                yield table

        data = encode_part(self._format, counted(), replaces)
        path = f"{self._run_id}/{kind}/{part_name(_launch(replaces), 0, data, self._format, merged=True)}"
        self._place.write(path, data)
        return path, sum(counts), len(data)

    def _compact_kind(self, kind: RecordKind, *, keep_replaced: bool) -> tuple[int, int, int, int, int]:
        """Parts before and after, their bytes before and after, rows left out."""
        for _ in range(_TRIES):
            try:
                found = self.reader(kind).snapshot()
                self._remove_replaced(kind, found)
                sizes, dropped = dict(found.parts), 0
                for group in self._groups(found.parts):
                    path, size, lost = self._merge(kind, group)
                    sizes = {other: n for other, n in sizes.items() if other not in group} | {path: size}
                    dropped += lost
                    if not keep_replaced:
                        self._check(kind, path, size)
                        self._place.remove_files(list(group))
            except FileNotFoundError:  # somebody else compacts this run too
                continue
            return len(found.parts), len(sizes), sum(found.parts.values()), sum(sizes.values()), dropped
        raise StorageError(f"run {self._run_id!r} in {self._place.url} is compacted by somebody else: try again later")

    def _remove_replaced(self, kind: RecordKind, found: Snapshot) -> None:
        """Remove what an earlier compaction left, when what replaced it is whole."""
        reader, names = self.reader(kind), {path.rpartition("/")[2] for path in found.replaced}
        for path, size in found.parts.items():
            if names and "/merged-" in path and not names.isdisjoint(reader.replaces(path, size)):
                self._check(kind, path, size)
        self._place.remove_files(found.replaced)

    def _check(self, kind: RecordKind, path: str, size: int) -> None:
        """StorageError unless the store gives a merged part back as it was written."""
        import pyarrow as pa

        data, url = self._place.read(path, size), f"{self._place.url}/{path}"
        check_whole(url, data)
        for _ in read_part(kind, url, pa.BufferReader(data), None):
            pass

    def _adopt(self, kind: RecordKind, path: str) -> None:
        with self._place.open_local(path) as source:
            table = read_journal(kind, path, source.read_buffer())
        if table.num_rows:
            # It replaces nothing: where the journal's own part was written just before its writer died, the same rows
            # are there twice, which count once.
            self.write_part(kind, [arrow.conform(kind, table)], {})
        self._place.remove_files([path])

    def _groups(self, parts: dict[str, int]) -> Iterator[dict[str, int]]:
        """Parts that become one: the small ones, and those of another format."""
        group: dict[str, int] = {}
        for path, size in parts.items():
            other = not path.endswith(self._format)
            if size >= TARGET_BYTES // 2 and not other:
                continue
            if group and sum(group.values()) + size > TARGET_BYTES:
                yield from self._worth_it(group)
                group = {}
            group[path] = size
        yield from self._worth_it(group)

    def _worth_it(self, group: dict[str, int]) -> Iterator[dict[str, int]]:
        if len(group) > 1 or any(not path.endswith(self._format) for path in group):
            yield group

    def _merge(self, kind: RecordKind, group: dict[str, int]) -> tuple[str, int, int]:
        """Write the merged part of a group: its path, its bytes, the rows left out."""
        import pyarrow as pa

        contents = self._place.read_many(list(group), sum(group.values()))
        if len(contents) < len(group):
            raise FileNotFoundError(f"parts of run {self._run_id} vanished")

        def tables(path: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
            return read_part(kind, f"{self._place.url}/{path}", pa.BufferReader(contents[path]), columns)

        chosen, rows = Winners(), 0
        replaces: dict[str, int] = {}
        deciding = [name for name in DECIDING if name in arrow.schema(kind).names]
        for path, size in group.items():
            check_whole(f"{self._place.url}/{path}", contents[path])
            found = list(tables(path, deciding))
            count = sum(table.num_rows for table in found)
            # With those that it replaced itself: a writer whose reply was lost may yet put one of them back.
            older = self.reader(kind).replaces(path, size) if "/merged-" in path else {}
            replaces |= {**older, path.rpartition("/")[2]: count}
            rows += count
            for table in found:
                chosen.add(table)
        chosen.decide()
        schemas = [part_schema(kind, path, contents[path]) for path in group]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        kept = (table.filter(chosen.take(table)) for path in group for table in tables(path, None))
        path, n_rows, size = self.write_part(kind, _row_groups(_aligned(table, schema) for table in kept), replaces)
        listed = self._place.files(f"{self._run_id}/{kind}").get(path.rpartition("/")[2])
        if listed != size:
            there = "is not there" if listed is None else f"has {listed} bytes"
            raise StorageError(f"cannot write {self._place.url}/{path}: {size} bytes were written, and it {there}")
        return path, size, rows - n_rows


@contextlib.contextmanager
def orphaned(journal: Path) -> Iterator[bool]:
    """Whether the journal is there and its writer is gone; it is locked meanwhile."""
    with left_behind(journal) as gone:
        # Who salvages removes it under the lock: who opened it before and locks it afterwards holds a removed file.
        yield gone and journal.exists()


def _launch(replaces: dict[str, int]) -> str:
    """An id that sorts after those of all merged parts that are replaced."""
    names = [PartName.parse(name) for name in replaces]
    return new_launch(max((name.ordinal for name in names if name), default=0) + 1)


def _aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema, null where it has none."""
    import pyarrow as pa

    if table.schema.equals(schema):
        return table
    return pa.concat_tables([pa.Table.from_batches([], schema), table], promote_options="permissive").cast(schema)


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables."""
    import pyarrow as pa

    gathered: list[pa.Table] = []
    rows = nbytes = 0
    for table in tables:
        gathered.append(table)
        rows, nbytes = rows + table.num_rows, nbytes + table.get_total_buffer_size()
        if rows >= GROUP_ROWS or nbytes >= GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, rows, nbytes = [], 0, 0
    if gathered:
        yield pa.concat_tables(gathered)
