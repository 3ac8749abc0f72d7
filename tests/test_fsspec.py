"""FsspecStorageBackend beyond the contract: layout, durability, many writers, and what a bad place says."""

from __future__ import annotations

import fcntl
import gc
import gzip
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from themis.backends._alive import is_alive, this_process
from themis.backends._journal import Journal, left_behind, rows_entry, rows_head
from themis.backends._parts import FORMATS
from themis.backends._place import Place
from themis.backends._upkeep import Upkeep
from themis.backends.fsspec import FsspecStorageBackend, LocalFileStorageBackend
from themis.errors import StorageError, UsageError
from themis.records import SCHEMA_VERSION, EvaluationRecord, GenerationRecord, MetricResult, Report

FORMAT_NAMES = sorted(FORMATS)


def generation(record_id, **fields):
    """A small generation."""
    return GenerationRecord(**{"id": record_id, "prompt": "p", "response": "r", **fields})


def files(folder):
    """The paths of all files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def ids(storage, run_id="run"):
    """The ids of all generations that a storage gives, sorted."""
    return sorted(record.id for record in storage.load_generation_records(run_id))


def wait_until(holds, seconds=10.0):
    """Return once it holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize(("format_name", "suffix"), [("parquet", "parquet"), ("jsonl", "jsonl")])
def test_the_layout_on_disk(tmp_path, format_name, suffix):
    """A flushed run is run.json, a launch, and one part of each kind, named by launch, number and checksum."""
    with FsspecStorageBackend(tmp_path, format=format_name) as storage:
        for number in range(100):
            storage.save_generation_record("run", generation(str(number)))
        storage.save_evaluation_record("run", EvaluationRecord("e", "1", "exact_match", score=1.0))
        (launch,) = [entry["launch"] for entry in storage.load_launches("run")]

    assert launch.startswith("000001-")
    (evaluations,) = tmp_path.glob("run/evaluations/*")
    (generations,) = tmp_path.glob("run/generations/*")
    assert files(tmp_path) == [
        f"run/evaluations/{launch}-000001-{zlib.crc32(evaluations.read_bytes()):08x}.{suffix}",
        f"run/generations/{launch}-000000-{zlib.crc32(generations.read_bytes()):08x}.{suffix}",
        f"run/launches/{launch}.json",
        "run/run.json",
    ]
    stored = json.loads((tmp_path / "run/run.json").read_text())
    assert stored == {"run_id": "run", "schema_version": SCHEMA_VERSION, "metadata": {}}


def test_a_part_says_its_schema_version_and_is_compressed(tmp_path):
    """A Parquet part carries schema version and kind in its metadata, and its columns are zstd."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation("1"))

    (part,) = tmp_path.glob("run/generations/*.parquet")
    metadata = pq.read_metadata(part)
    assert metadata.metadata[b"themis.schema_version"] == str(SCHEMA_VERSION).encode()
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_json_line_is_the_record_and_its_keys(tmp_path):
    """A line of a jsonl part is the record's own fields and the four keys, structure as JSON and not as text."""
    with FsspecStorageBackend(tmp_path, format="jsonl") as storage:
        storage.save_generation_record("run", generation("1", params={"seed": 7}, started_at=1.5))

    (part,) = tmp_path.glob("run/generations/*.jsonl")
    row = json.loads(part.read_text())
    assert {name: row[name] for name in generation("1").__dict__} == generation(
        "1", params={"seed": 7}, started_at=1.5
    ).__dict__
    assert (row["run_id"], row["seq"]) == ("run", 0)


