"""Bad disks, clocks, files and texts: each ends well, or in a clear error with nothing accepted lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import killed_run
import pytest

from themis import evaluate
from themis.backends import FsspecStorageBackend
from themis.errors import DataError, StorageError, UsageError
from themis.records import GenerationRecord

ROWS = 120


def ids(storage, run_id="run", kind="generations"):
    """The ids that a reader finds, sorted."""
    return sorted(storage.scan(run_id, kind, ["id"])["id"].to_pylist())


@pytest.fixture(scope="module")
def whole():
    """The same evaluation where nothing goes wrong."""
    return killed_run.call(ROWS, FsspecStorageBackend(f"memory://{uuid4().hex}"))


# -- a full disk


@contextmanager
def disk(folder, size):
    """A file system of its own, of so many bytes; skips where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root on Linux can mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_no_loss(tmp_path, whole):
    """It ends by a StorageError that says so, with all that was accepted; with more room a resume asks the rest."""
    with disk(tmp_path, 300_000):
        (tmp_path / "ballast").write_bytes(bytes(200_000))
        storage = killed_run.Noting(tmp_path / "runs", flush_seconds=0.1)
        with pytest.raises(StorageError, match="No space left"):
            killed_run.call(ROWS, storage, 0.01, max_workers=4, on_result=lambda update: fill(tmp_path, update))
        stored = ids(FsspecStorageBackend(tmp_path / "runs"))
        (tmp_path / "ballast").unlink()
        (tmp_path / "filler").unlink()
        storage.close()
        resumed = killed_run.call(ROWS, FsspecStorageBackend(tmp_path / "runs"))

        assert 20 <= len(stored) < ROWS
        assert stored == sorted(storage.accepted)
        assert (resumed.n_stored, resumed.n_asked) == (len(stored), ROWS - len(stored))
        assert resumed.report.metrics == whole.report.metrics


def fill(folder, update):
    """Take what room is left once forty answers are there."""
    if update.n_done == 40:
        time.sleep(0.3)
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(256)):
                    pass
            except OSError:
                return


_SAVE_UNTIL_FULL = """
import resource, sys
from themis.backends.fsspec import FsspecStorageBackend
from themis.errors import StorageError
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1], format=sys.argv[2], flush_seconds=60)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for number in range(1000):
    try:
        storage.save_generation_record("run", GenerationRecord(id=str(number), prompt="p", response="r" * 500))
    except StorageError as error:
        print(number, error)
        break
"""


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_file_that_may_not_grow_is_an_error_and_no_loss(tmp_path, form):
    """Where the system refuses to let the journal grow, that save says so, and all before it are there."""
    command = [sys.executable, "-c", _SAVE_UNTIL_FULL, str(tmp_path), form]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[1]
    )
    accepted, _, message = done.stdout.partition(" ")

    assert "File too large" in message
    assert "nothing was saved" in message
    assert 5 < int(accepted) < 1000
    assert ids(FsspecStorageBackend(tmp_path)) == sorted(str(number) for number in range(int(accepted)))


# -- a clock that jumps


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, whole):
    """With a wall clock that jumps by a day and back all the time, a killed and resumed run ends as any other."""
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-86400, 86400, 0)[next(calls) % 3])
    with FsspecStorageBackend(tmp_path) as first:
        killed_run.call(ROWS // 2, first)
    with FsspecStorageBackend(tmp_path) as second:
        resumed = killed_run.call(ROWS, second)
        assert ids(second) == ids(whole.storage)

    assert (resumed.n_stored, resumed.n_asked) == (ROWS // 2, ROWS // 2)
    assert resumed.report.metrics == whole.report.metrics


# -- texts and structures


TEXTS = {
    "null bytes": "a\x00b\x00",
    "lone surrogates": "x\ud800y\udfffz",
    "line ends": "\ufeffa\u2028b\u2029c\r\nd\x85e\x1cf",
    "10 MB": "0123456789" * 1_000_000,
    "not a number": "NaN",
}


@pytest.mark.parametrize("place", ["parquet", "jsonl", "s3"])
def test_odd_answers_and_targets_are_kept(place, tmp_path, s3):
    """Null bytes, lone surrogates, odd line ends and 10 MB are answered, scored and read back by another object."""
    url, options = (s3.new_url(), s3.storage_options) if place == "s3" else (tmp_path, None)
    form = "jsonl" if place == "jsonl" else "parquet"
    rows = [{"question": name, "answer": text[:50], "note": [text[:50]]} for name, text in TEXTS.items()]
    with FsspecStorageBackend(url, storage_options=options, format=form) as storage:
        result = evaluate(rows, TEXTS.get, storage_backend=storage, run_id="run", metrics="contains")

    reader = FsspecStorageBackend(url, storage_options=options)
    answers = {record.prompt: record.response for record in reader.load_generation_records("run")}
    assert result.report.status == "complete"
    assert answers == {**TEXTS, "lone surrogates": "x\\ud800y\\udfffz"}
    assert {sample.input: sample.metadata["note"] for sample in reader.load_samples("run")} == {
        name: [text[:50]] for name, text in TEXTS.items()
    }


def nested(depth):
    """Lists in dicts in lists, so deep."""
    value = "end"
    for _ in range(depth // 2):
        value = {"k": [value]}
    return value


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_deep_metadata_is_kept_or_refused(form, tmp_path):
    """300 levels come back as they were; 100,000 are a UsageError that names the field, and cost no other record."""
    with FsspecStorageBackend(tmp_path, format=form) as storage:
        storage.save_generation_record("run", GenerationRecord("before", "p", "r", metadata=nested(300)))
        with pytest.raises(UsageError, match="'metadata' of record 'deep'"):
            storage.save_generation_record("run", GenerationRecord("deep", "p", "r", metadata=nested(100_000)))
        storage.save_generation_record("run", GenerationRecord("after", "p", "r", metadata=nested(300)))

    loaded = FsspecStorageBackend(tmp_path).load_generation_records("run")
    assert {record.id: record.metadata == nested(300) for record in loaded} == {"before": True, "after": True}


def test_deep_rows_are_refused_before_the_first_request(tmp_path):
    """A row nested too deeply is a DataError that names it, and nothing was asked; one of 300 levels is evaluated."""
    asked = []
    rows = [{"question": "q", "answer": "a", "note": nested(depth)} for depth in (300, 100_000)]
    with pytest.raises(DataError, match=r"row 2 .*nested"):
        evaluate(rows, lambda prompt: asked.append(prompt) or "a", storage=tmp_path)

    assert asked == []
    assert evaluate(rows[:1], lambda prompt: "a", storage=tmp_path).report.status == "complete"


# -- files


def test_foreign_files_in_a_run_are_passed_over(tmp_path, whole):
    """Files of others in every folder of a run change neither what is read nor what a resume asks, and stay."""
    killed_run.call(ROWS // 2, FsspecStorageBackend(tmp_path))
    foreign = ["notes.txt", ".DS_Store", "part.parquet.crdownload", "Thumbs.db", "x.json.swp", "folder/inner.txt"]
    for folder in ("", "launches", "samples", "generations", "evaluations"):
        for name in foreign:
            path = tmp_path / "run" / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\x00mine")
    resumed = killed_run.call(ROWS, FsspecStorageBackend(tmp_path))

    assert (resumed.n_stored, resumed.report.metrics) == (ROWS // 2, whole.report.metrics)
    assert (tmp_path / "run/generations/notes.txt").read_bytes() == b"\x00mine"
    assert FsspecStorageBackend(tmp_path).list_runs() == ["run"]
