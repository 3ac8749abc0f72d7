"""Writing: one by one and together, at once or later, against a store that fails for a while or for ever."""

from __future__ import annotations

import errno
import itertools
import json
import pickle
import sys
import threading
import time
from dataclasses import replace
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from themis import arrow
from themis.backends import FsspecStorageBackend, _writer
from themis.backends._lanes import MAX_LANES
from themis.backends._layout import remove_run
from themis.backends._rows import encode_row, rows_to_table
from themis.backends._writer import Writer
from themis.errors import StorageError, UsageError
from themis.records import EvaluationRecord, GenerationRecord
from themis.testing._records import full_evaluation, full_generation, samples

FULL = {"samples": samples(), "generations": [full_generation()], "evaluations": [full_evaluation()]}


def generation(number, **fields):
    """A small generation."""
    return GenerationRecord(**{"id": f"{number:032x}", "prompt": "p", "response": f"r{number}", **fields})


def wait_until(holds, seconds=10.0):
    """Return once it holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def responses(storage):
    """The responses that a new reader finds, sorted."""
    reader = FsspecStorageBackend(storage._place.url)
    return sorted(record.response for record in reader.load_generation_records("run"))


def parts_of(storage_path, kind="generations"):
    """The parts of a kind that are there."""
    return list(storage_path.glob(f"run/{kind}/*.parquet"))


class Flaky(MemoryFileSystem):
    """A store whose writes of parts fail as `trouble` says: before or after they were applied."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012 - as in the parent
    pseudo_dirs: list = [""]  # noqa: RUF012
    trouble = None
    attempts = 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        is_part = "/generations/" in path or "/evaluations/" in path
        if is_part:
            Flaky.attempts += 1
        if is_part and Flaky.trouble:
            Flaky.trouble(lambda: MemoryFileSystem.pipe_file(self, path, value, mode, **kwargs))
        else:
            super().pipe_file(path, value, mode, **kwargs)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def flaky():
    """A URL on the flaky store, which does well until it is told otherwise."""
    Flaky.trouble, Flaky.attempts = None, 0
    yield f"flaky://{uuid4().hex}"
    Flaky.trouble = None


def for_a_while(seconds, error, *, applied=False):
    """Trouble that ends: until then each write raises, having been applied or not."""
    until = time.monotonic() + seconds

    def trouble(write):
        if applied or time.monotonic() > until:
            write()
        if time.monotonic() <= until:
            raise error

    return trouble


# -- rows of single records


@pytest.mark.parametrize("kind", FULL)
def test_a_row_is_what_a_table_of_one_would_be(kind):
    """Every record of the suite gives the same row alone as in a table."""
    for number, record in enumerate(FULL[kind]):
        row, line = encode_row(kind, record)
        assert json.loads(line) == row
        table = arrow.to_table(kind, [record], run_id="r", launch="l", seqs=[number], saved_at=1.5)
        assert rows_to_table(kind, [*row, number, 1_500_000], "r", "l") == table


@pytest.mark.parametrize(
    "fields",
    [
        {"response": 5},
        {"latency": float("nan")},
        {"latency": 3},
        {"latency": np.float64(0.5)},
        {"input_tokens": 2**63},
        {"attempts": True},
        {"response": "a\ud800"},
        {"metadata": {"x": float("inf")}},
        {"started_at": float("inf")},
        {"started_at": 1e300},
    ],
)
def test_what_a_row_does_not_take_is_left_to_the_table(fields):
    """A value that is not stored as it stands goes the other way, which stores it or names it."""
    assert encode_row("generations", replace(full_generation(), **fields)) is None