_SAVE_ONE_BY_ONE = """
import itertools, os, sys, threading
from themis.backends.fsspec import FsspecStorageBackend
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1], format=sys.argv[2], flush_rows=150)
numbers = itertools.count()
def save():
    for number in numbers:
        storage.save_generation_record("run", GenerationRecord(id=str(number), prompt="p", response="r" * 500))
        os.write(1, f"{number}\\n".encode())
for _ in range(int(sys.argv[3])):
    threading.Thread(target=save).start()
"""


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize(("at", "n_threads"), [(1, 1), (140, 1), (155, 1), (333, 1), (140, 8), (333, 8)])
def test_a_killed_process_loses_nothing_accepted(tmp_path, format_name, at, n_threads):
    """A process killed while it saves, before, around and after a part, leaves every record it had accepted."""
    command = [sys.executable, "-c", _SAVE_ONE_BY_ONE, str(tmp_path), format_name, str(n_threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as child:
        accepted = {child.stdout.readline().strip() for _ in range(at)}
        child.send_signal(signal.SIGKILL)
        accepted.update(child.stdout.read().split())

    loaded = ids(FsspecStorageBackend(tmp_path))
    assert len(loaded) == len(set(loaded))
    assert set(loaded) >= accepted


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_a_torn_journal_gives_its_whole_entries(tmp_path, format_name):
    """Another process's journal, cut anywhere, gives the records before the cut, and never an error."""
    writer = FsspecStorageBackend(tmp_path, format=format_name)
    for number in range(3):
        writer.save_generation_record("run", generation(str(number)))
    (journal,) = tmp_path.glob("run/journal/*")
    data = journal.read_bytes()
    seen = set()
    for cut in range(0, len(data) + 1, 97):
        journal.write_bytes(data[:cut])
        found = ids(FsspecStorageBackend(tmp_path))
        assert found == ["0", "1", "2"][: len(found)]
        seen.add(len(found))
    writer._writers.peek("run").discard()

    assert seen >= {0, 1, 2}


def test_a_reader_sees_another_process_before_its_flush(tmp_path):
    """On a local disk a second object reads what the first has accepted and not flushed."""
    with FsspecStorageBackend(tmp_path, flush_seconds=60) as writer:
        writer.save_generation_record("run", generation("1"))

        assert files(tmp_path / "run/journal") != []
        assert ids(FsspecStorageBackend(tmp_path)) == ["1"]


def test_a_failed_journal_write_leaves_the_journal_whole(tmp_path, monkeypatch):
    """When the disk is full in the middle of an entry, the entries before and after it stay readable."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation("before"))
    real_write = os.write

    def full_disk(descriptor, data):
        monkeypatch.setattr(os, "write", fail)
        return real_write(descriptor, data[:50])

    def fail(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        storage.save_generation_record("run", generation("lost"))
    monkeypatch.setattr(os, "write", real_write)
    storage.save_generation_record("run", generation("after"))

    assert ids(FsspecStorageBackend(tmp_path)) == ["after", "before"]
    assert ids(storage) == ["after", "before"]
    storage.close()


def test_a_journal_that_cannot_be_mended_is_followed_by_another(tmp_path, monkeypatch):
    """Where half an entry cannot be cut off, what is accepted later stands in another journal, and is read."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation("before"))
    real_write = os.write

    def half(descriptor, data):
        monkeypatch.setattr(os, "write", fail)
        return real_write(descriptor, data[:50])

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", half)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(StorageError, match="nothing was saved"):
        storage.save_generation_record("run", generation("lost"))
    monkeypatch.undo()
    storage.save_generation_record("run", generation("after"))

    assert ids(FsspecStorageBackend(tmp_path)) == ["after", "before"]
    assert storage.verify("run").foreign == []
    storage.close()
    assert files(tmp_path / "run/journal") == []


def test_a_process_of_before_a_reboot_is_dead(monkeypatch):
    """A process number that another boot of this machine gave says nothing about who has it now."""
    writer = this_process()
    assert is_alive(writer, time.time())
    real_read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *rest: "another" if path.name == "boot_id" else real_read(path, *rest)
    )
    assert not is_alive(writer, time.time())


def test_a_journal_is_one_head_and_whole_entries(tmp_path):
    """The head is written once, with the first entry, and removal deletes the file."""
    journal = Journal(tmp_path / "new/journal", b"head;")
    journal.append(b"one;")
    journal.append(b"two;")

    assert (tmp_path / "new/journal").read_bytes() == b"head;one;two;"
    journal.remove()
    assert files(tmp_path) == []


def test_a_new_journal_is_locked_before_it_can_be_found(tmp_path, monkeypatch):
    """Whoever opens the run at the moment in which a journal is locked leaves it to its living writer."""
    real_flock, adopted = fcntl.flock, []

    def adopt_first(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", real_flock)
        adopted.append(Upkeep(Place(tmp_path), "run", "parquet").adopt_journals())
        real_flock(descriptor, operation)

    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_launch("run", {})
    monkeypatch.setattr(fcntl, "flock", adopt_first)
    storage.save_generation_record("run", generation("1"))

    assert adopted == [[]]
    assert ids(FsspecStorageBackend(tmp_path)) == ["1"]
    storage.close()
    assert files(tmp_path / "run/journal") == []


def test_a_journal_that_somebody_else_removed_is_not_left_behind(tmp_path, monkeypatch):
    """Whoever gets the lock of a journal after another one has adopted it does not adopt it again."""
    path = tmp_path / "journal"
    path.write_bytes(b"")
    real_flock = fcntl.flock

    def remove_first(descriptor, operation):
        path.unlink()
        real_flock(descriptor, operation)

    with left_behind(path) as gone:
        assert gone
    monkeypatch.setattr(fcntl, "flock", remove_first)
    with left_behind(path) as gone:
        assert not gone


@pytest.mark.parametrize(("error", "refused"), [(BlockingIOError(11, "taken"), True), (OSError(95, "no locks"), False)])
def test_a_disk_without_locks_keeps_journals(tmp_path, monkeypatch, error, refused):
    """A disk that knows no locks keeps a journal all the same; a lock that somebody else has refuses the save."""

    def flock(*_):
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    with FsspecStorageBackend(tmp_path, flush_seconds=60) as storage:
        if refused:
            with pytest.raises(StorageError, match="taken; nothing was saved"):
                storage.save_generation_record("run", generation("1"))
        else:
            storage.save_generation_record("run", generation("1"))
        assert len(files(tmp_path / "run/journal")) == (0 if refused else 1)


@pytest.mark.parametrize("values", [b'["too", "few"]', b"not JSON", b""])
def test_a_journal_of_another_version_says_what_to_do(tmp_path, caplog, values):
    """Rows that another version journalled are a StorageError for who reads, and a warning for who saves."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation("1"))
    journal = tmp_path / "run/journal/000009-ab-000000.generations.rows"
    journal.write_bytes(rows_head("run", "000009-ab") + rows_entry(0, 0, values))
    what_to_do = r"generations\.rows, which another version.*move the file away"

    for call in (storage.load_generation_records, storage.compact):
        with pytest.raises(StorageError, match=what_to_do):
            call("run")
    for repair in (False, True):
        (problem,) = storage.verify("run", repair=repair).problems
        assert (problem.what, problem.repaired) == ("unreadable", None)
        assert re.search(what_to_do, problem.message)
    with FsspecStorageBackend(tmp_path) as writer:
        writer.save_generation_record("run", generation("2"))
    assert "which another version" in caplog.text
    journal.unlink()
    assert ids(FsspecStorageBackend(tmp_path)) == ["1", "2"]


def test_rows_become_a_part_in_the_background(tmp_path):
    """After flush_seconds, or once there are flush_rows, a part appears though nobody flushes."""
    by_time = FsspecStorageBackend(tmp_path / "time", flush_seconds=0.1)
    by_rows = FsspecStorageBackend(tmp_path / "rows", flush_seconds=60, flush_rows=5)
    by_time.save_generation_record("run", generation("1"))
    for number in range(4):
        by_rows.save_generation_record("run", generation(str(number)))
    assert not list(tmp_path.glob("rows/run/generations/*"))
    by_rows.save_generation_record("run", generation("4"))

    wait_until(lambda: list(tmp_path.glob("time/run/generations/*.parquet")))
    wait_until(lambda: list(tmp_path.glob("rows/run/generations/*.parquet")))
    wait_until(lambda: not files(tmp_path / "rows/run/journal"))
    by_time.close()
    by_rows.close()


def test_a_failed_write_is_kept_and_written_later(tmp_path, caplog):
    """What the background could not write is still read, raised by flush(), and in a part once the place is good."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    storage.save_evaluation_record("run", EvaluationRecord("e", "1", "m", score=1.0))
    storage.flush()
    (tmp_path / "run/generations").write_text("in the way")
    storage.save_generation_record("run", generation("1"))
    wait_until(lambda: "wait" in caplog.text)

    assert storage._writers.peek("run").pending("generations")
    with pytest.raises(StorageError, match="in the way"):
        storage.flush()
    with pytest.raises(StorageError, match="in the way"):
        storage.close()
    (tmp_path / "run/generations").unlink()
    assert ids(storage) == ["1"]
    storage.close()
    assert [part.suffix for part in (tmp_path / "run/generations").iterdir()] == [".parquet"]


def test_a_forgotten_backend_is_flushed_by_the_garbage_collector(tmp_path):
    """A backend that nobody closes writes its part when it goes away, and its thread ends."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation("1"))
    thread = storage._writers._thread
    del storage
    gc.collect()

    assert len(list(tmp_path.glob("run/generations/*.parquet"))) == 1
    assert not thread.is_alive()


_SAVE_AND_LEAVE = """
import json, sys
from themis.backends.fsspec import FsspecStorageBackend
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1], storage_options=json.loads(sys.argv[2]), flush_seconds=60)
storage.save_generation_record("run", GenerationRecord(id="1", prompt="p", response="r"))
"""


def test_a_process_that_ends_without_close_flushes(s3):
    """Interpreter exit writes what was accepted, also where the store's host name must be looked up anew."""
    url = s3.new_url()
    options = {**s3.storage_options, "endpoint_url": s3.endpoint.replace("127.0.0.1", "localhost")}
    command = [sys.executable, "-c", _SAVE_AND_LEAVE, url, json.dumps(options)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1], check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert ids(FsspecStorageBackend(url, storage_options=s3.storage_options)) == ["1"]


