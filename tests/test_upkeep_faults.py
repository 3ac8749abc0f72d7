"""Upkeep beside faults: flipped bits, others that do the same at the same time, stores that answer once wrongly."""

from __future__ import annotations

import fcntl

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_upkeep import fill, generation, killed_run, parts, responses  # noqa: F401 - a fixture among them

from themis.backends import FsspecStorageBackend, _runs
from themis.backends._parts import part_name
from themis.backends._place import Place
from themis.cli import run
from themis.errors import StorageError
from themis.records import EvaluationRecord


def flip(path, place=-40):
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def flip_a_row(path):
    """Flip a bit of a file where readers of its description do not look."""
    flip(path, 100)


# -- compaction


def test_originals_outlive_a_damaged_merged_part(tmp_path):
    """What a damaged merged part replaced is not removed by a compaction, and a repair brings all records back."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        storage.compact("run", keep_replaced=True)
    flip_a_row(next(tmp_path.glob("run/generations/merged-*")))

    with pytest.raises(StorageError, match="checksum"):
        storage.compact("run")
    assert len(parts(tmp_path)) == 11
    storage.verify("run", repair=True)
    assert len(responses(storage)) == 20
    storage.compact("run")
    assert len(responses(storage)) == 20
    assert storage.verify("run").clean


@pytest.mark.parametrize("garble", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_originals_outlive_a_write_that_went_wrong(tmp_path, monkeypatch, garble):
    """A merged part that the store does not keep as it was written replaces nothing: the originals stay."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
    real = Place.write
    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", lambda self, path, data: real(self, path, garble(data)))
        with pytest.raises(StorageError, match="merged"):
            storage.compact("run")

    assert len(parts(tmp_path)) == 11
    storage.verify("run", repair=True)
    assert len(responses(storage)) == 20


def test_a_part_that_vanishes_while_compaction_lists(tmp_path, monkeypatch):
    """A merged part that another compaction removes between listing and reading makes a compaction list again."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        storage.compact("run")
        fill(storage, range(20, 40))
    real, done = Place.open_local, []

    def vanishing(self, path):
        if "/merged-" in path and not done:
            done.append(path)
            FsspecStorageBackend(tmp_path).compact("run")
        return real(self, path)

    monkeypatch.setattr(Place, "open_local", vanishing)
    FsspecStorageBackend(tmp_path).compact("run")
    assert done
    assert len(responses(storage)) == 40


# -- journals


@pytest.mark.parametrize("act", ["save", "compact", "verify", "repair"])
def test_two_salvage_the_same_journal(killed_run, monkeypatch, act):  # noqa: F811 - the fixture
    """Who locks a journal that somebody else has salvaged since it was opened passes it over."""
    folder = killed_run[0]
    real, done = fcntl.flock, []

    def second(descriptor, flags):
        if not done:
            done.append(descriptor)
            FsspecStorageBackend(folder).compact("run")
        return real(descriptor, flags)

    storage = FsspecStorageBackend(folder)
    monkeypatch.setattr(fcntl, "flock", second)
    if act == "save":
        storage.save_generation_records("run", [])
    elif act == "compact":
        storage.compact("run")
    else:
        assert storage.verify("run", repair=act == "repair").clean
    assert done
    assert len(responses(storage)) == 101
    storage.close()


# -- runs at a glance


def test_a_truncated_part_hides_no_run(tmp_path):
    """An interrupted run with a truncated part is listed with its writer's counts and can be deleted."""
    for run_id in ("bad", "good"):
        with FsspecStorageBackend(tmp_path) as storage:
            storage.save_launch(run_id, {"started_at": 1.0})
            fill(storage, range(4), run_id)
            storage.save_evaluation_record(run_id, EvaluationRecord("e", "g", "m", score=1.0))
    part = min(tmp_path.glob("bad/generations/*"))
    part.write_bytes(part.read_bytes()[:-100])

    rows = {"samples": 0, "generations": 4, "evaluations": 1}
    assert [(info.state, info.records) for info in storage.run_infos()] == [("interrupted", rows)] * 2
    assert run(["runs", "delete", "bad", "--yes", "--storage", str(tmp_path)]) == 0
    assert storage.list_runs() == ["good"]


def test_a_listing_of_many_interrupted_runs_reads_no_parts(tmp_path, monkeypatch):
    """Of nine interrupted runs the writers' counts are given, and no part is read; of eight the records are counted."""
    for number in range(9):
        with FsspecStorageBackend(tmp_path) as storage:
            storage.save_launch(f"run{number}", {"started_at": 1.0})
            for _ in range(2):
                storage.save_generation_record(f"run{number}", generation(1))
                storage.flush()
    counts = [info.records["generations"] for info in storage.run_infos(storage.list_runs()[:8])]
    assert counts == [1] * 8

    monkeypatch.setattr(_runs, "Reader", None)
    assert [(info.state, info.records["generations"]) for info in storage.run_infos()] == [("interrupted", 2)] * 9


