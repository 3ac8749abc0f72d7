"""Compaction, verification and repair, runs at a glance: what is lost (nothing), and what is said of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from themis.backends import FsspecStorageBackend, _runs, _upkeep, _verify
from themis.backends._place import Place
from themis.backends._writer import BEAT_SECONDS
from themis.errors import RunNotFoundError, StorageError
from themis.records import EvaluationRecord, GenerationRecord
from themis.testing._records import full_report

FORMATS = ["parquet", "jsonl"]


def generation(number, **fields):
    """A small generation."""
    return GenerationRecord(**{"id": f"{number:032x}", "prompt": "p", "response": f"r{number}", **fields})


def fill(storage, numbers=range(20), run_id="run", size=2):
    """Parts of so many generations each."""
    for start in range(0, len(numbers), size):
        storage.save_generation_records(run_id, [generation(number) for number in numbers[start : start + size]])
        storage.flush()


def responses(storage, run_id="run"):
    """The responses that a new reader finds, sorted."""
    reader = FsspecStorageBackend(storage._place.url, storage_options=storage._place.options)
    return sorted(record.response for record in reader.load_generation_records(run_id))


def parts(folder):
    """The names of the generations' parts."""
    return sorted(path.name for path in Path(folder).glob("run/generations/*"))


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request, tmp_path):
    """A URL on each kind of store with what it needs."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return s3.new_url(), s3.storage_options
    return (str(tmp_path) if request.param == "disk" else f"memory://{uuid4().hex}"), None


# -- compaction


@pytest.mark.parametrize("format_name", FORMATS)
def test_small_parts_become_one(place, format_name):
    """Ten parts become one with the same records; metadata, report and launches stay as they were."""
    url, options = place
    with FsspecStorageBackend(url, format=format_name, storage_options=options) as storage:
        storage.save_run_metadata("run", {"seed": 7})
        fill(storage)
        storage.save_evaluation_record("run", EvaluationRecord("e", "g", "m", score=1.0))
        before = responses(storage)
        launches = len(storage.load_launches("run"))
        done = storage.compact("run")

        assert (done.n_parts_before, done.n_parts_after) == (11, 2)
        assert done.n_bytes_after < done.n_bytes_before or format_name == "jsonl"
        assert responses(storage) == before
        assert storage.load_run_metadata("run") == {"seed": 7}
        assert len(storage.load_launches("run")) == launches
        assert storage.verify("run").clean


def test_superseded_rows_are_left_out(tmp_path):
    """Of several rows of an id the winner stays, with its launch and seq, and the count of the others is said."""
    with FsspecStorageBackend(tmp_path) as storage:
        for status in ("error", "ok", "error"):
            storage.save_generation_record("run", generation(1, status=status, response=status))
            storage.flush()
        (before,) = storage.scan("run", "generations", ["status", "launch", "seq"]).to_pylist()
        done = storage.compact("run")

        assert done.n_rows_dropped == 2
        assert storage.scan("run", "generations", ["status", "launch", "seq"]).to_pylist() == [before]
    (part,) = tmp_path.glob("run/generations/*")
    assert pq.read_metadata(part).num_rows == 1


def test_what_is_saved_after_a_compaction_still_wins(tmp_path):
    """A later record of an id beats the merged one, before and after another compaction."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        storage.compact("run")
        storage.save_generation_record("run", generation(3, response="new"))
        assert "new" in responses(storage)
        storage.flush()
        storage.compact("run")

        assert "new" in responses(storage)
        assert "r3" not in responses(storage)
        assert len(parts(tmp_path)) == 1


STEPS = list(product(["remove_files", "write", "files", "read_many"], [1, 2, 3], [False, True]))
NORMAL_STEPS = [("write", 1, True), ("remove_files", 3, False)]


