"""Killed at random moments, and many at once: what is accepted stays, and the numbers are the same bits."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import killed_run
import pytest

from themis.backends import FsspecStorageBackend, LocalExecutionBackend, RayExecutionBackend
from themis.records import GenerationRecord

FLUSH_SECONDS = 0.3
ONE_WRITE = 1.5
"""Seconds that a part may take on its way to a store on a machine that is busy with other tests."""

SOAK = pytest.mark.soak
KILLS = [pytest.param(3, 0, id="few"), *(pytest.param(10, seed, id=f"soak-{seed}", marks=SOAK) for seed in range(1, 6))]


class Driver:
    """A child process that evaluates, and when it said what of the ids that its storage accepted."""

    def __init__(self, **given):
        command = [sys.executable, str(Path(__file__).with_name("killed_run.py")), json.dumps(given)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.accepted = {}
        assert self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.accepted[line.strip()] = time.monotonic()

    def kill_after(self, seconds):
        """End it by SIGKILL that many seconds from now, or find it at its end; the moment of its death."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        died = time.monotonic()
        self._reader.join()
        self.process.stdout.close()
        return died


@dataclass(frozen=True)
class Place:
    """Where a run is, after how many seconds it is killed at the latest, and how young a record may be lost then."""

    where: dict
    longest: float
    may_lose: float


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    """A place for one run."""
    if request.param == "disk":
        return Place({"url": str(tmp_path / "runs"), "options": None}, longest=1.2, may_lose=0.0)
    s3 = request.getfixturevalue("s3")
    where = {"url": s3.new_url(), "options": s3.storage_options}
    return Place(where, longest=4.0, may_lose=FLUSH_SECONDS + ONE_WRITE)


def stored_ids(storage):
    """The ids of the answers that a reader finds, none before there is a run."""
    if not storage.run_exists("run"):
        return []
    return [record.id for record in storage.load_generation_records("run")]


@pytest.mark.parametrize(("kills", "seed"), KILLS)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(place, kills, seed, ray_session):
    """After each kill -9 what was accepted is stored; the last resume gives each id once and the same metrics."""
    draw = random.Random(seed)
    n_rows = 600 * kills
    moments = [place.longest * draw.uniform(kill, kill + 1) / kills for kill in range(kills)]
    draw.shuffle(moments)
    n_accepted = 0
    storage = FsspecStorageBackend(place.where["url"], storage_options=place.where["options"])
    for kill in range(kills):
        sequential, latency = kill % 3 == 2, draw.choice([0.002, 0.01, 0.02])
        driver = Driver(
            **place.where,
            n_rows=n_rows,
            max_workers=draw.choice([2, 8, 32]),
            sequential=sequential,
            latency=latency,
            flush_seconds=FLUSH_SECONDS,
        )
        died = driver.kill_after(moments[kill])
        if storage.run_exists("run"):
            assert storage.run_info("run").state != "going"
        found = stored_ids(storage)
        assert len(found) == len(set(found))
        n_accepted += len(driver.accepted)
        lost = {name: died - when for name, when in driver.accepted.items() if name not in set(found)}
        assert max(lost.values(), default=0.0) <= place.may_lose, (seed, kill, len(lost), len(driver.accepted))

    backend = RayExecutionBackend() if seed % 2 == 0 else LocalExecutionBackend()
    resumed = killed_run.call(n_rows, storage, execution_backend=backend, max_workers=5)
    whole = killed_run.call(n_rows, FsspecStorageBackend(f"memory://{random.random()}"))

    assert n_accepted > 0
    assert storage.run_info("run").state == "complete"
    storage.compact("run")
    verification = storage.verify("run")
    assert verification.clean, verification.problems
    assert verification.n_rows["generations"] == n_rows
    assert resumed.report.status == "complete"
    assert resumed.report.metrics == whole.report.metrics
    for kind in ("generations", "evaluations"):
        found, expected = (result_ids(result, kind) for result in (resumed, whole))
        assert found == expected
    storage.close()