@pytest.mark.parametrize("response", ["a\ud800b", "\0", "x" * 10_000_000, ""])
def test_odd_records_are_saved_alone_too(tmp_path, response):
    """A lone surrogate, a null byte and 10 MB of text come back, from the journal and from the part."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    nested = {"a": {}}
    for _ in range(50):
        nested = {"a": [nested]}
    storage.save_generation_record("run", generation(1, response=response, metadata=nested))
    expected = response.replace("\ud800", "\\ud800")
    for _ in range(2):
        (record,) = FsspecStorageBackend(tmp_path).load_generation_records("run")
        assert (record.response, record.metadata) == (expected, nested)
        storage.close()


def test_a_record_nested_too_deeply_is_refused(tmp_path):
    """Metadata deeper than JSON can be written is a UsageError with the field's name, and nothing is saved."""
    nested = {}
    for _ in range(100_000):
        nested = {"a": nested}
    with FsspecStorageBackend(tmp_path) as storage:
        with pytest.raises(UsageError, match="metadata"):
            storage.save_generation_record("run", generation(1, metadata=nested))
        assert storage.load_generation_records("run") == []
    while nested:  # freed from outside, or the interpreter frees it by a recursion of its own
        nested = nested["a"]


def test_threads_that_save_one_by_one_keep_their_order(tmp_path):
    """Eight threads save 400 records each, one by one: all are accepted, each seq once, in their order."""
    with FsspecStorageBackend(tmp_path, flush_rows=500) as storage:

        def save(thread):
            for number in range(400):
                storage.save_generation_record("run", generation(thread * 1000 + number))

        threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = storage.scan("run", "generations", ["id", "seq"]).to_pylist()

    assert sorted(row["seq"] for row in rows) == list(range(3200))
    by_number = {int(row["id"], 16): row["seq"] for row in rows}
    for thread in range(8):
        seqs = [by_number[thread * 1000 + number] for number in range(400)]
        assert seqs == sorted(seqs)


def test_a_refused_record_refuses_no_other(tmp_path, monkeypatch):
    """A journal that cannot be written raises on the thread of each record that it was for, and accepts none."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation(1))
    refused = []

    def save(number):
        try:
            storage.save_generation_record("run", generation(number))
        except StorageError as error:
            refused.append(str(error))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("themis.backends._journal.os.write", full)
    threads = [threading.Thread(target=save, args=(number,)) for number in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()

    assert len(refused) == 4
    assert all("No space left" in message and "nothing was saved" in message for message in refused)
    storage.save_generation_record("run", generation(9))
    storage.close()
    assert responses(storage) == ["r1", "r9"]


@pytest.mark.parametrize("n_more", [0, MAX_LANES])
def test_an_interruption_takes_nothing_along(tmp_path, monkeypatch, n_more):
    """A Ctrl-C while a record is accepted leaves that one unsaved, and whoever saves it again saves it."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation(1))
    writer = storage._writers.peek("run")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_journal", interrupted)
    for _ in range(1 + n_more):
        with pytest.raises(KeyboardInterrupt):
            storage.save_generation_record("run", generation(2))
    monkeypatch.undo()

    assert responses(storage) == ["r1"]
    storage.save_generation_record("run", generation(2))
    storage.close()
    assert responses(storage) == ["r1", "r2"]


def interrupted_at(number, act, files):
    """Whether a Ctrl-C came at that call, of all that `act` makes in these files: signals are looked for at calls."""
    left = number

    def profile(frame, event, _):
        nonlocal left
        if event in {"call", "c_return"} and frame.f_code.co_filename.endswith(files):
            left -= 1
            if left == -1:
                raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(before)
    return False


def test_a_flush_interrupted_anywhere_loses_nothing_and_doubles_nothing():
    """Whenever a Ctrl-C comes, the next flush has each accepted row in one part, once."""
    for call in itertools.count():
        storage = FsspecStorageBackend(f"memory://{uuid4().hex}", flush_seconds=60)
        storage.save_generation_record("run", generation(0))
        lanes = storage._writers.peek("run")._lanes
        first = lanes._free.pop()  # as if another thread were in it
        storage.save_generation_record("run", generation(1))
        storage.save_generation_records("run", [generation(number) for number in range(2, 12)])
        lanes._free.append(first)
        storage.save_generation_record("run", generation(12))
        came = interrupted_at(call, storage.flush, ("_lanes.py", "_pending.py", "_writer.py", "_writers.py"))
        storage.close()

        place = storage._place
        parts = [place.read(path) for path in place.tree("run") if "/generations/" in path]
        seqs = [seq for part in parts for seq in pq.read_table(pa.BufferReader(part))["seq"].to_pylist()]
        assert sorted(seqs) == list(range(13)), f"call {call}"
        if not came:
            break
    assert call > 20


