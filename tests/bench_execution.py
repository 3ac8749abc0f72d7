"""Prints how fast, how lean and how safe `RayExecutionBackend.map` is, beside its peers in the same run.

    python tests/bench_execution.py                  all workloads, three rounds
    python tests/bench_execution.py W1 W3 --quick    two of them, smaller and once

The Markdown table goes to stdout, progress to stderr, raw figures to `--json FILE`. The backend is used as a user
would: `RayExecutionBackend().map(func, items)`, at most with `max_workers` and `ordered`. joblib is needed besides the
development group. Here are the workloads that are timed and the command line; what is bounded and what survives is in
bench_bounds.py, the peers are in bench_peers.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import bench_peers as peers
from bench_bounds import w4, w5, w6, w7, w8
from bench_measure import (
    Check,
    Contender,
    Options,
    Row,
    Timing,
    Work,
    both_modes,
    makespan,
    markdown,
    measure,
    rate,
    ratios,
    rows_of,
    say,
    start_ray,
    time_once,
    timed_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKS = (20_000, 50_000, 100_000)
"""Chunk sizes that the hand-tuned peer is tried with before the first round."""


def increment(number: int) -> int:
    """W1: next to nothing."""
    return number + 1


def nap(item: int) -> int:
    """W2: waits as a model call does."""
    time.sleep(0.05)
    return item


async def async_nap(item: int) -> int:
    """W2a: the same as a coroutine."""
    await asyncio.sleep(0.05)
    return item


def nap_ms(milliseconds: int) -> int:
    """W3: waits as long as its item says."""
    time.sleep(milliseconds / 1000)
    return milliseconds


def w1(options: Options) -> Iterator[Row]:
    """A trivial function: what the machinery itself costs."""
    n = 100_000 if options.quick else 1_000_000
    work = Work(increment, total=lambda items: sum(items) + len(items))
    contenders = {
        **both_modes(warm=20_000),
        "hand-tuned": best_chunk(work, n),
        "plain loop": Contender(peers.plain_loop),
    }
    if options.peers:
        contenders |= {
            "mp.Pool.map": Contender(partial(peers.process_pool, method="map")),
            "mp.Pool.imap_unordered(1000)": Contender(
                partial(peers.process_pool, method="imap_unordered", chunksize=1000)
            ),
            "Ray Data": Contender(partial(peers.ray_data, batch=10_000), warm=20_000),
            "ray.util Pool.imap_unordered(1000)": Contender(partial(peers.ray_pool, chunk=1000), n // 5, warm=4_000),
            "joblib": Contender(peers.loky, n // 5),
            "seed's loop": Contender(peers.one_task_per_item, 2_000, warm=8),
            "ActorPool": Contender(peers.actor_pool, 1_000, warm=8),
        }
    series = measure(contenders, work, n, options.rounds)
    goals = {"hand-tuned": 0.9, "seed's loop": 1000, "Ray Data": 10, "mp.Pool.map": 10}

    def checks(mode: str) -> list[Check]:
        return [Check(f"x {peer}", ratios(series, mode, peer), ">=", bound) for peer, bound in goals.items()]

    yield from timed_rows("W1", f"x + 1, {n:,} items", n, series, rate, checks)


def best_chunk(work: Work, n: int) -> Contender:
    """The hand-tuned peer with the chunk size that is best here."""
    tried = {
        chunk: Contender(partial(peers.chunked_tasks, chunk=chunk), warm=peers.IN_FLIGHT * chunk) for chunk in CHUNKS
    }
    rates = {chunk: time_once(contender, work, n).rate for chunk, contender in tried.items()}
    best = max(rates, key=lambda chunk: rates[chunk])
    say(f"  hand-tuned: of {', '.join(f'{chunk:,} ({rates[chunk]:,.0f}/s)' for chunk in CHUNKS)} {best:,} is best")
    return tried[best]


def w2(options: Options) -> Iterator[Row]:
    """Waiting work on threads: 256 in progress."""
    yield from naps(2_000, options, with_peers=options.peers)
    yield from naps(10_000 if options.quick else 100_000, options, with_peers=False)


def naps(n: int, options: Options, *, with_peers: bool) -> Iterator[Row]:
    """The two rows of W2 for one number of items."""
    pool = "ThreadPool(256)"
    contenders = {**both_modes(max_workers=256), pool: Contender(partial(peers.threads, size=256))}
    if with_peers:
        contenders |= {
            "seed's loop": Contender(peers.one_task_per_item, 100, warm=8),
            "ActorPool": Contender(peers.actor_pool, 100, warm=8),
            "joblib": Contender(peers.loky, 100, warm=8),
        }
    series = measure(contenders, Work(nap), n, options.rounds)
    goals = {"unordered": 1.0, "ordered": 0.9}

    def checks(mode: str) -> list[Check]:
        return [Check(f"x {pool}", ratios(series, mode, pool), ">=", goals[mode])]

    yield from timed_rows("W2", f"sleep 50 ms, 256 in progress, {n:,} items", n, series, rate, checks)


def w2a(options: Options) -> Iterator[Row]:
    """Waiting work as coroutines, against the rate that the waiting allows."""
    for size, n, goal in ((256, 10_000, 0.95), (1_024, 40_000, 0.92)):
        contenders = both_modes(max_workers=size)
        if options.peers:
            contenders |= {
                "one asyncio loop": Contender(partial(peers.one_loop, size=size)),
                "async actors": Contender(partial(peers.async_actors, size=size), 2_000, warm=8),
            }
        series = measure(contenders, Work(async_nap), n, options.rounds)
        yield from timed_rows(
            "W2a",
            f"await 50 ms, {size:,} in progress, {n:,} items",
            n,
            series,
            rate,
            partial(limit_check, series, size / 0.05, goal),
        )


def limit_check(series: dict[str, list[Timing]], limit: float, goal: float, mode: str) -> list[Check]:
    """The rate over the limit."""
    return [Check(f"of the limit {limit:,.0f}/s", [timing.rate / limit for timing in series[mode]], ">=", goal)]


def uneven(n: int) -> list[int]:
    """W3's milliseconds: in every 200 items 10 of 200 ms, the others 1 ms; the same for every run, the first short."""
    shuffled = random.Random(2026)
    blocks = [shuffled.sample([200] * 10 + [1] * 190, 200) for _ in range(10)]
    milliseconds = [ms for block in blocks for ms in block]
    short_one = milliseconds.index(1)
    return (milliseconds[short_one:] + milliseconds[:short_one])[:n]