@pytest.mark.parametrize(
    ("step", "at", "after"),
    [*NORMAL_STEPS, *(pytest.param(*each, marks=pytest.mark.soak) for each in STEPS if each not in NORMAL_STEPS)],
)
def test_a_compaction_killed_at_any_step(tmp_path, monkeypatch, step, at, after):
    """Ended before or after any of its steps, a compaction loses nothing and doubles nothing; the next one finishes."""
    storage = FsspecStorageBackend(tmp_path)
    fill(storage)
    storage.compact("run")
    fill(storage, range(20, 40))
    storage.close()
    before = responses(storage)

    class KilledError(BaseException):
        pass

    calls = []
    real = getattr(Place, step)

    def killed(self, *arguments, **options):
        calls.append(step)
        if len(calls) == at and not after:
            raise KilledError
        result = real(self, *arguments, **options)
        if len(calls) == at:
            raise KilledError
        return result

    monkeypatch.setattr(Place, step, killed)
    try:
        FsspecStorageBackend(tmp_path).compact("run")
    except KilledError:
        pass
    finally:
        monkeypatch.setattr(Place, step, real)

    assert responses(storage) == before
    assert storage.scan("run", "generations", ["id"]).num_rows == 40
    assert storage.run_info("run").records["generations"] == 40
    storage.compact("run")
    assert responses(storage) == before
    assert len(parts(tmp_path)) == 1
    assert storage.verify("run").clean


def test_a_part_that_a_writer_puts_back_counts_once(tmp_path):
    """A replaced part that appears again, because the reply to its first write was lost, is passed over and removed."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        put_back = next(tmp_path.glob("run/generations/*"))
        data = put_back.read_bytes()
        storage.compact("run")
        fill(storage, range(20, 24))
        storage.compact("run")
        put_back.write_bytes(data)

        assert len(responses(storage)) == 24
        assert [problem.what for problem in storage.verify("run").problems] == ["orphan"]
        storage.compact("run")
        assert not put_back.exists()


def test_others_may_read_while_originals_are_kept(tmp_path):
    """With keep_replaced the originals stay for tools that read them, count once, and go with the next compaction."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        storage.compact("run", keep_replaced=True)
        assert len(parts(tmp_path)) == 11
        assert len(storage._reader("run", "generations").snapshot().parts) == 1
        assert storage.scan("run", "generations", ["id"]).num_rows == 20

        storage.compact("run")
        assert len(parts(tmp_path)) == 1


_COMPACT = """
import sys
from themis.backends import FsspecStorageBackend
storage = FsspecStorageBackend(sys.argv[1])
print("ready", flush=True)
while not sys.stdin.closed:
    storage.compact("run")
"""


@pytest.mark.parametrize("seconds", [0.5, pytest.param(2, marks=pytest.mark.soak)])
def test_readers_and_writers_beside_compactions(tmp_path, seconds):
    """While two processes compact again and again, every read finds all that was saved, each record once."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        command = [sys.executable, "-c", _COMPACT, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        children = [subprocess.Popen(command, **pipes, cwd=Path(__file__).parents[1]) for _ in range(2)]
        try:
            for child in children:
                child.stdout.readline()
            until = time.monotonic() + seconds
            number = 20
            while number < 28 or time.monotonic() < until:
                fill(storage, range(number, number + 4))
                number += 4
                expected = sorted(f"r{each}" for each in range(number))
                assert responses(storage) == expected
                reader = FsspecStorageBackend(tmp_path)
                assert sorted(record.response for record in reader.iter_generation_records("run")) == expected
                assert len(reader.ids("run", "generations")) == number
        finally:
            for child in children:
                child.kill()
                child.wait(10)
                child.stdin.close()
                child.stdout.close()

    assert number > 24
    assert len(responses(storage)) == number


def test_large_parts_are_left_alone(tmp_path, monkeypatch):
    """A part of half the target's size stays as it is; merged parts do not grow beyond the target."""
    monkeypatch.setattr(_upkeep, "TARGET_BYTES", 40_000)
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_records("run", [generation(n, response=os.urandom(50).hex()) for n in range(1000)])
        storage.flush()
        (large,) = parts(tmp_path)
        fill(storage, range(1000, 1020))
        storage.compact("run")

        assert large in parts(tmp_path)
        assert len(parts(tmp_path)) > 2
        assert len(responses(storage)) == 1020