_SAVE_AFTER_MAIN = """
import json, sys, threading, time
from themis.backends.fsspec import FsspecStorageBackend
from themis.records import GenerationRecord
storage = FsspecStorageBackend(sys.argv[1], storage_options=json.loads(sys.argv[2]), flush_seconds=60)
def save(number):
    storage.save_generation_record("run", GenerationRecord(id=str(number), prompt="p", response="r"))
def go_on():
    threading.main_thread().join()
    time.sleep(0.5)
    save(2)
save(1)
threading.Thread(target=go_on).start()
"""


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_what_a_thread_saves_after_main_ended_is_flushed(tmp_path, request, where):
    """A thread that goes on after the main one ended has what it saves in a part when the process is gone."""
    url, options = str(tmp_path), {}
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        url, options = s3.new_url(), s3.storage_options
    command = [sys.executable, "-c", _SAVE_AFTER_MAIN, url, json.dumps(options)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1], check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    storage = FsspecStorageBackend(url, storage_options=options)
    assert ids(storage) == ["1", "2"]
    assert not [path for path in storage._place.tree() if "/journal/" in path]


def _save_in_child(storage):
    storage.save_generation_record("run", generation("child"))
    storage.close()


def test_a_forked_child_is_a_writer_of_its_own(tmp_path):
    """A child forked with rows pending writes its own rows once, the parent its own, under two launches."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation("parent"))
    child = multiprocessing.get_context("fork").Process(target=_save_in_child, args=(storage,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    storage.close()

    assert ids(FsspecStorageBackend(tmp_path)) == ["child", "parent"]
    parts = sorted(tmp_path.glob("run/generations/*.parquet"))
    assert [part.name[:6] for part in parts] == ["000001", "000002"]
    assert [pq.read_metadata(part).num_rows for part in parts] == [1, 1]


def _save_many(url, options, name):
    with FsspecStorageBackend(url, storage_options=options, flush_rows=20) as storage:
        for number in range(50):
            storage.save_generation_record("run", generation(f"{name}-{number}"))


def test_several_processes_write_one_run(tmp_path, s3):
    """Processes that save into one run at once, on disk and on S3, lose nothing and share no launch."""
    places = [(str(tmp_path), None), (s3.new_url(), s3.storage_options)]
    context = multiprocessing.get_context("spawn")
    work = [context.Process(target=_save_many, args=(*place, name)) for place in places for name in "ab"]
    for process in work:
        process.start()
    for process in work:
        process.join(60)

    assert [process.exitcode for process in work] == [0] * 4
    for url, options in places:
        storage = FsspecStorageBackend(url, storage_options=options)
        assert len(ids(storage)) == 100
        launches = [entry["launch"] for entry in storage.load_launches("run")]
        assert len(set(launches)) == 2
        assert launches == sorted(launches)


def test_launches_are_ordered_without_a_clock(tmp_path, monkeypatch):
    """A later writer's launch sorts after every earlier one and its record wins, though its clock runs behind."""
    with FsspecStorageBackend(tmp_path) as first:
        first.save_generation_record("run", generation("1", response="early"))
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    with FsspecStorageBackend(tmp_path) as second:
        second.save_generation_record("run", generation("1", response="late"))
        second.save_launch("run", {"host": "b"})

    assert [record.response for record in first.load_generation_records("run")] == ["late"]
    assert [(entry["launch"][:6], entry.get("host")) for entry in first.load_launches("run")] == [
        ("000001", None),
        ("000002", "b"),
    ]


