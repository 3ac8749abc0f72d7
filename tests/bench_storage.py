"""The record store beside a bare Parquet writer, and what it costs to read, resume and compact.

    python tests/bench_storage.py                 everything, about four minutes
    python tests/bench_storage.py save read       some of: save, bytes, puts, read, resume, compact, stream

Each line is a ratio to something measured in the same run, or a count. What takes memory runs in a process of its own.
Files go where $TMPDIR says; /dev/shm takes the disk, which others may use at the same time, out of the figures.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import median
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from themis import arrow
from themis.backends import FsspecStorageBackend
from themis.columns import COLUMNS
from themis.records import EvaluationRecord, GenerationRecord

ROUNDS = 3
KEEP = Path(tempfile.gettempdir()) / "themis-bench-storage"
"""Runs of a million records are made once and kept here."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    themis: str
    beside: str
    ratio: str
    goal: str
    met: bool | None

    def cells(self):
        """The columns of the table."""
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return [self.what, self.themis, self.beside, self.ratio, self.goal, met]


@functools.cache
def make_texts():
    """5,000 texts of 700 characters."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=110)) for _ in range(5000)]


def make_records(count, seed=1):
    """Answers of about 1.2 kB; the ids are random, the texts repeat after 5,000."""
    rng, texts = random.Random(seed), make_texts()
    return [make_record(f"{rng.getrandbits(128):032x}", number, texts[number % 5000]) for number in range(count)]


def make_record(name, number, text):
    """One answer."""
    return GenerationRecord(
        id=name,
        prompt=text[:400],
        response=text[300:] + name,
        sample_id=f"test/{number}",
        benchmark="gsm8k",
        model="openai/m",
        params={"temperature": 0.0, "max_tokens": 512},
        finish_reason="stop",
        input_tokens=100 + number % 50,
        output_tokens=200 + number % 70,
        started_at=1.7e9 + number / 100,
        latency=0.5 + number % 7 / 10,
        worker="host:1",
        model_served="m",
    )


def bare_loop(records, folder):
    """The same records as columns, written with one ParquetWriter: seconds."""
    began = time.perf_counter()
    schema = arrow.schema("generations")
    fields = [schema.field(name) for name in COLUMNS["generations"]]
    with pq.ParquetWriter(folder / "bare.parquet", pa.schema(fields), compression="zstd") as writer:
        for start in range(0, len(records), 10_000):
            chunk = records[start : start + 10_000]
            columns = []
            for field in fields:
                values = list(map(attrgetter(field.name), chunk))
                if COLUMNS["generations"][field.name].json:
                    values = [None if value is None else json.dumps(value) for value in values]
                elif field.name == "started_at":
                    values = [round(value * 1e6) for value in values]
                columns.append(pa.array(values, field.type))
            writer.write_table(pa.Table.from_arrays(columns, names=[field.name for field in fields]))
    with (folder / "bare.parquet").open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def save_batches(records, folder):
    """Seconds to save them 500 at a time, until all are durable."""
    began = time.perf_counter()
    with FsspecStorageBackend(folder) as storage:
        for start in range(0, len(records), 500):
            storage.save_generation_records("run", records[start : start + 500])
    return time.perf_counter() - began


def save_singly(records, folder):
    """Seconds to save them one by one from eight threads, until all are durable."""
    began = time.perf_counter()
    with FsspecStorageBackend(folder) as storage:

        def save(part):
            for record in part:
                storage.save_generation_record("run", record)

        threads = [threading.Thread(target=save, args=(records[number::8],)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return time.perf_counter() - began


def bench_save():
    """Records per second beside the bare loop, alternating."""
    records = make_records(100_000)
    size = sum(len(json.dumps(record.__dict__)) for record in records[:100]) // 100
    seconds = {bare_loop: [], save_batches: [], save_singly: []}
    for _ in range(ROUNDS):
        for contender, times in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                times.append(contender(records, Path(folder)))
    rates = {contender: [len(records) / each for each in times] for contender, times in seconds.items()}
    for contender, how, goal in (
        (save_batches, "in batches of 500", 0.8),
        (save_singly, "one by one, 8 threads", 0.3),
    ):
        ratios = [ours / bare for ours, bare in zip(rates[contender], rates[bare_loop], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        ours, bare = (f"{median(rates[each]):,.0f}/s" for each in (contender, bare_loop))
        line = f"100,000 records of {size:,} B saved {how}, local disk, journal on"
        yield Line(line, ours, f"bare ParquetWriter {bare}", f"{spread} x", f">= {goal} x", median(ratios) >= goal)


def written_bytes():
    """Bytes that this process has handed to the operating system."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def kept_bytes(folder):
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


