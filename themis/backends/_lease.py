"""What runs on a Ray worker: items, several at a time, and results streamed back together.

A plain task has one lease and ends with it. A Host is an actor that takes one lease after the other: its slots never
wait for the last item of the one before. Both stream the same messages: first who they are, then results, and an
empty one now and then while a timeout needs a sign of life.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Pace, Run
from themis.backends._slots import Slots, make_slots
from themis.backends._wire import pack_runs, unpack_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLUSH_SECONDS = 0.004
"""Results of this long travel together: messages are what costs (a streamed value about 0.15 ms on either side)."""

POLL_SECONDS = 0.05
"""Ray's cancel interrupts between two byte codes only, never a thread that waits."""

SIGN_OF_LIFE_SECONDS = 0.5
"""How often a worker with nothing to say says so, where items have a timeout."""

STUCK = b"stuck"
"""The message of a worker in which an item is overdue and cannot be given up."""

IDLE_SECONDS = 2.0
"""How long a host stays that has nothing to do."""

MESSAGE_BYTES = 1_000_000
"""Results of about this size travel together, larger ones one by one."""

LEAVE_SECONDS = 0.3
"""How long a worker that has to end waits for its last results to leave. What gets lost is run again."""

_functions: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()  # unpickled once per worker process
_MAX_FUNCTIONS = 4


def run_lease(  # noqa: PLR0917 - called in one place, and Ray sends fewer bytes for places than for names
    key: str, function: bytes, data: bytes, size: int, timeout: float | None, waits: bool
) -> Iterator[bytes]:
    """Messages about the items of one chunk, `size` in progress at once; `waits` where that is known."""
    yield introduction()
    slots = make_slots(load(key, function), size, timeout, waits=waits)
    try:
        left = put(slots, data)
        outbox = Outbox(slots, timeout)
        while left:
            runs = outbox.collect(left)
            left -= sum(len(run.values) for run in runs)
            yield from outbox.messages(runs)
        leave(slots)
    finally:
        slots.close()


class Host:
    """An actor whose slots take items as they come.

    It ends when it has had nothing to do for IDLE_SECONDS: while a consumer is away nobody else would end it, and its
    CPU may be what the map needs that the consumer waits for.
    """

    def __init__(self, key: str, function: bytes, timeout: float | None) -> None:
        self._slots = make_slots(load(key, function), 1, timeout)
        self._timeout = timeout
        self._n_put = 0  # written by `put` alone, which runs on another thread than `results`
        self._busy = time.monotonic()  # when it last had an item

    def put(self, data: bytes, size: int) -> None:
        """Take in one chunk; from now on `size` items are in progress at once."""
        self._busy = time.monotonic()
        self._slots.resize(size)
        self._n_put += put(self._slots, data)

    def results(self) -> Iterator[bytes]:
        """Messages about the items of every chunk."""
        yield introduction()
        outbox = Outbox(self._slots, self._timeout)
        n_sent = 0
        while n_sent < self._n_put or time.monotonic() - self._busy < IDLE_SECONDS:
            runs = outbox.collect()
            if runs:
                n_sent += sum(len(run.values) for run in runs)
                self._busy = time.monotonic()
            yield from outbox.messages(runs)
        from ray.actor import exit_actor

        exit_actor()

    def close(self) -> None:
        """Begin nothing more, cancel coroutines."""
        self._slots.close()


def put(slots: Slots, data: bytes) -> int:
    """Give the items of a packed chunk to slots; the number of results that will come."""
    chunks, unbuildable = unpack_chunk(data)
    for run in unbuildable:
        slots.report(run)
    for chunk in chunks:
        slots.put(chunk)
    return len(unbuildable) + sum(len(chunk.items) for chunk in chunks)


class Outbox:
    """Makes messages of what ends in slots."""

    def __init__(self, slots: Slots, timeout: float | None) -> None:
        self._slots = slots
        self._timed = timeout is not None
        self._spoke = time.monotonic()
        self._n_together = 16

    def collect(self, enough: int | None = None) -> list[Run]:
        """What has ended by now, after a short wait; may be nothing. `enough` results need no wait for more."""
        return self._slots.take(POLL_SECONDS, FLUSH_SECONDS, enough)

    def messages(self, runs: list[Run]) -> Iterator[bytes]:
        """The results in messages of sane size; a sign of life where nothing was said for long."""
        now = time.monotonic()
        if runs:
            pace = self._slots.pace()
            total = sum(len(run.values) for run in runs)
            left = deque(runs)
            while left:
                group = _cut(left, self._n_together)
                n_values = sum(len(run.values) for run in group)
                message = pack_runs(group, Pace(pace.seconds * n_values / total, pace.threads))
                self._n_together = max(1, min(64 * self._n_together, MESSAGE_BYTES * n_values // len(message)))
                yield message
        elif self._timed and now - self._spoke > SIGN_OF_LIFE_SECONDS:
            yield STUCK if self._slots.stuck() else b""
        else:
            return
        self._spoke = now


def _cut(runs: deque[Run], count: int) -> list[Run]:
    """The first runs of so many values, taken out; a long one is cut."""
    group: list[Run] = []
    while runs and count:
        run = runs.popleft()
        if len(run.values) > count:
            runs.appendleft(Run(run.start + count, run.values[count:], run.failed))
            run = Run(run.start, run.values[:count], run.failed)
        group.append(run)
        count -= len(run.values)
    return group


def introduction() -> bytes:
    """The first message: where the worker is."""
    import ray

    return pickle.dumps(ray.get_runtime_context().get_node_id())


def leave(slots: Slots) -> None:
    """End the process where items hang in it that were given up; its last results are given time to leave."""
    if slots.abandoned():
        time.sleep(LEAVE_SECONDS)
        os._exit(0)


def load(key: str, function: bytes) -> Callable[[Any], Any]:
    """The function, unpickled once per process."""
    if key not in _functions:
        _functions[key] = pickle.loads(function)  # noqa: S301 - from our own driver
        while len(_functions) > _MAX_FUNCTIONS:
            _functions.popitem(last=False)
    _functions.move_to_end(key)
    return _functions[key]