def test_threads_that_save_at_the_same_time_fill_one_part(tmp_path, monkeypatch):
    """As many threads as there are lanes save side by side, others after them, all into one part."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_launch("run", {})
    writer = storage._writers.peek("run")
    real, all_lanes, entered = writer._journal, threading.Barrier(MAX_LANES), itertools.count()

    def journal(*arguments):
        if next(entered) < MAX_LANES:
            all_lanes.wait(30)
        real(*arguments)

    monkeypatch.setattr(writer, "_journal", journal)
    threads = [
        threading.Thread(target=storage.save_generation_record, args=("run", generation(number)))
        for number in range(2 * MAX_LANES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = sorted(f"r{number}" for number in range(2 * MAX_LANES))
    assert sorted(record.response for record in storage.load_generation_records("run")) == expected
    assert responses(storage) == expected
    storage.close()
    assert responses(storage) == expected
    assert len(list((tmp_path / "run" / "generations").iterdir())) == 1
    assert list((tmp_path / "run" / "journal").iterdir()) == []


# -- when rows become parts


def test_every_save_can_be_durable(flaky):
    """With flush_seconds=0 a record is in a part when its save returns, also from several threads at once."""
    storage = FsspecStorageBackend(flaky, flush_seconds=0)
    storage.save_generation_record("run", generation(0))
    assert responses(storage) == ["r0"]
    threads = [
        threading.Thread(target=storage.save_generation_record, args=("run", generation(n))) for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert responses(storage) == sorted(f"r{n}" for n in range(9))
    storage.close()


def test_who_saves_faster_than_the_store_takes_it_waits(flaky):
    """Records in memory are bounded: with a slow store a fast saver waits for it, and nothing is lost."""
    Flaky.trouble = lambda write: (time.sleep(0.05), write())
    storage = FsspecStorageBackend(flaky, flush_bytes=20_000)
    highest = 0
    for number in range(500):
        storage.save_generation_record("run", generation(number, response=f"r{number:01000d}"))
        writer = storage._writers.peek("run")
        highest = max(highest, sum(part.nbytes for part in [*writer._sealed, *writer._lanes.parts()]))
    storage.close()

    assert highest < 5 * 20_000
    assert len(responses(storage)) == 500


def test_large_records_make_parts_by_their_bytes(tmp_path):
    """Ten records of 10 MB are several parts, none much larger than flush_bytes, and come back whole."""
    with FsspecStorageBackend(tmp_path, flush_seconds=60) as storage:
        for number in range(10):
            storage.save_generation_record("run", generation(number, response=str(number) * 10_000_000))

    sizes = [pq.read_metadata(part).num_rows for part in parts_of(tmp_path)]
    assert sum(sizes) == 10
    assert max(sizes) <= 7
    assert {len(text) for text in responses(storage)} == {10_000_000}


# -- a store that fails


BUSY = OSError(errno.EBUSY, "503 Slow Down")


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_trouble_that_passes_is_waited_for(flaky, applied):
    """A store that fails for half a second, before or after the write was applied, has all records in the end, once."""
    storage = FsspecStorageBackend(flaky, flush_seconds=0.05)
    storage.save_generation_record("run", generation(0))
    storage.flush()
    Flaky.trouble = for_a_while(0.5, BUSY, applied=applied)
    for number in range(1, 20):
        storage.save_generation_record("run", generation(number))
        time.sleep(0.01)
    storage.close()

    assert responses(storage) == sorted(f"r{n}" for n in range(20))
    assert storage.verify("run").clean


@pytest.mark.parametrize("hangs", [False, True], ids=["503", "hangs"])
def test_trouble_for_ever_has_one_deadline(flaky, monkeypatch, hangs):
    """flush() gives up on a dead store after its deadline, whatever waits to be written; all of it is kept."""
    monkeypatch.setattr("themis.backends._place.FIRST_ANSWER", 0.3)
    storage = FsspecStorageBackend(flaky, flush_seconds=60, flush_rows=5, retry_seconds=0.6)
    storage.save_generation_record("run", generation(0))
    storage.flush()
    release = threading.Event()

    def dead(_):
        release.wait(30 if hangs else 0)
        raise BUSY

    Flaky.trouble = dead
    for number in range(1, 40):
        storage.save_generation_record("run", generation(number))
        storage.save_evaluation_record("run", EvaluationRecord(f"e{number}", "g", "m", score=1.0))
    for end in (storage.flush, storage.close):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"\d+ records of run 'run' are kept for the next flush"):
            end()
        assert time.monotonic() - began < 3
    assert len(storage._writers.peek("run")._sealed) <= 2
    assert len(storage.load_generation_records("run")) == 40

    Flaky.trouble = None
    release.set()
    storage.close()
    assert responses(storage) == sorted(f"r{n}" for n in range(40))
    assert storage.verify("run").clean


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), FileNotFoundError("NoSuchBucket")])
def test_what_does_not_pass_is_said_at_once(flaky, error):
    """Lost permission and a bucket that vanished are raised without waiting, and nothing accepted is lost."""
    storage = FsspecStorageBackend(flaky, flush_seconds=60)
    storage.save_generation_record("run", generation(0))
    storage.flush()
    Flaky.trouble = for_a_while(3600, error)
    storage.save_generation_record("run", generation(1))
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"1 records of run 'run' are kept"):
        storage.flush()

    assert time.monotonic() - began < 2
    Flaky.trouble = None
    storage.close()
    assert responses(storage) == ["r0", "r1"]


def test_a_dead_store_stops_who_saves_on(flaky):
    """Once memory holds what it should, another save is refused with the store's error, and is not accepted."""
    storage = FsspecStorageBackend(flaky, flush_seconds=60, flush_bytes=1000, retry_seconds=0)
    storage.save_generation_record("run", generation(0))
    storage.flush()
    Flaky.trouble = for_a_while(3600, BUSY)
    accepted = 1

    def save_on():
        nonlocal accepted
        while accepted < 1000:
            storage.save_generation_record("run", generation(accepted))
            accepted += 1

    with pytest.raises(StorageError, match="503 Slow Down"):
        save_on()
    assert accepted < 100
    Flaky.trouble = None
    storage.close()
    assert len(responses(storage)) == accepted


