"""W4 to W8 of `tests/bench_execution.py`: what is bounded, and what survives.

`python tests/bench_bounds.py NAME` prints the memory that one contender of W4 takes, in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench_peers as peers
from bench_measure import MODES, Check, Options, Row, both_modes, say, start_ray, themis

from themis.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def megabyte(_: int) -> bytes:
    """W4: a result that no compression makes smaller."""
    return os.urandom(1_000_000)


def note_begin(path: str, item: int) -> int:
    """W5: writes down when it began; one in 50 takes 50 times as long, so that ordered results wait."""
    with Path(path).open("a", encoding="ascii") as file:
        file.write(f"{time.time()}\n")
    time.sleep(0.001 if item % 50 else 0.05)
    return item


def picky(item: int) -> int:
    """W6: raises for one item."""
    if item == 37:
        raise ValueError(f"item {item} is not to my taste")
    return item


def deadly(path: str, fatal: int, item: int) -> int:
    """W7: SIGKILL to its own process, the first time that the fatal item begins."""
    if item == fatal and not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.005)
    return item


def hang(item: int) -> int:
    """W8: one item never ends."""
    if item == 17:
        time.sleep(600)
    return item


MEMORY: dict[str, Callable[..., Any]] = {
    **{mode: contender.start for mode, contender in both_modes().items()},
    "seed's loop": peers.one_task_per_item,
    "mp.Pool.map": partial(peers.process_pool, method="map"),
}


def memory_alone(name: str) -> None:
    """Print what W4 takes, as JSON; in a process of its own, whose Ray has a small object store."""
    ray = start_ray(object_store_memory=200_000_000)
    began, total = time.perf_counter(), 0
    with MEMORY[name](megabyte) as run:
        for result in run(range(1_000)):
            total += len(result)
    if total != 1_000_000_000:
        raise RuntimeError(f"{total} bytes arrived, expected 1,000,000,000")
    figures = {"seconds": time.perf_counter() - began, "spilled": spilled_mib(ray), "rss": peak_mb()}
    ray.shutdown()
    print(json.dumps(figures))


def spilled_mib(ray: Any) -> float:
    """MiB that Ray wrote to disk since it started."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.spilled_bytes_total / 2**20


def peak_mb() -> float:
    """Largest resident size of this process in MB; getrusage would begin with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def w4(options: Options) -> Iterator[Row]:
    """Large results in a small store. Once only: these are sizes."""
    names = list(MEMORY if options.peers else MODES)
    raw = {name: in_a_process(name) for name in names}
    shown = {
        name: f"{figures['spilled']:,.0f} MiB spilled, driver {figures['rss']:,.0f} MB, {figures['seconds']:.1f} s"
        for name, figures in raw.items()
    }
    others = "; ".join(f"{name}: {text}" for name, text in shown.items() if name not in MODES)
    for mode in MODES:
        checks = [
            Check("MiB spilled", [raw[mode]["spilled"]], "<=", 0),
            Check("MB RSS of the driver", [raw[mode]["rss"]], "<=", 350),
        ]
        what = f"1,000 results of 1 MB, store of 200 MB, {mode}, once"
        yield Row("W4", what, shown[mode], others, checks, raw)


def in_a_process(name: str) -> dict[str, float]:
    """W4's figures for one contender."""
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    figures = json.loads(done.stdout.splitlines()[-1])
    say(f"  megabyte {name}: {figures}")
    return figures


