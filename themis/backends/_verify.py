"""Verification: is everything there, and as it was written? Repair: what is damaged is set aside, the rest is kept."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from themis import arrow
from themis.backends._journal import OtherVersionError, journals_of, read_journal
from themis.backends._parts import PartName, check_whole, checksum, read_json, read_part, read_replaced
from themis.backends._runs import KINDS
from themis.backends._salvage import lost_ids, readable_groups
from themis.backends._upkeep import Upkeep, orphaned
from themis.backends._writer import encode_json
from themis.backends.runs import Problem, Verification
from themis.errors import StorageError
from themis.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from themis.backends._place import Place
    from themis.records import RecordKind

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_TEMPORARY_SECONDS = 600.0
"""A temporary file of this age belongs to nobody any more."""

_LISTINGS = 10
"""How often the parts of a kind are listed anew because one of them vanished before it was read."""

_JSON = re.compile(r"run\.json|report\.json|launches/[^/.][^/]*\.json")
_OURS = re.compile(r"journal/[^/]+\.(samples|generations|evaluations)\.\w+|damaged/.+")


def verify(place: Place, run_id: str, format_name: str, *, repair: bool) -> Verification:
    """See FsspecStorageBackend.verify."""
    check = _Check(place, run_id, format_name, repair=repair)
    problems = [*check.json_files(), *check.parts(), *check.missing(), *check.left_over()]
    return Verification(run_id, check.n_parts, dict(check.n_rows), problems, sorted(check.foreign))


class _Check:
    """One verification. Its methods run in the order in which they stand here."""

    def __init__(self, place: Place, run_id: str, format_name: str, *, repair: bool) -> None:
        self._place = place
        self._run_id = run_id
        self._repair = repair
        self._upkeep = Upkeep(place, run_id, format_name)
        self._launches: list[dict[str, Any]] = []
        self._rows_of: dict[tuple[str, str], dict[int, int | None]] = defaultdict(dict)
        self._unknown: set[str] = set()
        self._replaced: dict[str, list[str]] = {}
        self.n_parts = 0
        self.n_rows: Counter[str] = Counter()
        self.foreign: list[str] = []

    def json_files(self) -> Iterator[Problem]:
        """What describes the run and its launches. First: what a launch said before the parts are listed is there."""
        paths = [path for path in self._place.tree(self._run_id) if _JSON.fullmatch(self._below(path))]
        first = self._place.read_many(paths)
        doubtful = [path for path, data in first.items() if not _is_json(path, data)]
        again = self._place.read_many(doubtful)  # the fault may be that one answer's
        for path, data in {**first, **again}.items():
            try:
                content = read_json(path, data)
            except StorageError as error:
                repaired = self._set_aside(path, data) if self._repair and data == first[path] else None
                if repaired and "/launches/" in path:
                    self._keep_place(path)
                yield Problem(path, "damaged", str(error), repaired=repaired)
            else:
                if "/launches/" in path:
                    self._launches.append(content)

    def parts(self) -> Iterator[Problem]:
        """Every part that counts: its checksum, its pages, its columns."""
        for kind in KINDS:
            yield from self._parts_of(kind)

    def missing(self) -> Iterator[Problem]:
        """Parts that a launch says it wrote and that are nowhere, not in merged parts either."""
        for path in self._place.tree(f"{self._run_id}/damaged"):
            self._count_aside(path)
        for launch in self._launches:
            for kind, said in launch.get("writer", {}).get("parts", {}).items():
                found = self._rows_of[kind, launch["launch"]]
                # Of a damaged merged part nobody may know what it replaced; a repair takes note of it.
                if len(found) < said and (self._repair or kind not in self._unknown):
                    yield self._missing(kind, launch, said, found)

    def left_over(self) -> Iterator[Problem]:
        """What dead processes left, and files of somebody else."""
        for path in (path for paths in self._replaced.values() for path in paths):
            yield self._removable(path, "a part that a merged part replaced")
        for path, entry in self._place.tree(self._run_id).items():
            below = self._below(path)
            if _TEMPORARY.fullmatch(path.rpartition("/")[2]):
                if time.time() - (entry.changed_at or 0) > _TEMPORARY_SECONDS:
                    yield self._removable(path, "a file that was never finished")
            elif not (_JSON.fullmatch(below) or _OURS.fullmatch(below) or _is_part(below)):
                self.foreign.append(path)
        if self._place.local:
            yield from self._journals()

    def _below(self, path: str) -> str:
        return path.partition("/")[2]

    def _parts_of(self, kind: RecordKind) -> list[Problem]:
        """What is wrong with the parts of a kind, all read from one listing of which nothing vanished meanwhile."""
        repaired: list[Problem] = []
        for _ in range(_LISTINGS):
            try:
                found = self._listed_parts(kind, repaired)
            except FileNotFoundError:  # they were merged: what they are in now is in the next listing
                continue
            self.n_parts += len(repaired)
            return sorted([*found, *repaired], key=lambda problem: problem.path, reverse=True)
        raise StorageError(f"run {self._run_id!r} in {self._place.url} changes faster than it can be verified")

    def _listed_parts(self, kind: RecordKind, repaired: list[Problem]) -> list[Problem]:
        """What is wrong and stays so; what was repaired is added to the list. FileNotFoundError: a part vanished."""
        folder = f"{self._run_id}/{kind}"
        left: list[Problem] = []
        contents: dict[str, int] = {}
        replaced: set[str] = set()
        for counted in [key for key in self._rows_of if key[0] == kind]:
            del self._rows_of[counted]
        self._unknown.discard(kind)
        self.n_rows[kind] = 0
        names = {name: size for name, size in self._upkeep.reader(kind).listed(folder).items() if PartName.parse(name)}
        for name in sorted(names, reverse=True):  # merged parts first: they say which others count
            if name in replaced:
                continue
            outcome = self._part(kind, f"{folder}/{name}", names[name])
            if isinstance(outcome, Problem):
                (repaired if outcome.repaired else left).append(outcome)
            else:
                contents[name], older = outcome
                replaced |= older.keys()
                self._count(kind, {name: contents[name], **older})
        self._replaced[kind] = [f"{folder}/{name}" for name in sorted(replaced & set(names))]
        self.n_parts += len(contents) + len(left)
        self.n_rows[kind] += sum(contents.values())
        return left

    def _part(self, kind: RecordKind, path: str, size: int) -> tuple[int, dict[str, int]] | Problem:
        """A part's rows and what it replaces; or what is wrong with it. FileNotFoundError: it was removed meanwhile."""
        data = self._place.read(path, size)
        try:
            return self._content(kind, path, data)
        except StorageError:
            before, data = data, self._place.read(path, size)  # the fault may be that one answer's
        try:
            return self._content(kind, path, data)
        except StorageError as error:
            return self._damaged(kind, path, data, error, surely=data == before)

    def _content(self, kind: RecordKind, path: str, data: bytes) -> tuple[int, dict[str, int]]:
        """The rows that a part has, and what it replaces."""
        import pyarrow as pa

        check_whole(path, data)
        rows = sum(table.num_rows for table in read_part(kind, path, pa.BufferReader(data), None))
        return rows, read_replaced(path, pa.BufferReader(data)) if "/merged-" in path else {}

    def _damaged(self, kind: RecordKind, path: str, data: bytes, error: StorageError, *, surely: bool) -> Problem:
        name = PartName.parse(path.rpartition("/")[2])
        older = self._replaced_by(path, data)
        if name and name.checksum == checksum(data):
            self._rows_of[kind, name.launch].setdefault(name.number, None)
            return Problem(path, "unreadable", f"it is as it was written, and cannot be read: {error.__cause__}")
        ids, n_rows = lost_ids(kind, path, data)
        problem = Problem(path, "damaged", str(error), n_rows, ids)
        if name and not name.merged:
            self._rows_of[kind, name.launch][name.number] = n_rows
        if not (self._repair and surely):
            return problem
        good = list(readable_groups(kind, path, data))
        if good:
            n_good = sum(table.num_rows for table in good)
            # Of what it replaced, what is there nevertheless counts again.
            there = self._place.files(path.rpartition("/")[0])
            replaces = {other: rows for other, rows in older.items() if other not in there}
            self._upkeep.write_part(kind, good, {**replaces, path.rpartition("/")[2]: n_good})
            self.n_rows[kind] += n_good
        return replace(problem, repaired=self._set_aside(path, data))

    def _replaced_by(self, path: str, data: bytes) -> dict[str, int]:
        """What a damaged or set aside part replaced, taken account of; {} where that cannot be read."""
        import pyarrow as pa

        if "merged-" not in path:
            return {}
        kind = path.split("/")[-2]
        try:
            older = read_replaced(path, pa.BufferReader(data))
        except StorageError:
            self._unknown.add(kind)
            return {}
        self._count(kind, older)
        return older

    def _set_aside(self, path: str, data: bytes) -> str:
        aside = f"{self._run_id}/damaged/{self._below(path)}"
        self._place.write(aside, data)
        self._place.remove_files([path])
        return f"moved to {aside}"

    def _keep_place(self, path: str) -> None:
        """Put a launch that says nothing where a damaged one was: no later writer may take its place in the order."""
        launch = path.rpartition("/")[2].removesuffix(".json")
        said = {"launch": launch, "run_id": self._run_id, "schema_version": SCHEMA_VERSION}
        self._place.write_new(path, encode_json(said))

    def _count(self, kind: str, parts: dict[str, int]) -> None:
        for text, n_rows in parts.items():
            name = PartName.parse(text)
            if name and not name.merged:
                self._rows_of[kind, name.launch][name.number] = n_rows

    def _count_aside(self, path: str) -> None:
        """Take account of what an earlier repair did."""
        _, _, kind, text = (*path.split("/", 3), "", "")[:4]
        name = PartName.parse(text)
        if name and name.merged:
            self._replaced_by(path, self._place.read(path))
        elif name:
            self._rows_of[kind, name.launch].setdefault(name.number, None)
        elif kind.startswith("missing-"):
            given_up = read_json(path, self._place.read(path))
            for number in given_up["numbers"]:  # type: ignore[attr-defined] # written below
                self._rows_of[str(given_up["kind"]), str(given_up["launch"])].setdefault(number, None)

    def _missing(self, kind: str, launch: dict[str, Any], said: int, found: dict[int, int | None]) -> Problem:
        path = f"{self._run_id}/launches/{launch['launch']}.json"
        known = [rows for rows in found.values() if rows is not None]
        n_rows = launch["writer"]["rows"].get(kind, 0) - sum(known) if len(known) == len(found) else None
        message = f"it says that {said} parts of {kind} were written, and {len(found)} of them can be found"
        if not self._repair:
            return Problem(path, "missing", message, n_rows)
        # Below every number that a part can have: there is nothing to be set aside, only to be known of next time.
        note = {"kind": kind, "launch": launch["launch"], "numbers": list(range(-(said - len(found)), 0))}
        self._place.write(f"{self._run_id}/damaged/missing-{secrets.token_hex(4)}.json", encode_json(note))
        return Problem(path, "missing", message, n_rows, repaired="noted: a resume asks for what they held")

    def _removable(self, path: str, what: str) -> Problem:
        if self._repair:
            self._place.remove_files([path])
        return Problem(path, "orphan", f"it is {what}", 0, repaired="removed" if self._repair else None)

    def _journals(self) -> Iterator[Problem]:
        """Journals whose writer is dead; their rows are read, but no other tool sees them."""
        folder = f"{self._run_id}/journal"
        for kind in KINDS:
            for name in journals_of(kind, self._place.names(folder)):
                path = f"{folder}/{name}"
                with orphaned(self._place.local_path(path)) as gone:
                    if not gone:
                        continue
                    yield self._journal(kind, path)
        if self._repair:
            with contextlib.suppress(OtherVersionError):  # it is among the problems
                self._upkeep.adopt_journals()

    def _journal(self, kind: RecordKind, path: str) -> Problem:
        with self._place.open_local(path) as source:
            try:
                table = arrow.conform(kind, read_journal(kind, path, source.read_buffer()))
            except OtherVersionError as error:
                return Problem(path, "unreadable", str(error))
        return Problem(path, "orphan", "its writer is dead, and its rows are in no part yet", table.num_rows)


def _is_json(path: str, data: bytes) -> bool:
    try:
        read_json(path, data)
    except StorageError:
        return False
    return True


def _is_part(below: str) -> bool:
    folder, _, name = below.partition("/")
    return folder in KINDS and PartName.parse(name) is not None