@pytest.mark.parametrize(("before", "after"), [FORMATS, FORMATS[::-1]])
def test_a_compaction_converts_to_the_format_of_its_backend(tmp_path, before, after):
    """A run written in one format and compacted by a backend of the other is in the other, record for record."""
    with FsspecStorageBackend(tmp_path, format=before) as storage:
        fill(storage)
        storage.save_generation_record("run", generation(99, params={"seed": 7}, metadata={"k": [1, "\ud800"]}))
        expected = sorted(storage.load_generation_records("run"), key=lambda record: record.id)
    converted = FsspecStorageBackend(tmp_path, format=after)
    converted.compact("run")

    assert {Path(name).suffix for name in parts(tmp_path)} == {f".{after}"}
    assert sorted(converted.load_generation_records("run"), key=lambda record: record.id) == expected
    assert converted.verify("run").clean


def test_columns_of_another_version_survive(tmp_path):
    """A column that this version does not know is kept by a compaction, into the other format and back."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(4))
    part = next(tmp_path.glob("run/generations/*"))
    table = pq.read_table(part)
    # As an earlier version named it: without a checksum.
    older = part.with_name("-".join(part.name.split("-")[:3]) + ".parquet")
    pq.write_table(table.append_column("mood", pa.array([1, 2])).drop_columns(["reasoning", "attempts"]), older)
    part.unlink()

    storage = FsspecStorageBackend(tmp_path, format="jsonl")
    assert len(responses(storage)) == 4
    storage.compact("run")
    FsspecStorageBackend(tmp_path).compact("run")
    merged = pq.read_table(next(tmp_path.glob("run/generations/*")))
    assert sorted(merged["mood"].to_pylist(), key=str) == [1, 2, None, None]
    assert merged.schema.field("mood").type == pa.int64()
    assert [record.attempts for record in storage.load_generation_records("run")] == [0] * 4


# -- verification and repair


def test_a_run_is_clean(place):
    """A run in several parts and kinds, compacted or not, has no problem, and its rows are counted."""
    url, options = place
    with FsspecStorageBackend(url, storage_options=options) as storage:
        fill(storage, range(6))
        storage.save_evaluation_record("run", EvaluationRecord("e", "g", "m", score=1.0))
        storage.save_report("run", full_report())
        found = storage.verify("run")

    assert found.clean
    assert found.n_rows == {"samples": 0, "generations": 6, "evaluations": 1}
    assert (found.n_parts, found.foreign) == (4, [])


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_flipped_bit_anywhere_is_named(tmp_path, format_name):
    """Wherever in a part one bit flips, verify names that part and no other."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        fill(storage, range(4))
    part, other = tmp_path.glob("run/generations/*")
    data = part.read_bytes()
    for place in range(0, len(data), len(data) // 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        part.write_bytes(flipped)
        problems = storage.verify("run").problems
        assert [(problem.path, problem.what) for problem in problems] == [(f"run/generations/{part.name}", "damaged")]
    part.write_bytes(data)
    assert storage.verify("run").clean
    assert other.exists()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_repair_sets_aside_what_is_damaged(tmp_path, format_name):
    """The damaged part and its ids are named; repaired, its rows are gone and those of the others there, and clean."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        fill(storage, range(6))
    part = sorted(tmp_path.glob("run/generations/*"))[1]
    data = bytearray(part.read_bytes())
    place = data.index(b"r2")
    if format_name == "parquet":
        column = pq.read_metadata(part).row_group(0).column(2)
        place = column.data_page_offset + column.total_compressed_size - 3
    data[place] ^= 1
    part.write_bytes(data)
    with pytest.raises(StorageError, match="verify"):
        storage.load_generation_records("run")

    (found,) = storage.verify("run").problems
    assert (found.what, found.n_rows, found.repaired) == ("damaged", 2, None)
    assert found.ids == [f"{2:032x}", f"{3:032x}"]
    (repaired,) = storage.verify("run", repair=True).problems
    assert repaired.ids == found.ids
    assert repaired.repaired == f"moved to run/damaged/generations/{part.name}"
    assert responses(storage) == ["r0", "r1", "r4", "r5"]
    assert storage.verify("run").clean


def test_a_repair_keeps_the_readable_row_groups(tmp_path, monkeypatch):
    """Of a merged part only the row group with the flipped byte is lost."""
    monkeypatch.setattr(_upkeep, "GROUP_ROWS", 5)
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(20))
        storage.compact("run")
        fill(storage, range(20, 22))
    part = next(tmp_path.glob("run/generations/merged-*"))
    data = bytearray(part.read_bytes())
    column = pq.read_metadata(part).row_group(2).column(2)
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 4
    part.write_bytes(data)

    (problem,) = storage.verify("run", repair=True).problems
    assert problem.n_rows == len(problem.ids) == 6
    assert len(responses(storage)) == 16
    assert not {f"r{int(name, 16)}" for name in problem.ids} & set(responses(storage))
    assert storage.verify("run").clean


def test_a_torn_part_is_named_and_repaired(place):
    """A part that was cut off is damaged, whatever is left of it; a repair leaves the others."""
    url, options = place
    with FsspecStorageBackend(url, storage_options=options) as storage:
        fill(storage, range(4))
        name = min(storage._place.files("run/generations"))
        data = storage._place.read(f"run/generations/{name}")
        storage._place.write(f"run/generations/{name}", data[: len(data) // 2])

        (problem,) = storage.verify("run", repair=True).problems
        assert (problem.path, problem.what) == (f"run/generations/{name}", "damaged")
        assert responses(storage) == ["r2", "r3"]
        assert storage.verify("run").clean


def test_a_missing_part_is_noticed(tmp_path):
    """A part that somebody deleted is missing, by the word of its launch; a repair takes note, once."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(6))
    storage.compact("run")
    with FsspecStorageBackend(tmp_path) as again:
        fill(again, range(6, 10))
    next(path for path in tmp_path.glob("run/generations/*") if "merged" not in path.name).unlink()

    (problem,) = storage.verify("run").problems
    assert (problem.what, problem.n_rows) == ("missing", 2)
    assert problem.path == max(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("run/launches/*"))
    assert [each.what for each in storage.verify("run", repair=True).problems] == ["missing"]
    assert storage.verify("run").clean


def test_a_damaged_merged_part_is_repaired_to_a_clean_run(tmp_path):
    """A merged part whose description cannot be read any more is set aside, and what it replaced is taken note of."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(6))
    storage.compact("run")
    part = next(tmp_path.glob("run/generations/merged-*"))
    part.write_bytes(part.read_bytes()[:-100])

    assert [problem.what for problem in storage.verify("run").problems] == ["damaged"]
    storage.verify("run", repair=True)
    assert responses(storage) == []
    assert storage.verify("run").clean


def test_damaged_descriptions_are_named(tmp_path):
    """A run.json, a launch and a report that hold no JSON are named; repaired, the records are there and clean."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(2))
        storage.save_report("run", full_report())
    paths = [tmp_path / "run/run.json", tmp_path / "run/report.json", next(tmp_path.glob("run/launches/*"))]
    for path in paths:
        path.write_text('{"half')

    problems = storage.verify("run", repair=True).problems
    assert {problem.path for problem in problems} == {path.relative_to(tmp_path).as_posix() for path in paths}
    assert responses(storage) == ["r0", "r1"]
    assert storage.verify("run").clean


def test_foreign_files_are_no_problem(tmp_path):
    """Files of somebody else are listed, left alone by repair and compaction, and never read."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(4))
    foreign = ["run/notes.txt", "run/generations/other.parquet", "run/generations/README", "run/new/file"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")

    found = storage.verify("run", repair=True)
    storage.compact("run")
    assert found.clean
    assert found.foreign == sorted(foreign)
    assert all((tmp_path / name).read_text() == "mine" for name in foreign)
    assert len(responses(storage)) == 4


def test_a_temporary_file_of_a_dead_process_is_an_orphan(tmp_path, monkeypatch):
    """An unfinished file is an orphan once it is old; a repair removes it."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(2))
    temporary = tmp_path / "run/generations/.x.parquet.0123abcd.tmp"
    temporary.write_bytes(b"half")
    assert storage.verify("run").clean

    monkeypatch.setattr(_verify, "_TEMPORARY_SECONDS", -1)
    assert [problem.what for problem in storage.verify("run", repair=True).problems] == ["orphan"]
    assert not temporary.exists()


def test_a_run_that_does_not_exist(tmp_path):
    """verify, compact and run_info of a missing run are RunNotFoundErrors."""
    storage = FsspecStorageBackend(tmp_path)
    for call in (storage.verify, storage.compact, storage.run_info):
        with pytest.raises(RunNotFoundError):
            call("run")


# -- killed writers


_SAVE_AND_HANG = """
import sys, time
from themis.backends import FsspecStorageBackend
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1], flush_seconds=60)
storage.save_launch("run", {"started_at": time.time()})
storage.save_generation_records("run", [GenerationRecord(f"{n:032x}", "p", f"r{n}") for n in range(100)])
storage.save_generation_record("run", GenerationRecord("last", "p", "last"))
print("saved", flush=True)
time.sleep(60)
"""


@pytest.fixture
def killed_run(tmp_path):
    """A run whose only writer was killed with 101 records accepted and none flushed; seen before and after."""
    command = [sys.executable, "-c", _SAVE_AND_HANG, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as child:
        child.stdout.readline()
        while_going = FsspecStorageBackend(tmp_path).run_info("run").state
        kept = FsspecStorageBackend(tmp_path).compact("run").n_parts_after
        child.send_signal(signal.SIGKILL)
    return tmp_path, while_going, kept


def test_a_run_shows_as_going_then_as_interrupted(killed_run):
    """While its writer lives a run is going; killed, it is interrupted at once, and its records are counted."""
    folder, while_going, _ = killed_run

    info = FsspecStorageBackend(folder).run_info("run")
    assert (while_going, info.state) == ("going", "interrupted")
    assert info.records["generations"] == 101


def test_journals_of_the_dead_become_parts(killed_run):
    """A living writer's journal is left alone; a dead one's is an orphan until the next writer makes parts of it."""
    folder, _, while_living = killed_run
    reader = FsspecStorageBackend(folder)
    assert while_living == 0
    assert [problem.what for problem in reader.verify("run").problems] == ["orphan", "orphan"]

    with FsspecStorageBackend(folder) as next_writer:
        next_writer.save_generation_record("run", generation(999))
    assert not list((folder / "run/journal").iterdir())
    assert len(responses(reader)) == 102
    assert pq.read_table(folder / "run/generations").num_rows == 102
    assert reader.verify("run").clean


@pytest.mark.parametrize("keep", ["compact", "verify"])
def test_upkeep_takes_over_journals_of_the_dead(killed_run, keep):
    """compact, and verify with repair, make parts of what a killed process left."""
    storage = FsspecStorageBackend(killed_run[0])
    storage.compact("run") if keep == "compact" else storage.verify("run", repair=True)

    assert not list((killed_run[0] / "run/journal").iterdir())
    assert len(responses(storage)) == 101


# -- runs at a glance


def test_what_a_run_is_at_a_glance(place):
    """Size, counts, ages, benchmark, model and metrics are those of the run."""
    url, options = place
    began = time.time()
    with FsspecStorageBackend(url, storage_options=options) as storage:
        storage.save_run_metadata("run", {"created_at": 5.0, "config": {"benchmark": "b", "model": {"name": "m"}}})
        fill(storage, range(6))
    info = storage.run_info("run")

    assert (info.benchmark, info.model, info.metrics, info.n_launches) == ("b", "m", {}, 1)
    assert info.records == {"samples": 0, "generations": 6, "evaluations": 0}
    assert info.n_files == 5
    assert info.n_bytes == sum(entry.size for entry in storage._place.tree("run").values()) > 1000
    assert info.created_at == 5.0
    assert began - 2 < info.changed_at < time.time() + 2
    storage.save_report("run", full_report())
    assert storage.run_info("run").metrics == {"exact_match": 0.5}


STATES = [
    ([{"status": "complete"}], "complete"),
    ([{"status": "partial"}], "partial"),
    ([{"status": "complete"}, {"started_at": 1.0, "writer": {"closed_at": 5.0}}], "interrupted"),
    ([{"writer": {"closed_at": 5.0}}], "complete"),
    ([{"writer": {"beat_at": -2, "beat_every": 15}}], "going"),
    ([{"writer": {"beat_at": -60, "beat_every": 15}}], "interrupted"),
    ([{"writer": {"beat_at": 60, "beat_every": 15}}], "interrupted"),
    ([{"writer": {"beat_at": -2, "beat_every": 15}}, {"status": "complete"}], "going"),
    ([{"status": "complete", "writer": {"beat_at": -2, "beat_every": 15}}], "complete"),
    ([{"writer": {"beat_at": -60, "beat_every": 15}}, {"status": "complete"}], "complete"),
    ([], "interrupted"),
]


@pytest.mark.parametrize(("launches", "state"), STATES)
def test_the_state_of_a_run(launches, state):
    """A writer whose heart beats makes it going; else the last launch decides, by what it said of the end."""
    now = time.time()
    for launch in launches:
        if "beat_at" in launch.get("writer", {}):
            launch["writer"] = {**launch["writer"], "beat_at": now + launch["writer"]["beat_at"]}

    assert _runs.run_state(launches, {}) == state


def test_a_writer_says_that_it_lives(tmp_path, monkeypatch):
    """A heartbeat is written again and again while nothing is saved; a deleted run stays deleted."""
    monkeypatch.setattr("themis.backends._writer.BEAT_SECONDS", 0.05)
    storage = FsspecStorageBackend(tmp_path)
    storage.save_launch("run", {"started_at": 1.0})
    path = next(tmp_path.glob("run/launches/*"))
    beats = set()
    until = time.monotonic() + 10
    while len(beats) < 3 and time.monotonic() < until:
        beats.add(json.loads(path.read_text())["writer"]["beat_at"])
        time.sleep(0.02)
    FsspecStorageBackend(tmp_path).delete_run("run")
    time.sleep(0.2)

    assert len(beats) >= 3
    assert BEAT_SECONDS == 15
    assert storage.list_runs() == []
    storage.close()


def test_listing_many_runs_reads_little(s3):
    """Forty runs at a glance take a listing and the small files of each; their ids alone one listing."""
    storage = FsspecStorageBackend(s3.new_url(), storage_options=s3.storage_options)
    for number in range(40):
        storage.save_run_metadata(f"run{number:02d}", {"created_at": float(number)})
    asked = []
    fs = storage._place._open()[0]
    real = fs._call_s3

    async def counting(method, *arguments, **options):
        asked.append(method)
        return await real(method, *arguments, **options)

    fs._call_s3 = counting
    assert storage.list_runs() == [f"run{number:02d}" for number in range(40)]
    assert len(asked) == 41
    asked.clear()
    infos = storage.run_infos()
    assert [info.created_at for info in infos] == [float(number) for number in range(40)]
    assert asked.count("get_object") == 40
    assert len(asked) <= 45


def test_a_run_deleted_leaves_nothing(place):
    """Deleted after a compaction, a repair and a report, nothing of a run is left, and its neighbours are as before."""
    url, options = place
    with FsspecStorageBackend(url, storage_options=options) as storage:
        for run_id in ("run", "run1", "run.json"):
            fill(storage, range(4), run_id)
        storage.save_report("run", full_report())
        storage.compact("run")
        before = {path for path in storage._place.tree() if not path.startswith("run/")}
        storage.delete_run("run")

        assert set(storage._place.tree()) == before
        assert storage.list_runs() == ["run.json", "run1"]
        assert responses(storage, "run1") == ["r0", "r1", "r2", "r3"]


def test_a_folder_of_runs_is_no_run(place):
    """A folder that holds runs, whatever they are named, is not listed as a run, and deleting it deletes nothing."""
    url, options = place
    with FsspecStorageBackend(f"{url}/runs", storage_options=options) as storage:
        for run_id in ("run.json", "launches", "samples", "journal", "damaged", "demo"):
            fill(storage, range(2), run_id)
        storage.save_report("launches", full_report())
        before = set(storage._place.tree())

    above = FsspecStorageBackend(url, storage_options=options)
    assert (above.list_runs(), above.run_infos(), above.run_exists("runs")) == ([], [], False)
    with pytest.raises(RunNotFoundError):
        above.delete_run("runs")
    assert set(storage._place.tree()) == before


def test_a_foreign_folder_is_no_run(place):
    """A folder with a subfolder named samples and files of somebody else in it is no run, and is not deleted."""
    url, options = place
    storage = FsspecStorageBackend(url, storage_options=options)
    for path in ("mine/samples/a.wav", "mine/launches/plan.json", "mine/report.json", "mine/journal/day.txt"):
        storage._place.write(path, b"mine")

    assert (storage.list_runs(), storage.run_infos()) == ([], [])
    with pytest.raises(RunNotFoundError):
        storage.delete_run("mine")
    assert len(storage._place.tree()) == 4


@pytest.mark.parametrize("ends", ["beat", "close"])
def test_a_deletion_waits_for_a_heartbeat(tmp_path, ends):
    """A heartbeat, or a closing, that began before its run is deleted does not bring the run back."""
    storage = FsspecStorageBackend(tmp_path)
    fill(storage, range(2))
    writer = storage._writers.peek("run")
    begun, goes_on = threading.Event(), threading.Event()
    real_write = writer._write_launch

    def slow_write(*arguments, **options):
        begun.set()
        goes_on.wait(0.5)
        real_write(*arguments, **options)

    writer._write_launch = slow_write
    thread = threading.Thread(target=getattr(writer, ends))
    thread.start()
    begun.wait(10)
    storage.delete_run("run")
    goes_on.set()
    thread.join()

    assert (storage.list_runs(), list(tmp_path.glob("run/launches/*"))) == ([], [])
    with pytest.raises(StorageError, match="was deleted"):
        writer.save_launch({})


def test_a_heartbeat_takes_itself_back(tmp_path, monkeypatch):
    """A heartbeat during which another process deletes the run leaves nothing of the run."""
    storage = FsspecStorageBackend(tmp_path)
    fill(storage, range(2))
    writer = storage._writers.peek("run")
    real_write = writer._write_launch

    def write_after_deletion(*arguments, **options):
        FsspecStorageBackend(tmp_path).delete_run("run")
        real_write(*arguments, **options)

    monkeypatch.setattr(writer, "_write_launch", write_after_deletion)
    writer.beat()
    monkeypatch.undo()

    assert storage.list_runs() == []


@pytest.mark.parametrize("left", ["launches", "generations"])
def test_a_run_without_its_run_json_is_a_run(place, left):
    """Of a run that lost all but its launch or its part the rest is a run, which can be deleted."""
    url, options = place
    with FsspecStorageBackend(url, storage_options=options) as storage:
        fill(storage, range(2))
        storage._place.remove_files([path for path in storage._place.tree() if f"/{left}/" not in path])

        assert (storage.list_runs(), storage.run_exists("run")) == (["run"], True)
        storage.delete_run("run")
        assert (storage.list_runs(), storage._place.tree()) == ([], {})


def test_deleting_leaves_files_of_somebody_else(place):
    """Of a run's folder that has files and runs of somebody else in it, only what is the run's is deleted."""
    url, options = place
    foreign = {"run/notes.txt", "run/samples/a.wav", "run/generations/README"}
    with FsspecStorageBackend(f"{url}/run", storage_options=options) as inner:
        for run_id in ("samples", "launches", "demo"):
            fill(inner, range(2), run_id)
    with FsspecStorageBackend(url, storage_options=options) as storage:
        foreign |= set(storage._place.tree())
        fill(storage, range(4))
        for path in foreign - set(storage._place.tree()):
            storage._place.write(path, b"mine")
        storage.compact("run")
        storage.delete_run("run")

        assert set(storage._place.tree()) == foreign
        assert storage.list_runs() == []
        assert inner.list_runs() == ["demo", "launches", "samples"]


def test_any_storage_gives_a_glance(tmp_path):
    """A storage with only the abstract methods tells what it can of a run."""
    from test_storage_contract import DictStorage

    storage = DictStorage()
    storage.save_run_metadata("run", {"config": {"benchmark": "b"}})
    storage.save_generation_record("run", generation(1))
    assert (storage.run_info("run").state, storage.run_info("run").records["generations"]) == ("interrupted", 1)

    storage.save_report("run", replace(full_report(), status="complete"))
    (info,) = storage.run_infos()
    assert (info.state, info.benchmark, info.metrics) == ("complete", "arithmetic", {"exact_match": 0.5})
