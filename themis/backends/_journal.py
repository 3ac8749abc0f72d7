"""Journals: local files that keep accepted rows until they are in a part, readable when their process was killed.

Tables are kept as an Arrow IPC stream (`.arrows`), single rows as lines (`.rows`): a checksum, seq, saved_at in
microseconds, the stored values as a JSON list. An earlier version kept JSON lines (`.jsonl`), which are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import zlib
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._disk import make_folder
from themis.backends._rows import row_length, rows_to_table
from themis.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from themis.records import RecordKind

TABLES, ROWS = ".arrows", ".rows"


class OtherVersionError(StorageError):
    """A journal of another version of themis."""


class Journal:
    """A local file that grows by whole entries. It is locked while its process lives."""

    def __init__(self, path: Path, head: bytes) -> None:
        make_folder(path.parent)
        self._path = path
        self._file = _create_locked(path)
        self._length = 0
        self._head = head
        self.is_broken = False
        """Whether it may end in half an entry, behind which nobody reads."""

    def append(self, entry: bytes) -> None:
        """Hand an entry to the operating system, whole or not at all."""
        data = entry if self._length else self._head + entry
        try:
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
            self._length += len(data)
        except BaseException:
            # Half an entry would hide every later one from readers.
            self.is_broken = True
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
            self.is_broken = False
            raise

    def close(self) -> None:
        """Give back the file descriptor."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Delete the file: its rows are in a part."""
        self._path.unlink(missing_ok=True)
        self.close()


def journal_name(launch: str, number: int, kind: RecordKind, suffix: str, broken: int = 0) -> str:
    """The name of the journal of one part, of which so many others broke."""
    return f"{launch}-{number:06d}{f'-{broken}' if broken else ''}.{kind}{suffix}"


def journals_of(kind: RecordKind, names: Sequence[str]) -> list[str]:
    """Those of the names that are journals of a kind."""
    return [name for name in names if name.partition(".")[2].partition(".")[0] == kind]


def tables_head(kind: RecordKind) -> bytes:
    """What a journal of tables begins with."""
    return arrow.schema(kind).serialize().to_pybytes()  # type: ignore[no-any-return] # pyarrow is untyped here


def tables_entry(table: pa.Table) -> bytes:
    """A table as an entry."""
    return b"".join(batch.serialize() for batch in table.to_batches())


def rows_head(run_id: str, launch: str) -> bytes:
    """What a journal of rows begins with."""
    return _checked(json.dumps({"run_id": run_id, "launch": launch}).encode())


def rows_entry(seq: int, saved_at: int, values: bytes) -> bytes:
    """A row as an entry; `values` are its stored values as JSON."""
    return _checked(b"%d %d %s" % (seq, saved_at, values))


def read_journal(kind: RecordKind, name: str, data: pa.Buffer) -> pa.Table:
    """The whole entries of a journal; a tail that a dying process left torn is passed over.

    Raises:
        OtherVersionError: Its entries are whole, and not what this version writes.
    """
    try:
        return _read(kind, name, data)
    except (ValueError, TypeError, KeyError) as error:  # its checksums hold: it was written like this
        raise OtherVersionError(
            f"cannot read the journal {name}, which another version of themis left ({error}): compact the run with "
            "that version, or move the file away, which gives its rows up"
        ) from error


@contextlib.contextmanager
def left_behind(path: Path) -> Iterator[bool]:
    """Whether the writer of a journal is gone, so that nobody will ever add to it; it is locked meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = True
        except OSError:
            gone = False
        # Whoever had the lock before may have made a part of it and removed it.
        yield gone and os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)


def _create_locked(path: Path) -> int:
    """A new file at the path, locked before anybody can find it there and take it for one that was left behind."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _lock_if_possible(descriptor)
        temporary.rename(path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def _lock_if_possible(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody else has it, and would take it over
        raise
    except OSError:  # some network disks know no locks; then nobody ever takes it over
        return


def _read(kind: RecordKind, name: str, data: pa.Buffer) -> pa.Table:
    if name.endswith(TABLES):
        return _read_tables(kind, data)
    if name.endswith(ROWS):
        return _read_rows(kind, data.to_pybytes())
    lines = data.to_pybytes()
    whole = lines[: lines.rfind(b"\n") + 1].split(b"\n")
    return arrow.from_rows(kind, [json.loads(line) for line in whole if line])


def _read_tables(kind: RecordKind, data: pa.Buffer) -> pa.Table:
    import pyarrow as pa

    batches = []
    try:
        with pa.ipc.open_stream(data) as reader:
            while True:
                batches.append(reader.read_next_batch())
    except (StopIteration, pa.ArrowInvalid, OSError):
        pass  # the end, whole or torn
    return pa.Table.from_batches(batches) if batches else arrow.no_rows(kind)


def _read_rows(kind: RecordKind, data: bytes) -> pa.Table:
    rows: list[Any] = []
    head: dict[str, str] = {}
    for line in data.split(b"\n"):
        content = line[9:]
        if line[:9] != b"%08x " % zlib.crc32(content):
            break  # torn
        if not head:
            head = json.loads(content)
            continue
        seq, saved_at, values = content.split(b" ", 2)
        row = [*json.loads(values), int(seq), int(saved_at)]
        if len(row) != row_length(kind):
            raise ValueError(f"rows of {len(row)} values")
        rows += row
    return rows_to_table(kind, rows, **head) if rows else arrow.no_rows(kind)


def _checked(content: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(content), content)