class Watched:
    """Numbers, and how many were pulled and not yet taken at most."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = iter(numbers)
        self._pulled = 0
        self.taken = 0
        self.most = 0

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> int:
        number = next(self._numbers)
        self._pulled += 1
        self.most = max(self.most, self._pulled - self.taken)
        return number

    def take(self, results: Iterable[Any], n: int) -> None:
        """Take n results."""
        for _ in islice(results, n):
            self.taken += 1


def w5(options: Options) -> Iterator[Row]:
    """Endless input."""
    found = {mode: [endless(ordered) for _ in range(options.rounds)] for mode, ordered in MODES.items()}
    others = {}
    if options.peers:
        others = {
            "ThreadPool(8)": pulled_by(partial(peers.threads, size=8)),
            "seed's loop": pulled_by(peers.one_task_per_item),
            "mp.Pool.imap": pulled_by(partial(peers.process_pool, method="imap")),
        }
    text = "; ".join(f"{name} of 2,000: {most:,}" for name, most in others.items())
    for mode, rounds in found.items():
        most, late, seconds = zip(*rounds, strict=True)
        checks = [
            Check("pulled and not taken", most, "<=", 128, max),
            Check("begun after close()", late, "<=", 0, max),
            Check("s to close", seconds, "<=", 1, max),
        ]
        shown = f"{max(most)} pulled and not taken, {max(late)} begun after close()"
        yield Row("W5", f"endless input, max_workers=8, {mode}", shown, text, checks, {mode: rounds, **others})


def endless(ordered: bool) -> tuple[int, int, float]:
    """Items pulled and not taken at most, items begun after close() returned, seconds that close() took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "begun")
        with themis(partial(note_begin, str(path)), max_workers=8, ordered=ordered) as run:
            source = Watched(count())
            results = run(source)
            source.take(results, 2_000)
            began = time.perf_counter()
            results.close()
            seconds, closed = time.perf_counter() - began, time.time()
            time.sleep(1)  # what was begun by then has shown itself
            late = sum(float(line) > closed for line in path.read_text(encoding="ascii").splitlines())
    say(f"  note_begin ordered={ordered}: at most {source.most} pulled, {late} begun after close ({seconds:.3f} s)")
    return source.most, late, seconds


def pulled_by(start: Callable[..., Any]) -> int:
    """Items that a peer has pulled and not yet given back at most, out of 2,000."""
    with tempfile.TemporaryDirectory() as folder, start(partial(note_begin, f"{folder}/begun")) as run:
        source = Watched(range(2_000))
        source.take(run(source), 2_000)
    return source.most


def until_error(run: Callable[..., Iterable[Any]], n: int) -> tuple[list[Any], Exception | None]:
    """The results that came of n items, and the exception that ended them."""
    taken: list[Any] = []
    try:
        taken.extend(run(range(n)))  # keeps what came before an exception
    except Exception as error:
        return taken, error
    return taken, None


def ending(start: Callable[..., Any], func: Callable[[int], int], n: int) -> str:
    """In words, what a peer's user gets from a map over n items."""
    with start(func) as run:
        taken, error = until_error(run, n)
    if error is None:
        return "exact" if sorted(taken) == list(range(n)) else f"WRONG: {len(taken)} results, no error"
    return f"{type(error).__name__} after {len(taken):,} of {n:,} results"


def facts_row(workload: str, what: str, facts: dict[str, bool], extra: str, others: dict[str, str]) -> Row:
    """A row that counts which facts hold, and names those that do not."""
    wrong = [name for name, holds in facts.items() if not holds]
    shown = f"not: {', '.join(wrong)}" if wrong else f"holds: {', '.join(facts)}"
    text = "; ".join(f"{name}: {outcome}" for name, outcome in others.items())
    checks = [Check(f"of {len(facts)} facts", [len(facts) - len(wrong)], ">=", len(facts))]
    return Row(workload, what, f"{shown}{extra}", text, checks, {"facts": facts, "peers": others})


def w6(options: Options) -> Iterator[Row]:
    """A function that raises."""
    others = {}
    if options.peers:
        contenders: dict[str, Callable[..., Any]] = {
            "ThreadPool(8)": partial(peers.threads, size=8),
            "seed's loop": peers.one_task_per_item,
            "mp.Pool.imap": partial(peers.process_pool, method="imap"),
            "joblib": peers.loky,
        }
        others = {name: ending(start, picky, 200) for name, start in contenders.items()}
    for mode, ordered in MODES.items():
        yield facts_row("W6", f"item 37 of 200 raises ValueError, {mode}", raised(ordered), "", others)


