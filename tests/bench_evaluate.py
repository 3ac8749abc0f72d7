"""evaluate() end to end against a model server of fixed latency, beside a raw aiohttp loop measured in the same run.

    python tests/bench_evaluate.py [ROWS...] [--rounds 3] [--no-ray] [--json FILE]

prints a Markdown table to stdout, medians over the rounds. Needs $THEMIS_DATA with GSM8K and an idle machine: every
figure is of a fresh process (bench_programs.py), its CPU and memory as the kernel counted them, its first request and
last answer as the server saw them. On Ray the driver joins a Ray that runs already.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bench_processes import LARGE, LOADS, ONCE, SMALL, Bench, Run, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Row:
    """One line of the table; `good` is None where there is no goal to meet."""

    name: str
    raw: float | None
    threads: float | None
    ray: float | None
    ratio: float | None
    goal: str
    good: bool | None


class Figures:
    """What was measured: runs by load and contender."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], list[Run]] = {}

    def add(self, load: str, contender: str, run: Run) -> None:
        """Keep one run."""
        self.runs.setdefault((load, contender), []).append(run)

    def as_json(self) -> list[dict[str, object]]:
        """Every single run."""
        return [
            {"load": load, "contender": contender, **asdict(run)}
            for (load, contender), runs in self.runs.items()
            for run in runs
        ]

    def median(self, load: str, contender: str, value: str | Callable[[Run], float]) -> float | None:
        """Over the rounds; None where the contender was not measured."""
        runs = self.runs.get((load, contender), [])
        values = [getattr(run, value) if isinstance(value, str) else value(run) for run in runs]
        return statistics.median(values) if values else None

    def three(self, load: str, value: str | Callable[[Run], float]) -> list[float | None]:
        """The medians of the raw loop, the threads and Ray."""
        return [self.median(load, contender, value) for contender in ("raw", "threads", "ray")]


def cpu_rows(figures: Figures) -> Iterator[Row]:
    """CPU seconds for 1,000 samples, with start-up and without."""
    raw, threads, _ = figures.three("64", lambda run: run.cpu / SMALL * 1000)
    yield Row("CPU s per 1,000, start-up included", raw, threads, None, threads / raw, "<= 2.0", threads <= 2.0)
    raw, threads, driver = marginal(figures, lambda run: run.cpu)
    ray = marginal(figures, lambda run: run.cpu + run.cluster_cpu)[2]
    yield Row("CPU s per 1,000, marginal", raw, threads, ray, threads / raw, "<= 0.8 (raw 0.4)", threads <= 0.8)
    yield Row("  of it Ray's driver", None, None, driver, None, "", None)


def marginal(figures: Figures, value: Callable[[Run], float]) -> list[float | None]:
    """What each further 1,000 samples cost."""
    pairs = zip(figures.three("64", value), figures.three("large", value), strict=True)
    return [None if low is None else (high - low) / (LARGE - SMALL) * 1000 for low, high in pairs]


def efficiency_rows(figures: Figures) -> Iterator[Row]:
    """How much of the time between first request and last answer the server's latency explains."""
    for load, share in (("64", 0.97), ("256", 0.95)):
        raw, threads, ray = figures.three(load, "efficiency")
        ratio = threads / raw
        yield Row(f"efficiency, {load} x 0.1 s", raw, threads, ray, ratio, f">= {share}x raw", ratio >= share)


def start_rows(figures: Figures) -> Iterator[Row]:
    """From the start of the process to the first request at the server."""
    raw, threads, ray = figures.three("64", "start")
    yield Row("start to first request, s", raw, threads, ray, threads / raw, "<= 1", threads <= 1)


def tail_rows(figures: Figures) -> Iterator[Row]:
    """From the last answer to the end of the process."""
    for load, goal in (("64", 0.5), ("large", 1.5)):
        raw, threads, ray = figures.three(load, "tail")
        name = f"last answer to exit at {LOADS[load].n:,}, s"
        yield Row(name, raw, threads, ray, threads / raw, f"<= {goal}", threads <= goal)


def wall_rows(figures: Figures) -> Iterator[Row]:
    """From the start of the process to its end."""
    raw, threads, ray = figures.three("64", "wall")
    yield Row("whole run, wall, s", raw, threads, ray, threads / raw, "<= 1.5x raw", threads / raw <= 1.5)


def memory_rows(figures: Figures) -> Iterator[Row]:
    """The largest resident size of the process; on Ray of the driver."""
    small, large = figures.three("64", "peak_mb"), figures.three("large", "peak_mb")
    yield Row("peak RSS at 1,319, MB", *small, small[1] / small[0], "", None)
    good = large[1] <= 150 and (large[2] or 0) <= 200
    yield Row("peak RSS at 10,000, MB", *large, large[1] / large[0], "<= 150, Ray's driver <= 200", good)
    growth = [None if low is None else high - low for low, high in zip(small, large, strict=True)]
    yield Row("  growth, MB", *growth, None, "<= 25", growth[1] <= 25)


def bytes_rows(figures: Figures) -> Iterator[Row]:
    """Bytes written for each byte that is kept, and how much that is."""
    ratio = figures.median("counted", "threads", lambda run: run.told["written"] / run.told["kept"])
    yield Row("bytes written / kept, object store", None, ratio, None, None, "<= 1.2", ratio <= 1.2)
    local = figures.median("64", "threads", lambda run: run.written_mb / run.kept_mb)
    yield Row("bytes written / kept, local disk", None, local, None, None, "journal and part", None)
    kept = figures.median("64", "threads", "kept_mb")
    yield Row("kept for 1,319 records, MB", None, kept, None, None, "<= 1", kept <= 1)


