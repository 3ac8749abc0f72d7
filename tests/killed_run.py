"""A driver that is made to be killed: it evaluates, and says on stdout what its storage has accepted.

    python killed_run.py '{"url": ..., "n_rows": ..., "max_workers": ..., "sequential": ..., "latency": ...}'

Its first line is "ready", once everything is imported; then one line for each id, when its save returned.
"""

from __future__ import annotations

import json
import os
import sys
import time

from themis import evaluate
from themis.backends import FsspecStorageBackend, LocalExecutionBackend, SequentialExecutionBackend

BENCHMARK = "counting"


def rows(count):
    """So many questions, each with its number as the answer."""
    return [{"question": f"q{number}", "answer": str(number)} for number in range(count)]


def answer(prompt, latency=0.0):
    """Right, but for every seventh question, after some seconds."""
    time.sleep(latency)
    number = int(prompt.removeprefix("q"))
    return str(number + (number % 7 == 0))


class Noting(FsspecStorageBackend):
    """Notes down the ids of the answers that it accepted."""

    def save_generation_records(self, run_id, records):
        super().save_generation_records(run_id, records)
        self.__dict__.setdefault("accepted", []).extend(record.id for record in records)


class Telling(FsspecStorageBackend):
    """Says each generation that it accepted."""

    def save_generation_records(self, run_id, records):
        super().save_generation_records(run_id, records)
        os.write(1, "".join(f"{record.id}\n" for record in records).encode())


def call(n_rows, storage, latency=0.0, **options):
    """The evaluation, the same whoever makes it."""
    from themis.models import load_model

    model = load_model(Asks(latency), name="counter")
    return evaluate(rows(n_rows), model, run_id="run", storage_backend=storage, **options)


class Asks:
    """The model. Its latency is no part of what it is."""

    def __init__(self, latency):
        self.latency = latency

    def __call__(self, prompt):
        return answer(prompt, self.latency)


def main(text):
    """Evaluate what the JSON text says."""
    given = json.loads(text)
    backend = SequentialExecutionBackend() if given["sequential"] else LocalExecutionBackend()
    # Everything is imported once, so that a kill soon after "ready" hits the beginning of the run.
    call(1, FsspecStorageBackend("memory://warm"), execution_backend=backend)
    with Telling(given["url"], storage_options=given["options"], flush_seconds=given["flush_seconds"]) as storage:
        os.write(1, b"ready\n")
        call(
            given["n_rows"],
            storage,
            given["latency"],
            execution_backend=backend,
            max_workers=None if given["sequential"] else given["max_workers"],
        )


if __name__ == "__main__":
    main(sys.argv[1])
