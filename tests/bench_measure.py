"""How the benchmarks measure: contenders that take turns, goals beside what was reached, a table of both."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from themis.backends import RayExecutionBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

MODES = {"unordered": False, "ordered": True}
"""The two ways of `map`, which are also the names of its contenders."""
LIMIT_SECONDS = 600
"""What takes longer hangs; the longest workload takes four minutes."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    rounds: int
    quick: bool
    peers: bool


@dataclass(frozen=True)
class Work:
    """A function, the first n of its items, and the sum of their results."""

    func: Callable[[Any], Any]
    items: Callable[[int], Sequence[int]] = range
    total: Callable[[Sequence[int]], int] = sum


@dataclass(frozen=True)
class Contender:
    """One way to run a map; on fewer items where the whole would take minutes."""

    start: Callable[..., AbstractContextManager[Callable[..., Any]]]
    n: int | None = None
    warm: int = 512


@dataclass(frozen=True)
class Timing:
    """One measured map: items, seconds, seconds to the first result."""

    n: int
    seconds: float
    first: float

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.n / self.seconds


@dataclass(frozen=True)
class Check:
    """A goal beside what was reached: one value for each round, of which `pick` counts."""

    what: str
    values: Sequence[float]
    sign: str
    bound: float
    pick: Callable[[Sequence[float]], float] = median

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where it was not measured."""
        if not self.values:
            return None
        reached = self.pick(self.values)
        return reached >= self.bound if self.sign == ">=" else reached <= self.bound

    def reached(self) -> str:
        """The value that counts, and the range over the rounds."""
        if not self.values:
            return f"- {self.what}"
        low, high = short(min(self.values)), short(max(self.values))
        spread = "" if low == high else f" ({low} to {high})"
        return f"{short(self.pick(self.values))}{spread} {self.what}"

    def goal(self) -> str:
        """The goal in words."""
        return f"{self.sign} {short(self.bound)} {self.what}"


@dataclass(frozen=True)
class Row:
    """One line of the table, and the figures behind it."""

    workload: str
    what: str
    themis: str
    peers: str
    checks: list[Check]
    raw: dict[str, Any] = field(default_factory=dict)

    def met(self) -> str:
        """yes, no, or that something was not measured."""
        answers = {check.met for check in self.checks}
        return "no" if False in answers else "not measured" if None in answers else "yes"

    def cells(self) -> list[str]:
        """The columns of the table."""
        reached = "; ".join(check.reached() for check in self.checks)
        goal = "; ".join(check.goal() for check in self.checks)
        return [self.workload, self.what, self.themis, self.peers or "-", reached, goal, self.met()]


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def themis(func: Callable[[Any], Any], **options: Any) -> Iterator[Callable[..., Any]]:
    """The backend under test, on the session that the process has."""
    with RayExecutionBackend() as backend:
        yield partial(backend.map, func, **options)


def both_modes(warm: int = 512, **options: Any) -> dict[str, Contender]:
    """The backend under test, unordered and ordered."""
    return {mode: Contender(partial(themis, ordered=ordered, **options), warm=warm) for mode, ordered in MODES.items()}


def time_once(contender: Contender, work: Work, n: int) -> Timing:
    """One map over n items, started before the clock; raises when a result is missing or wrong."""
    items = work.items(contender.n or n)
    with contender.start(work.func) as run:
        for _ in run(work.items(contender.warm)):
            pass
        began = time.perf_counter()
        results = iter(run(items))
        total, taken = next(results), 1
        first = time.perf_counter() - began
        for value in results:
            total += value
            taken += 1
        seconds = time.perf_counter() - began
    if (taken, total) != (len(items), work.total(items)):
        raise RuntimeError(f"{taken} results with sum {total}, expected {len(items)} with sum {work.total(items)}")
    return Timing(len(items), seconds, first)


def measure(contenders: dict[str, Contender], work: Work, n: int, rounds: int) -> dict[str, list[Timing]]:
    """The timings of all contenders, who take turns; every other round in reverse, so that no place is the better."""
    series: dict[str, list[Timing]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            timing = time_once(contenders[name], work, n)
            say(f"  {work.func.__name__} {name}: {timing.n:,} items, {timing.seconds:.2f} s, {timing.rate:,.0f}/s")
            series[name].append(timing)
    return series


def ratios(series: dict[str, list[Timing]], ours: str, theirs: str) -> list[float]:
    """Our rate over theirs, round by round; [] where they did not run."""
    return [a.rate / b.rate for a, b in zip(series[ours], series.get(theirs, []), strict=False)]


def rate(timings: list[Timing]) -> str:
    """Median items per second."""
    return f"{short(median(timing.rate for timing in timings))}/s"


def makespan(n: int, timings: list[Timing]) -> str:
    """Median seconds for n items, scaled by rate."""
    first = median(timing.first for timing in timings)
    return f"{median(n / timing.rate for timing in timings):.2f} s (first after {first:.3f} s)"


def timed_rows(
    workload: str,
    what: str,
    n: int,
    series: dict[str, list[Timing]],
    show: Callable[[list[Timing]], str],
    checks: Callable[[str], list[Check]],
) -> Iterator[Row]:
    """One row for each mode."""
    names = {name: f" on {t[0].n:,}" if t[0].n < n else "" for name, t in series.items() if name not in MODES}
    others = "; ".join(f"{name}{fewer}: {show(series[name])}" for name, fewer in names.items())
    raw = {name: [asdict(timing) for timing in timings] for name, timings in series.items()}
    for mode in MODES:
        yield Row(workload, f"{what}, {mode}", show(series[mode]), others, checks(mode), raw)


def start_ray(**options: Any) -> Any:
    """The ray module, with a session of 2 CPUs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
    ray.init(address="local", num_cpus=2, **quiet, **options)
    return ray


def rows_of(name: str, workload: Callable[[Options], Iterator[Row]], options: Options) -> list[Row]:
    """The rows of one workload; one that says why where it failed, so that the others are still measured."""
    say(f"{name}: {workload.__doc__}")
    try:
        with limited(LIMIT_SECONDS):
            return list(workload(options))
    except Exception as error:
        traceback.print_exc()
        failed = Check("runs through", [0], ">=", 1)
        message = re.sub(r"\x1b\[\d*m", "", f"{type(error).__name__}: {error}".splitlines()[0])  # Ray's has colours
        return [Row(name, "failed", message, "", [failed])]


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in a body that takes longer, so that what hangs is a row of the table too."""
    late = threading.Event()

    def interrupt(*_: object) -> None:
        late.set()
        raise KeyboardInterrupt  # the one exception that a signal can raise inside Ray's calls

    signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    except KeyboardInterrupt as error:
        if not late.is_set():
            raise
        raise TimeoutError(f"not through after {seconds} s") from error
    finally:
        signal.alarm(0)


def markdown(rows: list[Row]) -> str:
    """The table; peers that stand in the row above are not written again."""
    head = ["workload", "what", "themis", "peers in the same run", "ratio reached", "goal", "met"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    for above, row, line in zip(rows, rows[1:], lines[3:], strict=False):
        if row.peers and row.peers == above.peers:
            line[3] = "as above"
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