def test_a_file_that_vanishes_between_listing_and_reading(tmp_path):
    """A reader whose listing is overtaken, as by a journal that became a part, lists again and misses nothing."""
    writer = FsspecStorageBackend(tmp_path, flush_seconds=60)
    writer.save_generation_record("run", generation("1"))
    reader = FsspecStorageBackend(tmp_path)
    names = reader._place.names

    def overtaken(folder=""):
        listed = names(folder)
        writer.flush()
        return listed

    reader._place.names = overtaken
    assert ids(reader) == ["1"]
    writer.close()


def test_a_pickle_carries_no_rows_no_locks_and_no_secret(s3_environment):
    """A backend with pending rows and credentials of the environment pickles without either."""
    with FsspecStorageBackend(s3_environment.new_url()) as storage:
        storage.save_generation_record("run", generation("pending"))
        data = pickle.dumps(storage)

    assert b"pending" not in data
    assert s3_environment.secret.encode() not in data
    assert ids(pickle.loads(data)) == ["pending"]


def test_a_run_on_s3_is_few_objects(s3):
    """300 records saved one by one are two parts, a launch and run.json; deleted, nothing is left."""
    import s3fs

    url = s3.new_url()
    raw = s3fs.S3FileSystem(**s3.storage_options, use_listings_cache=False, skip_instance_cache=True)
    with FsspecStorageBackend(url, storage_options=s3.storage_options, flush_seconds=60) as storage:
        for number in range(300):
            storage.save_generation_record("run", generation(str(number)))
            storage.save_evaluation_record("run", EvaluationRecord(str(number), str(number), "m", score=1.0))
        storage.save_generation_record("run10", generation("1"))
    assert len(raw.find(f"{url}/run/")) == 4

    storage.delete_run("run")
    assert raw.find(f"{url}/run/") == []
    assert ids(storage, "run10") == ["1"]