def w3(options: Options) -> Iterator[Row]:
    """Uneven work: does a long item hold up the short ones."""
    n, pool = 2_000, "ThreadPool(32)"
    contenders = {**both_modes(max_workers=32), pool: Contender(partial(peers.threads, size=32), warm=64)}
    if options.peers:
        contenders |= {
            "seed's loop": Contender(peers.one_task_per_item, 200, warm=8),
            "ActorPool": Contender(peers.actor_pool, 200, warm=8),
            "mp.Pool.imap": Contender(partial(peers.process_pool, method="imap"), 200, warm=8),
        }
    series = measure(contenders, Work(nap_ms, uneven), n, options.rounds)
    goals = {"unordered": 1.2, "ordered": 1.5}

    def checks(mode: str) -> list[Check]:
        return [
            Check(f"x {pool}'s makespan", ratios(series, pool, mode), "<=", goals[mode]),
            Check("s to the first result", [timing.first for timing in series[mode]], "<=", 0.05),
        ]

    what = f"95% 1 ms, 5% 200 ms, 32 in progress, {n:,} items"
    yield from timed_rows("W3", what, n, series, partial(makespan, n), checks)


WORKLOADS = {"W1": w1, "W2": w2, "W2a": w2a, "W3": w3, "W4": w4, "W5": w5, "W6": w6, "W7": w7, "W8": w8}


def machine(options: Options, load: float) -> str:
    """Where and how it was measured, with the load average before it began."""
    names = ["ray", "joblib"] if options.peers else ["ray"]
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])
    how = f"{'quick, ' if options.quick else ''}median of {options.rounds} (lowest to highest), ratios round by round"
    where = f"{os.cpu_count()} CPUs ({platform.system()} {platform.machine()}), load average {load:.1f} at the start"
    return f"{where}; {versions}; {time.strftime('%Y-%m-%d')}; {how}."


def workload(text: str) -> str:
    """The name of a workload."""
    for name in WORKLOADS:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"there is no workload {text!r}; there are {', '.join(WORKLOADS)}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", type=workload, help=f"out of {', '.join(WORKLOADS)}; default all")
    parser.add_argument("--rounds", type=int, help="of which the median counts; default 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="fewer items in W1 and W2")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="or only the yardsticks")
    parser.add_argument("--json", type=Path, help="file for the raw figures")
    given = parser.parse_args()
    if given.peers and not find_spec("joblib"):
        parser.error("joblib is among the peers and not installed: pip install joblib, or give --no-peers")
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give 1 or more")
    return given


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keeps the table alone on stdout: Ray writes there when a worker dies."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def main() -> None:
    """Measure, then print."""
    given = parse()
    options = Options(given.rounds or (1 if given.quick else 3), given.quick, given.peers)
    load, began = os.getloadavg()[0], time.monotonic()
    with stdout_to_stderr():
        ray = start_ray()
        rows = [row for name in given.workloads or WORKLOADS for row in rows_of(name, WORKLOADS[name], options)]
        ray.shutdown()
    say(f"{time.monotonic() - began:.0f} s in all")
    if given.json:
        figures = {"machine": machine(options, load), "rows": [{"cells": row.cells(), "raw": row.raw} for row in rows]}
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(f"{markdown(rows)}\n\n{machine(options, load)}")


if __name__ == "__main__":
    main()