def s3_rows(figures: Figures) -> Iterator[Row]:
    """Records in an object store instead of on the disk."""
    local, s3 = figures.median("large", "threads", "wall"), figures.median("s3", "threads", "wall")
    yield Row("s3:// wall at 10,000, s", None, s3, None, s3 / local, "<= 1.1x local", s3 / local <= 1.1)
    puts = figures.median("thirty", "threads", lambda run: run.told["puts"])
    yield Row("PUTs of a 30 s run", None, puts, None, None, "<= 25", puts <= 25)


def cores_rows(figures: Figures) -> Iterator[Row]:
    """A metric that takes 2 ms of CPU for each sample: samples/s from the first request to evaluate()'s return."""
    _, threads, ray = figures.three("busy", lambda run: LOADS["busy"].n / run.until_returned)
    ratio = None if ray is None else ray / threads
    yield Row("2 ms of CPU per sample, samples/s", None, threads, ray, ratio, "Ray >= 1.6x", ratio and ratio >= 1.6)


def nodes_rows(figures: Figures) -> Iterator[Row]:
    """Many requests on four nodes, which share the CPUs of this machine with the server and the driver."""
    found = figures.median("nodes", "ray", "efficiency")
    yield Row("efficiency, 512 x 1 s, 4 nodes", None, None, found, None, ">= 0.85", found and found >= 0.85)


ROWS: dict[str, tuple[Callable[[Figures], Iterator[Row]], dict[str, str]]] = {
    "cpu": (cpu_rows, {"64": "raw threads ray", "large": "raw threads ray"}),
    "efficiency": (efficiency_rows, {"64": "raw threads ray", "256": "raw threads ray"}),
    "start": (start_rows, {"64": "raw threads ray"}),
    "tail": (tail_rows, {"64": "raw threads ray", "large": "raw threads ray"}),
    "wall": (wall_rows, {"64": "raw threads ray"}),
    "memory": (memory_rows, {"64": "raw threads ray", "large": "raw threads ray"}),
    "bytes": (bytes_rows, {"64": "raw threads", "counted": "threads"}),
    "s3": (s3_rows, {"large": "threads", "s3": "threads", "thirty": "threads"}),
    "cores": (cores_rows, {"busy": "threads ray"}),
    "nodes": (nodes_rows, {"nodes": "ray"}),
}


def wanted_loads(rows: list[str], *, with_ray: bool) -> dict[str, list[str]]:
    """The contenders to be measured under each load, for these rows."""
    wanted: dict[str, list[str]] = {}
    for row in rows:
        for load, contenders in ROWS[row][1].items():
            for contender in contenders.split():
                if contender not in wanted.setdefault(load, []) and (with_ray or contender != "ray"):
                    wanted[load].append(contender)
    return wanted


def measure_all(bench: Bench, wanted: dict[str, list[str]], rounds: int) -> Figures:
    """Every contender under every load, in turn, so that a noisy moment hits all alike."""
    figures = Figures()
    for turn in range(rounds):
        for load, contenders in wanted.items():
            for contender in contenders if turn == 0 or load not in ONCE else ():
                puts = bench.s3_log.read_text().count('"PUT ') if bench.s3_log else 0
                run = bench.measure(contender, load)
                if load == "thirty":
                    run.told["puts"] = bench.s3_log.read_text().count('"PUT ') - puts
                figures.add(load, contender, run)
                shown = f"wall {run.wall:.2f} s, CPU {run.cpu:.2f} s, start {run.start:.2f} s, tail {run.tail:.2f} s"
                sys.stderr.write(f"round {turn + 1} {load:8} {contender:8} {shown}, {run.efficiency:.3f}\n")
    return figures


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| row | raw loop | themis threads | themis Ray | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    met = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        numbers = ["" if number is None else f"{number:.3g}" for number in (row.raw, row.threads, row.ray, row.ratio)]
        lines.append(f"| {row.name} | {' | '.join(numbers)} | {row.goal} | {met[row.good]} |")
    return "\n".join(lines)


def footer(bench: Bench, rounds: int) -> str:
    """Where and with what the figures were made."""
    ray = f", Ray {version('ray')} started in {bench.ray_start:.1f} s" if bench.ray_start is not None else ""
    python = f"Python {platform.python_version()}, aiohttp {version('aiohttp')}{ray}"
    return f"{os.cpu_count()} CPUs, {python}, {datetime.now(UTC).date()}, median of {rounds}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true", help="leave Ray's column empty")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single run there")
    given = parser.parse_args()
    if unknown := set(given.rows) - ROWS.keys():
        parser.error(f"there is no row {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    rows = given.rows or list(ROWS)
    wanted = wanted_loads(rows, with_ray=not given.no_ray)
    with prepared(wanted) as bench:
        figures = measure_all(bench, wanted, given.rounds)
    if given.json:
        given.json.write_text(json.dumps(figures.as_json(), indent=1), encoding="utf-8")
    sys.stdout.write(f"{table([line for row in rows for line in ROWS[row][0](figures)])}\n\n")
    sys.stdout.write(f"{footer(bench, given.rounds)}\n")


if __name__ == "__main__":
    main()