def test_a_store_that_fails_reads_for_a_while(flaky, monkeypatch):
    """A read that fails is made again until the store answers."""
    storage = FsspecStorageBackend(flaky)
    storage.save_generation_record("run", generation(1))
    storage.close()
    real, failures = Flaky.cat_file, [BUSY, ConnectionError("reset"), TimeoutError("late")]

    def cat_file(self, path, **options):
        if failures:
            raise failures.pop()
        return real(self, path, **options)

    monkeypatch.setattr(Flaky, "cat_file", cat_file)
    assert responses(storage) == ["r1"]
    assert failures == []


# -- secrets


def test_no_secret_in_what_is_stored_or_said(s3_environment, caplog):
    """Credentials of the environment are in no file of a run, no log, no repr, no error and no pickle."""
    caplog.set_level("DEBUG", "themis")
    storage = FsspecStorageBackend(s3_environment.new_url())
    storage.save_launch("run", {"host": "a"})
    storage.save_generation_record("run", generation(1))
    storage.close()
    place = storage._place
    stored = b"".join(place.read(path) for path in place.tree("run"))

    for secret in (s3_environment.secret, s3_environment.key):
        assert secret.encode() not in stored
        assert secret not in caplog.text
        assert secret not in repr(storage) + repr(vars(place)["url"])
        assert secret.encode() not in pickle.dumps(storage)