# -- verification


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", ["merged-", "0"])
@pytest.mark.parametrize("repair", [False, True])
def test_a_verification_beside_a_compaction(tmp_path, monkeypatch, moment, what, repair):
    """Parts that are merged while a verification reads are not missing, and a repair takes no note of them."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
        storage.compact("run")
        fill(storage, range(20, 40))
    real, done = Place.read, []

    def compact(path, when):
        if when == moment and f"/generations/{what}" in path and not done:
            done.append(path)
            FsspecStorageBackend(tmp_path).compact("run")

    def beside(self, path, size=0):
        compact(path, "before")
        data = real(self, path, size)
        compact(path, "after")
        return data

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", beside)
        found = storage.verify("run", repair=repair)
    assert done
    assert found.clean
    assert found.n_rows["generations"] == 40
    assert not list(tmp_path.glob("run/damaged/*"))


def test_a_repair_that_starts_anew_says_what_it_repaired(tmp_path, monkeypatch):
    """A damaged part that was set aside before another vanished is named once, and nothing else is missing."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage)
    damaged = max(tmp_path.glob("run/generations/*"))
    flip_a_row(damaged)
    real, done = Place.read, []

    def beside(self, path, size=0):
        if "/generations/" in path and damaged.name not in path and not done:
            done.append(path)
            FsspecStorageBackend(tmp_path).compact("run")
        return real(self, path, size)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", beside)
        found = storage.verify("run", repair=True)
    assert done
    assert [(problem.what, problem.path) for problem in found.problems] == [
        ("damaged", f"run/generations/{damaged.name}")
    ]
    assert len(responses(storage)) == found.n_rows["generations"] == 18
    assert storage.verify("run").clean


@pytest.mark.parametrize("format_name", ["parquet", "jsonl"])
def test_what_a_later_version_wrote_is_not_damaged(tmp_path, format_name):
    """A part of the right checksum whose columns cannot be read is named, and left where it is by a repair."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        fill(storage, range(4))
    part = max(tmp_path.glob("run/generations/*"))
    table = pa.table({"id": ["x"], "attempts": ["several"]}).replace_schema_metadata({"themis.kind": "generations"})
    data = b'{"id": "x", "attempts": "several"}\n'
    if format_name == "parquet":
        pq.write_table(table, part)
        data = part.read_bytes()
    part.unlink()
    later = part.with_name(part_name(part.name.rpartition("-")[0][:15], 1, data, format_name))
    later.write_bytes(data)

    for repair in (True, False):
        (problem,) = storage.verify("run", repair=repair).problems
        assert (problem.path, problem.what) == (f"run/generations/{later.name}", "unreadable")
        assert "attempts" in problem.message or "several" in problem.message
        assert problem.repaired is None
    assert later.read_bytes() == data


@pytest.mark.parametrize("name", ["generations/0", "launches/0", "run.json"])
@pytest.mark.parametrize("repair", [False, True])
def test_one_wrong_answer_of_the_store_is_no_damage(tmp_path, monkeypatch, name, repair):
    """A file that one reading cuts off and the next gives whole is neither named nor set aside."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(4))
    real, done = Place.read, []

    def cut_off(self, path, size=0):
        data = real(self, path, size)
        if f"run/{name}" in path and path not in done:
            done.append(path)
            return data[: len(data) // 2]
        return data

    monkeypatch.setattr(Place, "read", cut_off)
    assert storage.verify("run", repair=repair).clean
    assert done
    assert len(responses(storage)) == 4


def test_what_no_two_readings_agree_on_is_not_set_aside(tmp_path, monkeypatch):
    """A part that every reading garbles in another way is named, and a repair leaves it."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(4))
    part = max(tmp_path.glob("run/generations/*"))
    real, calls = Place.read, []

    def garbled(self, path, size=0):
        calls.append(path)
        return real(self, path, size)[: -len(calls)] if part.name in path else real(self, path, size)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", garbled)
        (problem,) = storage.verify("run", repair=True).problems
    assert (problem.what, problem.repaired) == ("damaged", None)
    assert storage.verify("run").clean


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """An allocation that fails while a part is read is raised, and a repair sets nothing aside for it."""
    with FsspecStorageBackend(tmp_path) as storage:
        fill(storage, range(4))

    def fail(*_arguments, **_options):
        raise pa.lib.ArrowMemoryError("malloc of size 64 failed")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", fail)
        for call in (lambda: storage.verify("run", repair=True), lambda: storage.load_generation_records("run")):
            with pytest.raises(MemoryError):
                call()
    assert storage.verify("run").clean
    assert len(responses(storage)) == 4


def test_a_repaired_launch_keeps_its_place_in_the_order(tmp_path):
    """After a damaged launch was set aside, the next writer comes after it, and its records win."""
    for number in range(3):
        run_id = f"run{number}"
        with FsspecStorageBackend(tmp_path) as storage:
            storage.save_generation_record(run_id, generation(1, response="old"))
        next(tmp_path.glob(f"{run_id}/launches/*")).write_text("{")
        assert [problem.what for problem in storage.verify(run_id, repair=True).problems] == ["damaged"]
        assert storage.verify(run_id).clean
        assert [launch["run_id"] for launch in storage.load_launches(run_id)] == [run_id]
        with FsspecStorageBackend(tmp_path) as storage:
            storage.save_generation_record(run_id, generation(1, response="new"))

        assert sorted(path.name[:7] for path in tmp_path.glob(f"{run_id}/launches/*")) == ["000001-", "000002-"]
        assert responses(storage, run_id) == ["new"]