class Counted(FsspecStorageBackend):
    """Counts the objects that it writes and their bytes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.puts = self.nbytes = 0
        pipe = self._place._open()[0].pipe_file

        def count(path, data, **more):
            self.puts, self.nbytes = self.puts + 1, self.nbytes + len(data)
            return pipe(path, data, **more)

        self._place._open()[0].pipe_file = count


def bench_bytes():
    """Bytes written for the bytes that are kept, before any compaction."""
    records = make_records(50_000)
    with Counted(f"memory://{uuid4().hex}", flush_seconds=0.5) as storage:
        fill_slowly(storage, records, 3.0)
        storage.flush()
        kept = sum(entry.size for entry in storage._place.tree("run").values())
        ratio = storage.nbytes / kept
    yield Line("bytes written / kept, object store", f"{ratio:.2f}", "", "", "<= 1.2", ratio <= 1.2)
    with tempfile.TemporaryDirectory() as folder:
        before = written_bytes()
        with FsspecStorageBackend(folder, flush_seconds=0.5) as storage:
            fill_slowly(storage, records, 3.0)
        parts = kept_bytes(folder)
        ratio = (written_bytes() - before) / parts
        raw = sum(len(record.prompt) + len(record.response) + 300 for record in records)
        goal = "journal and part"
        beside = f"journal uncompressed, {raw / parts:.1f} times a part"
        yield Line("bytes written / kept, local disk", f"{ratio:.2f}", beside, "", goal, ratio <= 1.3 + raw / parts)


def fill_slowly(storage, records, seconds):
    """Save records in forty batches over so many seconds."""
    size = len(records) // 40
    for start in range(0, len(records), size):
        storage.save_generation_records("run", records[start : start + size])
        time.sleep(seconds / 40)


def bench_puts():
    """Objects written by a run of 30 s at 100 records/s with default settings."""
    storage = Counted(f"memory://{uuid4().hex}")
    storage.save_launch("run", {"started_at": 0.0})
    storage.save_run_metadata("run", {"config": {}})
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < 30:
        storage.save_generation_record("run", make_record(f"{number:032x}", number, "x" * 700))
        storage.save_evaluation_record("run", EvaluationRecord(f"{number:032x}", "g", "m", score=1.0))
        number += 1
        time.sleep(0.01)
    storage.flush()
    storage.save_launch("run", {"started_at": 0.0, "status": "complete"})
    storage.close()
    yield Line("PUTs of a 30 s run, samples aside", str(storage.puts), "", "", "<= 25", storage.puts <= 25)


CHILD = """
import json, resource, sys, time
import pyarrow, pyarrow.parquet, pyarrow.dataset, pyarrow.compute, numpy, fsspec
from themis.backends import FsspecStorageBackend
from themis import arrow
def memory():
    return int(next(line for line in open("/proc/self/status") if line.startswith(sys.argv[3])).split()[1]) / 1024