def test_no_error_ends_the_thread_that_flushes(tmp_path, monkeypatch, caplog):
    """After errors of every kind in a flush and in a heartbeat, what was saved becomes a part in the background."""
    monkeypatch.setattr("themis.backends._writer.BEAT_SECONDS", 0.05)
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    real_flush, real_beat, real_encode = Writer.flush, Writer.beat, _writer.encode_part
    errors = [MemoryError("flush"), OSError("flush"), MemoryError("beat"), RuntimeError("part"), MemoryError("part")]

    def failing(name, real):
        def call(*arguments, **options):
            if errors and errors[0].args == (name,):
                raise errors.pop(0)
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(Writer, "flush", failing("flush", real_flush))
    monkeypatch.setattr(Writer, "beat", failing("beat", real_beat))
    monkeypatch.setattr(_writer, "encode_part", failing("part", real_encode))
    storage.save_generation_record("run", generation(1))

    wait_until(lambda: parts_of(tmp_path))
    assert errors == []
    assert "is written later" in caplog.text
    storage.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced(tmp_path, monkeypatch):
    """When the thread that flushes is dead all the same, the next part starts another."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    storage.save_launch("run", {})
    monkeypatch.setattr("themis.backends._writers._tend", lambda _: sys.exit())
    storage.save_generation_record("run", generation(1))
    wait_until(lambda: not storage._writers._thread.is_alive())
    monkeypatch.undo()
    storage.save_evaluation_record("run", EvaluationRecord("e1", "g1", "exact_match", score=1.0))

    wait_until(lambda: parts_of(tmp_path))
    storage.close()


@pytest.mark.usefixtures("no_new_threads")
def test_where_no_thread_can_be_started_every_save_is_durable(tmp_path):
    """At the end of a program, when Python begins no more threads, a record is in a part when its save returns."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    for number in range(3):
        storage.save_generation_record("run", generation(number))
        assert len(parts_of(tmp_path)) == number + 1
    storage.close()


@pytest.mark.parametrize("error", [MemoryError("first"), OSError("first"), StorageError("first")])
def test_one_failure_at_the_end_skips_no_other_run(tmp_path, monkeypatch, error):
    """When one run cannot be closed the others are, whatever the error is, and close() raises it."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    for run_id in ("a", "b"):
        storage.save_generation_record(run_id, generation(1))
    first = storage._writers.peek("a")

    def fail():
        raise error

    monkeypatch.setattr(first, "flush", fail)
    storage._writers.close_quietly()
    with pytest.raises(type(error), match="first"):
        storage.close()
    assert list(tmp_path.glob("b/generations/*.parquet"))
    monkeypatch.undo()
    storage.close()


def test_what_is_saved_after_close_becomes_a_part_too(tmp_path):
    """A backend that is closed before its thread has looked around starts another for what is saved afterwards."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    for number in range(1, 6):
        storage.save_generation_record("run", generation(number))
        storage.close()
        assert len(parts_of(tmp_path)) == number
    storage.save_evaluation_record("run", EvaluationRecord("e1", "g1", "exact_match", score=1.0))

    wait_until(lambda: parts_of(tmp_path, "evaluations"))
    storage.close()


