"""How many answers are compared in a second, by one process and by as many as there are CPUs.

    THEMIS_DATA=... python tests/bench_equivalence.py [ANSWERS]

Answers are MATH-500's own with a number added and taken away, so that none is equal as it is written, and none is asked
twice. The children's start is not counted: it is a second of CPU for each, once.
"""

from __future__ import annotations

import sys
import time

from themis.backends import LocalExecutionBackend
from themis.benchmarks import load_benchmark
from themis.scoring.equivalence import _children


def main(count: int) -> None:
    """Print both rates and their ratio, three times."""
    samples = list(load_benchmark("math500").samples())
    targets = [sample.target for sample in samples] * (1 + count // len(samples))
    questions = [{"target": target, "boxed": f"{n}+{target}-{n}"} for n, target in enumerate(targets)]
    for _ in range(3):
        one, all_cores = (rate(questions[:count], children) for children in (1, _children.cores()))
        print(f"1 process {one:.0f}/s, {_children.cores()} processes {all_cores:.0f}/s: {all_cores / one:.2f}x")


def rate(questions: list[dict[str, str]], n_children: int) -> float:
    """Answers in a second over the threads backend."""
    _children.CHILDREN.close()
    _children.CHILDREN._places = _children.threading.BoundedSemaphore(n_children)
    backend = LocalExecutionBackend()
    warm_up = questions[:n_children] * 20
    list(backend.map(_children.CHILDREN.ask, warm_up))
    began = time.perf_counter()
    done = sum(1 for _ in backend.map(_children.CHILDREN.ask, questions, ordered=False, return_exceptions=True))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