storage = FsspecStorageBackend(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before, began = memory(), time.perf_counter()
kept = eval(sys.argv[2])
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "mb": memory() - before}))
"""


def in_child(folder, expression, field="VmHWM"):
    """Seconds and MB (peak, above what the imports take) of an expression on `storage` in a new process."""
    command = [sys.executable, "-c", CHILD, str(folder), expression, field]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def evaluations(count):
    """So many scores, with the texts that they have."""
    for number in range(count):
        yield EvaluationRecord(
            f"{random.getrandbits(128):032x}",
            f"{random.getrandbits(128):032x}",
            "exact_match",
            f"test/{number}",
            benchmark="gsm8k",
            model="openai/m",
            scorer="exact_match@1",
            answer=str(number),
            target=str(number * 7),
            score=float(number % 2),
            response_hash=f"{random.getrandbits(128):032x}",
        )


def bench_read():
    """One score column of a run of 100,000 answers and scores beside loading all of its records."""
    with tempfile.TemporaryDirectory() as folder:
        with FsspecStorageBackend(folder) as storage:
            storage.save_generation_records("run", make_records(100_000))
            storage.save_evaluation_records("run", list(evaluations(100_000)))
        all_records = in_child(
            folder, "(storage.load_generation_records('run'), storage.load_evaluation_records('run'))"
        )
        column = in_child(folder, "storage.scan('run', 'evaluations', ['score'])")
        for name, unit in (("seconds", "s"), ("mb", "MB")):
            ratio = column[name] / all_records[name]
            yield Line(
                f"the score column of 100,000 records, {unit}",
                f"{column[name]:.2f}",
                f"loading everything {all_records[name]:.2f}",
                f"{ratio:.3f}",
                "<= 0.1",
                ratio <= 0.1,
            )


def a_million():
    """A folder with a run of 10^6 answers."""
    folder = KEEP / "million"
    if not (folder / "run/report").exists():
        with FsspecStorageBackend(folder) as storage:
            for start in range(0, 1_000_000, 20_000):
                storage.save_generation_records("run", make_records(20_000, seed=start))
        (folder / "run/report").write_text("made")
    return folder


def bench_resume():
    """The ids of 10^6 answers, as a resume asks for them, beside a set of texts."""
    folder = a_million()
    ids = in_child(folder, "storage.ids('run', 'generations', without_errors=['infrastructure'])")
    held = in_child(folder, "storage.ids('run', 'generations', without_errors=['infrastructure'])", "VmRSS")
    texts = in_child(folder, "set(storage.scan('run', 'generations', ['id'])['id'].to_pylist())")
    seconds = f"set of texts {texts['seconds']:.2f}"
    ratio = f"{ids['seconds'] / texts['seconds']:.2f}"
    yield Line("ids of 10^6 records, s", f"{ids['seconds']:.2f}", seconds, ratio, "<= 3", ids["seconds"] <= 3)
    beside, ratio = f"set of texts {texts['mb']:.0f}", f"{ids['mb'] / texts['mb']:.2f}"
    yield Line("the same, MB at the peak", f"{ids['mb']:.0f}", beside, ratio, "<= 40", ids["mb"] <= 40)
    yield Line("the same, MB held", f"{held['mb']:.0f}", "", "", "<= 40", held["mb"] <= 40)


def bench_compact():
    """1,000 parts of 50 records each become one."""
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(50_000)
        with FsspecStorageBackend(folder, flush_seconds=0) as storage:
            for start in range(0, 50_000, 50):
                storage.save_generation_records("run", records[start : start + 50])
            before = min(timed(lambda: storage.scan("run", "generations", ["latency"])) for _ in range(3))
            began = time.perf_counter()
            done = storage.compact("run")
            seconds = time.perf_counter() - began
            after = min(timed(lambda: storage.scan("run", "generations", ["latency"])) for _ in range(3))
        saved = timed(lambda: pq.write_table(arrow.to_table("generations", records), io.BytesIO(), compression="zstd"))
    what = f"compaction of {done.n_parts_before:,} parts into {done.n_parts_after}, s"
    beside = f"writing the same records at once {saved:.2f}"
    yield Line(what, f"{seconds:.2f}", beside, f"{seconds / saved:.2f}", "", None)
    yield Line(
        "a column scan after it, s",
        f"{after:.3f}",
        f"before {before:.3f}",
        f"{after / before:.2f}",
        "< 1",
        after < before,
    )
    size = f"{done.n_bytes_after / done.n_bytes_before:.2f}"
    yield Line("its bytes", f"{done.n_bytes_after:,}", f"before {done.n_bytes_before:,}", size, "< 1", float(size) < 1)


def timed(call):
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def bench_stream():
    """Peak memory while 400,000 answers are written, and 10^6 read table by table."""
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        source = f"sys.path.insert(0, {str(Path(__file__).parent)!r}) or __import__('bench_storage')"
        save = f"[{source}.save_many(storage, n) for n in range(40)]"
        written = in_child(folder, save)
    read = in_child(a_million(), "sum(table.num_rows for table in storage.scan_batches('run', 'generations'))")
    whole = "1.2 GB of text"
    yield Line(
        "10^6 records written, MB at the peak", f"{written['mb']:.0f}", whole, "", "bounded", written["mb"] < 300
    )
    yield Line(
        "10^6 records read one by one, MB at the peak", f"{read['mb']:.0f}", whole, "", "bounded", read["mb"] < 300
    )


def save_many(storage, number):
    """Save 10,000 answers."""
    storage.save_generation_records("run", make_records(10_000, seed=number))


BENCHES = {
    "save": bench_save,
    "bytes": bench_bytes,
    "puts": bench_puts,
    "read": bench_read,
    "resume": bench_resume,
    "compact": bench_compact,
    "stream": bench_stream,
}


def main(names):
    """Print the table."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        return 2
    rows = [["what", "themis", "beside it", "ratio", "goal", "met"], ["---"] * 6]
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), flush=True)
    for name in names or BENCHES:
        for line in BENCHES[name]():
            print("| " + " | ".join(line.cells()) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
