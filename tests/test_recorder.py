"""Records are saved on a thread of their own, together with what comes at the same time, and none is lost."""

from __future__ import annotations

import threading
import time

import pytest

from themis.errors import StorageError
from themis.recorder import Recorder
from themis.records import EvaluationRecord, GenerationRecord, Sample
from themis.work import Done


class Saves:
    """A storage that notes what it is given, call by call, and waits for `open` before it takes it."""

    def __init__(self, error=None):
        self.calls = []
        self.error = error
        self.open = threading.Event()
        self.open.set()

    def save_samples(self, _run_id, records):
        self._take("samples", records)

    def save_generation_records(self, _run_id, records):
        self._take("generations", records)

    def save_evaluation_records(self, _run_id, records):
        self._take("evaluations", records)

    def _take(self, kind, records):
        self.open.wait()
        if self.error is not None:
            raise self.error
        self.calls.append((kind, [record.id for record in records]))


def done(number):
    """An answer with its score."""
    generation = GenerationRecord(id=f"g{number}", prompt="p", response="r")
    return Done(generation, [EvaluationRecord(id=f"e{number}", generation_id=f"g{number}", metric="m")])


def wait_for_calls(storage, count):
    """Return when the storage has had so many calls, or after five seconds."""
    until = time.monotonic() + 5
    while len(storage.calls) < count and time.monotonic() < until:
        time.sleep(0.005)


def test_what_comes_together_is_saved_together(monkeypatch):
    """Records put one after the other are one call for each kind: samples, then answers, then scores."""
    monkeypatch.setattr("themis.recorder.GATHER_SECONDS", 60)
    storage = Saves()
    recorder = Recorder(storage, "run", enough=100)
    for number in range(3):
        recorder.put(done(number))
    recorder.put(Sample("s", "question"))

    recorder.close()

    expected = [("samples", ["s"]), ("generations", ["g0", "g1", "g2"]), ("evaluations", ["e0", "e1", "e2"])]
    assert storage.calls == expected


def test_a_record_that_stays_alone_is_saved_soon():
    """One record is with the storage without another call."""
    storage = Saves()
    recorder = Recorder(storage, "run", enough=100)

    recorder.put(done(1))

    wait_for_calls(storage, 2)
    assert storage.calls == [("generations", ["g1"]), ("evaluations", ["e1"])]
    recorder.close()


def test_enough_records_wait_no_longer(monkeypatch):
    """As soon as so many are together, they are saved."""
    monkeypatch.setattr("themis.recorder.GATHER_SECONDS", 60)
    storage = Saves()
    recorder = Recorder(storage, "run", enough=3)
    for number in range(3):
        recorder.put(done(number))

    wait_for_calls(storage, 2)
    assert storage.calls[0] == ("generations", ["g0", "g1", "g2"])
    recorder.close()


def test_wait_returns_when_everything_is_saved(monkeypatch):
    """Waiting is neither cut short by a save on its way nor held up by the time that records gather."""
    monkeypatch.setattr("themis.recorder.GATHER_SECONDS", 60)
    storage = Saves()
    recorder = Recorder(storage, "run", enough=100)
    recorder.put(done(1))
    storage.open.clear()
    threading.Timer(0.2, storage.open.set).start()

    recorder.wait()

    assert [kind for kind, _ in storage.calls] == ["generations", "evaluations"]
    recorder.put(done(2))
    recorder.close()
    assert storage.calls[-1] == ("evaluations", ["e2"])


def test_put_waits_for_a_storage_that_is_far_behind(monkeypatch):
    """At most MAX_WAITING records are held besides those that are being saved; the rest wait outside."""
    monkeypatch.setattr("themis.recorder.MAX_WAITING", 2)
    storage = Saves()
    storage.open.clear()
    recorder = Recorder(storage, "run")
    n_put = []
    putting = threading.Thread(target=lambda: [n_put.append(recorder.put(done(number))) for number in range(9)])

    putting.start()
    putting.join(0.5)
    held = len(n_put)
    storage.open.set()
    putting.join(10)
    recorder.close()

    assert held <= 4  # two waiting, and one or two that are being saved
    assert sorted(name for kind, ids in storage.calls if kind == "generations" for name in ids) == [
        f"g{number}" for number in range(9)
    ]


def test_the_first_error_of_the_storage_comes_back():
    """After a failed save the next call raises its error, and so does closing."""
    recorder = Recorder(Saves(StorageError("the disk is full")), "run")
    recorder.put(done(1))

    with pytest.raises(StorageError, match="full"):
        recorder.wait()
    with pytest.raises(StorageError, match="full"):
        recorder.put(done(2))
    with pytest.raises(StorageError, match="full"):
        recorder.close()