def result_ids(result, kind):
    """The ids of a result's records of one kind, sorted, as often as they are there."""
    return sorted(result.storage.scan("run", kind, ["id"])["id"].to_pylist())


N_WRITERS = 8


def _write(number, places):
    """One of many writers: in each place 60 records of its own, and 10 that every other one writes too."""
    for place in places:
        with FsspecStorageBackend(**place, flush_rows=25) as storage:
            for record in range(60):
                storage.save_generation_record("run", GenerationRecord(f"{number}-{record}", "p", "r"))
            shared = [GenerationRecord(f"shared-{record}", "p", f"of {number}") for record in range(10)]
            storage.save_generation_records("run", shared)


def test_eight_processes_write_one_run(tmp_path, s3, azure):
    """Of eight processes that write one run at once, on disk, S3 and Azure, every record is there, each id once."""
    places = [
        {"url": str(tmp_path)},
        *({"url": s.new_url(), "storage_options": s.storage_options} for s in (s3, azure)),
    ]
    context = multiprocessing.get_context("spawn")
    # Each begins with another place, so that all three are written at once.
    orders = [places[number % 3 :] + places[: number % 3] for number in range(N_WRITERS)]
    writers = [context.Process(target=_write, args=(number, order)) for number, order in enumerate(orders)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert [writer.exitcode for writer in writers] == [0] * N_WRITERS
    own = {f"{number}-{record}" for number in range(N_WRITERS) for record in range(60)}
    shared = {f"shared-{record}" for record in range(10)}
    for place in places:
        storage = FsspecStorageBackend(**place)
        records = storage.load_generation_records("run")
        assert sorted(record.id for record in records) == sorted(own | shared)
        last = max(entry["launch"] for entry in storage.load_launches("run"))
        winner = storage.scan("run", "generations", ["id", "launch"]).to_pylist()
        assert {row["launch"] for row in winner if row["id"] in shared} == {last}
        verification = storage.verify("run")
        assert verification.clean, verification.problems
        assert verification.n_rows["generations"] == N_WRITERS * 70


_COMPACT = """
import json, os, signal, sys
from themis.backends import FsspecStorageBackend
from themis.backends._place import Place
url, options, verb, moment = sys.argv[1:]
real = getattr(Place, verb)

def killed(self, what, *rest, **options):
    meant = "merged-" in what if verb == "write" else bool(what)
    if meant and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, what, *rest, **options)
    if meant:
        os.kill(os.getpid(), signal.SIGKILL)

setattr(Place, verb, killed)
FsspecStorageBackend(url, storage_options=json.loads(options)).compact("run")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("verb", ["write", "remove_files"])
def test_a_compaction_killed_on_s3_changes_nothing(verb, moment, s3):
    """Killed before or after it writes the merged part or removes the old ones, it loses and doubles nothing."""
    url = s3.new_url()
    storage = FsspecStorageBackend(url, storage_options=s3.storage_options)
    for part in range(3):
        records = [GenerationRecord(str(number), "p", f"{part}") for number in range(part, part + 20)]
        storage.save_generation_records("run", records)
        storage.flush()
    storage.close()
    before = sorted((record.id, record.response) for record in storage.load_generation_records("run"))
    command = [sys.executable, "-c", _COMPACT, url, json.dumps(s3.storage_options), verb, moment]
    done = subprocess.run(command, timeout=60, check=False, cwd=Path(__file__).parents[1])

    assert done.returncode == -signal.SIGKILL
    for reader in (storage, FsspecStorageBackend(url, storage_options=s3.storage_options)):
        assert sorted((record.id, record.response) for record in reader.load_generation_records("run")) == before
    assert storage.compact("run").n_parts_after == 1
    assert sorted((record.id, record.response) for record in storage.load_generation_records("run")) == before
    assert storage.verify("run").clean
    assert len(before) == 22