def test_what_is_saved_after_a_close_that_failed_becomes_a_part_too(flaky):
    """What a failed close kept, and what is saved to it afterwards, is written once the store is back."""
    storage = FsspecStorageBackend(flaky, flush_seconds=0.05, retry_seconds=0)
    storage.save_generation_record("run", generation(0))
    storage.flush()
    Flaky.trouble = for_a_while(3600, PermissionError("Access Denied"))
    storage.save_generation_record("run", generation(1))
    wait_until(lambda: storage._writers.peek("run")._sealed)
    storage.save_generation_record("run", generation(2))
    with pytest.raises(StorageError, match="2 records of run 'run' are kept"):
        storage.close()
    Flaky.trouble = None
    storage.save_generation_record("run", generation(3))

    wait_until(lambda: responses(storage) == ["r0", "r1", "r2", "r3"])
    storage.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_when_it_was_asked_is_replaced(tmp_path, monkeypatch):
    """What was asked of a thread that died before it looked is asked of another."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    storage.save_launch("run", {})
    at_work, release = threading.Event(), threading.Event()

    def die(_):
        at_work.set()
        release.wait(30)
        sys.exit()

    monkeypatch.setattr("themis.backends._writers._tend", die)
    storage.save_generation_record("run", generation(1))
    assert at_work.wait(10)
    storage.save_evaluation_record("run", EvaluationRecord("e1", "g1", "exact_match", score=1.0))
    release.set()
    wait_until(lambda: not storage._writers._thread.is_alive())
    monkeypatch.undo()
    storage.save_samples("run", samples())

    wait_until(lambda: parts_of(tmp_path) and parts_of(tmp_path, "evaluations") and parts_of(tmp_path, "samples"))
    storage.close()


def test_who_was_interrupted_while_it_asked_keeps_no_other_from_it(tmp_path, monkeypatch):
    """A Ctrl-C on the way to the thread that flushes leaves what is saved next to become a part."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    storage.save_launch("run", {"status": "complete"})  # no heartbeat wakes the thread
    wait_until(lambda: not storage._writers._asked)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage._writers._wake, "notify_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.save_generation_record("run", generation(1))
    monkeypatch.undo()
    storage.save_evaluation_record("run", EvaluationRecord("e1", "g1", "exact_match", score=1.0))

    wait_until(lambda: parts_of(tmp_path) and parts_of(tmp_path, "evaluations"))
    storage.close()


def test_what_is_saved_while_its_run_is_deleted_makes_it_anew(tmp_path, monkeypatch):
    """Who saves into a run that is being deleted starts it again after that: what follows is in its journal."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=60)
    storage.save_generation_record("run", generation(1))
    saving = threading.Thread(target=storage.save_generation_record, args=("run", generation(2)))

    def remove_late(*arguments):
        saving.start()
        saving.join(0.5)
        remove_run(*arguments)

    monkeypatch.setattr("themis.backends.fsspec.remove_run", remove_late)
    storage.delete_run("run")
    saving.join()
    storage.save_generation_record("run", generation(3))

    assert responses(storage) == ["r2", "r3"]
    storage.close()


def test_opening_a_run_holds_up_no_other(tmp_path, monkeypatch):
    """While a store takes its time to open one run, records of another are saved and flushed in the background."""
    storage = FsspecStorageBackend(tmp_path, flush_seconds=0.05)
    storage.save_launch("quick", {})
    opens, goes_on, was_told = threading.Event(), threading.Event(), []
    real_init = Writer.__init__

    def slow_init(*arguments):
        opens.set()
        was_told.append(goes_on.wait(5))
        real_init(*arguments)

    monkeypatch.setattr(Writer, "__init__", slow_init)
    thread = threading.Thread(target=storage.save_generation_record, args=("slow", generation(1)))
    thread.start()
    opens.wait(10)
    storage.save_generation_record("quick", generation(1))
    wait_until(lambda: list(tmp_path.glob("quick/generations/*.parquet")), 5)
    goes_on.set()
    thread.join()
    storage.close()
    assert was_told == [True]
    assert list(tmp_path.glob("slow/generations/*.parquet"))


@pytest.mark.parametrize("left", ["part", "journal"])
def test_a_launch_whose_file_is_gone_stays_before_those_that_follow(tmp_path, left):
    """Where the file of a launch was lost, what it wrote still tells its place: a later answer wins."""
    first, second = (GenerationRecord("g", "p", answer) for answer in ("first", "second"))
    earlier = FsspecStorageBackend(tmp_path)
    earlier.save_generation_record("run", first)
    if left == "part":
        earlier.close()
    for file in (tmp_path / "run" / "launches").iterdir():
        file.unlink()

    with FsspecStorageBackend(tmp_path) as later:
        later.save_generation_record("run", second)
        assert [record.response for record in later.load_generation_records("run")] == ["second"]
    earlier.close()