def test_a_damaged_part_is_named(tmp_path):
    """A flipped byte in a page is a StorageError with the file's name, and never a wrong value."""
    with FsspecStorageBackend(tmp_path) as storage:
        for number in range(50):
            storage.save_generation_record("run", generation(str(number), response=os.urandom(50).hex()))
    (part,) = tmp_path.glob("run/generations/*.parquet")
    data = bytearray(part.read_bytes())
    column = pq.read_metadata(part).row_group(0).column(2)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    part.write_bytes(data)

    with pytest.raises(StorageError, match=part.name):
        storage.load_generation_records("run")


def test_foreign_folders_and_files_are_passed_over(tmp_path):
    """A folder that is no run is not listed, and files that are no parts are not read."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation("1"))
    (tmp_path / ".git/objects").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run/generations/.half.parquet.123.tmp").write_text("torn")
    (tmp_path / "run/generations/README").write_text("mine")

    assert storage.list_runs() == ["run"]
    assert ids(storage) == ["1"]


def test_both_formats_are_read_from_one_run(tmp_path):
    """A run written in Parquet and continued in jsonl is read as one."""
    for number, name in enumerate(FORMAT_NAMES):
        with FsspecStorageBackend(tmp_path, format=name) as storage:
            storage.save_generation_record("run", generation(str(number)))

    assert ids(storage) == ["0", "1"]


def test_a_batch_with_one_bad_record_is_not_accepted(tmp_path):
    """A batch in which a field has a wrong type is a UsageError, and none of it is saved."""
    with FsspecStorageBackend(tmp_path) as storage:
        with pytest.raises(UsageError, match="'response' of record 'bad'"):
            storage.save_generation_records("run", [generation("good"), generation("bad", response=5)])

        assert storage.load_generation_records("run") == []


def test_wrong_arguments_are_usage_errors(tmp_path):
    """An unknown format, a limit of zero and a URL where a path belongs are refused with what is possible."""
    with pytest.raises(UsageError, match="Did you mean 'parquet'"):
        FsspecStorageBackend(tmp_path, format="parket")
    with pytest.raises(UsageError, match="flush_rows=0"):
        FsspecStorageBackend(tmp_path, flush_rows=0)
    with pytest.raises(UsageError, match="FsspecStorageBackend"):
        LocalFileStorageBackend("s3://bucket/runs")


def test_importing_the_module_loads_no_heavy_package():
    """fsspec, pyarrow, numpy and s3fs are loaded when a backend is made, not when the module is imported."""
    heavy = ("fsspec", "pyarrow", "numpy", "s3fs")
    code = f"import sys, themis.backends.fsspec; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_real_run_is_small_on_disk(tmp_path):
    """1,319 real answers of a real model come back as they were, and take less than 1 MB."""
    data = Path(os.environ.get("THEMIS_DATA", "missing")) / "gsm8k_graded"
    found = sorted(data.glob("*.jsonl.gz"))
    if not found:
        pytest.skip("needs the graded GSM8K responses under $THEMIS_DATA")
    with gzip.open(found[0], "rt") as file:
        lines = [json.loads(line) for line in file]
    records = [
        GenerationRecord(f"{number:032x}", row["question"], row["solution"], model="m", started_at=1.5e9 + number)
        for number, row in enumerate(lines)
    ]
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_records("run", records)

    loaded = {record.id: record for record in FsspecStorageBackend(tmp_path).load_generation_records("run")}
    assert [loaded[record.id] for record in records] == records
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) < 1_000_000


def test_a_journal_of_another_version_holds_up_no_other(tmp_path):
    """What a killed process left behind such a journal becomes a part nevertheless."""
    with FsspecStorageBackend(tmp_path) as storage:
        storage.save_generation_record("run", generation("1"))
    other = FsspecStorageBackend(tmp_path, flush_seconds=60)
    other.save_generation_record("run", generation("2"))
    (ours,) = (tmp_path / "run/journal").iterdir()
    rows = ours.read_bytes()
    other.close()
    left = tmp_path / "run/journal/000010-cd-000000.generations.rows"
    left.write_bytes(rows)
    strange = tmp_path / "run/journal/000009-ab-000000.generations.rows"
    strange.write_bytes(rows_head("run", "000009-ab") + rows_entry(0, 0, b"not JSON"))

    with pytest.raises(StorageError, match="which another version"):
        storage.compact("run")

    assert strange.exists()
    assert not left.exists()


def test_a_report_of_a_later_version_is_read(tmp_path):
    """Fields that this version does not know are left out; what is no report at all is named by a StorageError."""
    storage = FsspecStorageBackend(tmp_path)
    result = MetricResult(metric="m", mean=0.5, n_scored=2, n_groups=1)
    storage.save_report("r", Report("r", "b", "m", metrics={"m": result}, groups={"m": {"g": result}}))
    path = tmp_path / "r" / "report.json"
    stored = json.loads(path.read_text())
    stored["metrics"]["m"]["later"] = stored["groups"]["m"]["g"]["later"] = stored["later"] = 1
    path.write_text(json.dumps(stored))
    found = storage.load_report("r")
    assert (found.metrics["m"], found.groups["m"]["g"]) == (result, result)

    for broken in ({"metrics": {}}, {**stored, "metrics": {"m": 3}}, {**stored, "groups": [1]}, []):
        path.write_text(json.dumps(broken))
        with pytest.raises(StorageError, match=r"report\.json"):
            storage.load_report("r")
