"""Prints what a score costs, in the scorer and in scoring a stored run again.

    python tests/bench_scoring.py                    100,000 exact matches: scorer, threads and Ray, three rounds
    python tests/bench_scoring.py --count 20000 --rounds 1 --no-ray

The Markdown table goes to stdout. Costs are CPU time (user and system) in microseconds for each score, the least of the
rounds, of this process and of all that it started; beside each stands the limit that is set for it. Scoring again is
`themis.score()` whole: reading the samples and answers, the map, saving, aggregating, the report.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from themis import score
from themis.backends import FsspecStorageBackend, LocalExecutionBackend, RayExecutionBackend
from themis.ids import text_hash
from themis.records import GenerationRecord, Sample
from themis.scoring import ExactMatch, evaluate_generation

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.backends import ExecutionBackend

METRIC = ExactMatch("number")
LIMITS = {"scorer": 20.0, "score() on threads": 60.0, "score() on Ray": 60.0}
TICKS = os.sysconf("SC_CLK_TCK")


def sample(number: int) -> Sample:
    """One word problem."""
    question = f"Ada has {number} apples and buys 3 more at the market. How many apples does she have now?"
    return Sample(str(number), question, str(number + 3), metadata={"question": question})


def generation(number: int) -> GenerationRecord:
    """Its answer."""
    steps = f"She buys 3 more, which makes {number} + 3 = {number + 3}."
    text = f"Ada begins with {number} apples.\n{steps}\n#### {number + 3}"
    prompt = sample(number).input
    told = {"input_tokens": 25, "output_tokens": 40, "latency": 0.5, "attempts": 1, "params": {"temperature": 0}}
    return GenerationRecord(text_hash(str(number)), prompt, text, str(number), benchmark="gsm8k", model="m", **told)


def cpu_seconds() -> float:
    """CPU time of this process and of its living descendants."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        ticks[pid] = int(fields[11]) + int(fields[12])
    found, left = 0, [os.getpid()]
    while left:
        pid = left.pop()
        found += ticks.get(pid, 0)
        left += children.get(pid, [])
    return found / TICKS


def cost(work: Callable[[], object], count: int) -> float:
    """Microseconds of CPU for each of so many scores."""
    began = cpu_seconds()
    work()
    return (cpu_seconds() - began) / count * 1e6


def scorer_cost(count: int) -> float:
    """A score with its record, on this thread."""
    pairs = [(sample(number), generation(number)) for number in range(count)]
    return cost(lambda: [evaluate_generation(METRIC, *pair) for pair in pairs], count)


def stored_run(storage: FsspecStorageBackend, run_id: str, count: int) -> None:
    """A run without a score."""
    storage.save_run_metadata(run_id, {"config": {"benchmark": "gsm8k"}})
    for start in range(0, count, 10_000):
        numbers = range(start, min(start + 10_000, count))
        storage.save_samples(run_id, list(map(sample, numbers)))
        storage.save_generation_records(run_id, list(map(generation, numbers)))
    storage.flush()


def score_cost(backend: ExecutionBackend, count: int) -> float:
    """score() whole, on a run without a score."""
    with tempfile.TemporaryDirectory() as folder, FsspecStorageBackend(folder) as storage:
        stored_run(storage, "warm", 100)
        score("warm", METRIC, execution_backend=backend, storage_backend=storage)
        time.sleep(1)  # processes that a backend starts go on with that for a while
        stored_run(storage, "run", count)
        found: list[float | None] = []

        def work() -> None:
            result = score("run", METRIC, execution_backend=backend, storage_backend=storage)
            found.append(result.metrics["exact_match"])

        spent = cost(work, count)
    assert found == [1.0]
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    works = {
        "scorer": lambda: scorer_cost(options.count),
        "score() on threads": lambda: score_cost(LocalExecutionBackend(), options.count),
    }
    if not options.no_ray:
        import ray

        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        works["score() on Ray"] = lambda: score_cost(RayExecutionBackend(), options.count)
    print("| what | us of CPU a score | limit | ratio |\n|---|---|---|---|")
    for name, work in works.items():
        best = min(work() for _ in range(options.rounds))
        print(f"| {name} | {best:.1f} | {LIMITS[name]:.0f} | {best / LIMITS[name]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