def raised(ordered: bool) -> dict[str, bool]:
    """What is true of the exception of one item."""
    with themis(picky, max_workers=8, ordered=ordered) as run:
        before, error = until_error(run, 200)
        outcomes = list(run(range(200), return_exceptions=True))
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    rest = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    facts = {
        "type": type(error) is ValueError,
        ".index": getattr(error, "index", None) == 37,
        ".item": getattr(error, "item", None) == 37,
        "results before it": before == list(range(37)) if ordered else sorted(before) == sorted({*before} - {37}),
        "one as a value": [type(error) for error in errors] == [ValueError],
        "the rest": sorted(rest) == [item for item in range(200) if item != 37],
    }
    return {**facts, "in its place": outcomes[37:38] == errors} if ordered else facts


def w7(options: Options) -> Iterator[Row]:
    """A worker that is killed in the middle."""
    others = {}
    if options.peers:
        contenders: dict[str, Callable[..., Any]] = {
            "hand-tuned": partial(peers.chunked_tasks, chunk=20),
            "seed's loop": peers.one_task_per_item,
            "ActorPool": peers.actor_pool,
            "joblib": peers.loky,
        }
        others = {name: after_kill(start, 400) for name, start in contenders.items()}
    for mode, ordered in MODES.items():
        facts = {f"exact in round {number + 1}": survived(ordered) for number in range(options.rounds)}
        yield facts_row("W7", f"SIGKILL of a worker at item 1,000 of 2,000, {mode}", facts, "", others)


def survived(ordered: bool) -> bool:
    """Whether every result comes exactly once, and in order where that is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder, "killed")
        with themis(partial(deadly, str(flag), 1_000), max_workers=32, ordered=ordered) as run:
            results = list(run(range(2_000)))
        exact = (results if ordered else sorted(results)) == list(range(2_000))
        say(f"  deadly ordered={ordered}: killed {flag.exists()}, exact {exact}")
        return flag.exists() and exact


def after_kill(start: Callable[..., Any], n: int) -> str:
    """In words, what a peer's user gets when a worker is killed in the middle of n items."""
    with tempfile.TemporaryDirectory() as folder:
        return ending(start, partial(deadly, f"{folder}/killed", n // 2), n)


def w8(_: Options) -> Iterator[Row]:
    """An item that never ends. No peer can tell it from the others."""
    for mode, ordered in MODES.items():
        facts, seconds = overdue(ordered)
        what = f"item 17 of 40 hangs, timeout=1, {mode}"
        yield facts_row("W8", what, facts, f"; {seconds:.2f} s in all", {"every peer": "no timeout for one item"})


def overdue(ordered: bool) -> tuple[dict[str, bool], float]:
    """What is true of an item that hangs, and the seconds for all 40 with 8 in progress."""
    with themis(hang, timeout=1, ordered=ordered) as run:
        began = time.perf_counter()
        outcomes = list(run(range(40), max_workers=8, return_exceptions=True))
        seconds = time.perf_counter() - began
        alone = list(run([17, 1, 2], max_workers=1, return_exceptions=True))
    late = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    rest = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    facts = {
        "that item times out": [(type(error), getattr(error, "item", None)) for error in late]
        == [(TaskTimeoutError, 17)],
        "no other does": sorted(rest) == [item for item in range(40) if item != 17],
        "slot free again with max_workers=1": [isinstance(outcome, TaskTimeoutError) for outcome in alone]
        == [True, False, False],
    }
    say(f"  hang ordered={ordered}: {seconds:.2f} s, {facts}")
    return facts, seconds


if __name__ == "__main__":
    memory_alone(sys.argv[1])
