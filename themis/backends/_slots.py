"""Runs items of one function inside one process, a fixed number at a time.

The same code serves a map on local threads and the inside of a Ray worker. Plain functions run on daemon threads,
coroutine functions on one event loop per process, which lives on a daemon thread of its own: a notebook's loop is
already running, and connections that a function keeps open there outlive one map.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Pace, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from themis.backends._chunk import Chunk


LOOKS = 4
"""How often it is looked whether there is enough, while more is waited for."""


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: a function, a partial, or an object whose __call__ is one."""
    while isinstance(func, partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


class Slots(ABC):
    """Runs what is put in, at most `size` items at once, beginning in the order of arrival.

    `take` and `close` are called from one thread. An item that outlasts `timeout` seconds gives a TaskTimeoutError
    and its slot is free again.
    """

    def __init__(self, func: Callable[[Any], Any], size: int, timeout: float | None) -> None:
        self._func = func
        self._size = size
        self._timeout = timeout
        self._closed = False
        self._seconds = 0.0  # that items took; written by those who run them
        self._done: SimpleQueue[Run] = SimpleQueue()

    @abstractmethod
    def put(self, chunk: Chunk) -> None:
        """Take more items; returns at once."""

    def take(self, timeout: float | None = None, linger: float = 0.0, enough: int | None = None) -> list[Run]:
        """Whatever has ended: at least one run, or [] when none came within `timeout` seconds.

        After the first, what ends within `linger` seconds is waited for too, unless there are `enough` results.
        """
        try:
            runs = [self._done.get(timeout != 0, timeout)]
        except Empty:
            return []
        self._drain(runs)
        for pause in (linger / 16, *[linger / LOOKS] * LOOKS) if linger else ():
            if enough is not None and sum(len(run.values) for run in runs) >= enough:
                break
            time.sleep(pause)
            self._drain(runs)
        return runs

    def _drain(self, runs: list[Run]) -> None:
        with suppress(Empty):
            while True:
                runs.append(self._done.get_nowait())

    def resize(self, size: int) -> None:
        """Have another number of items in progress at once; fewer as soon as items have ended."""
        self._size = size

    def report(self, run: Run) -> None:
        """Let `take` give a run that ended elsewhere."""
        self._done.put(run)

    def pace(self) -> Pace:
        """How long the items took that ended since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return Pace(seconds, self._n_threads())

    def _n_threads(self) -> int | None:
        return None

    def stuck(self) -> bool:
        """Whether an item is overdue and nothing inside this process can give it up."""
        return False

    @abstractmethod
    def in_progress(self) -> int:
        """How many items hold a slot or a thread, given up ones included."""

    def abandoned(self) -> int:
        """How many items were given up and still hold a thread."""
        return 0

    @abstractmethod
    def close(self) -> None:
        """Begin nothing more, cancel what can be cancelled, abandon the rest."""


def make_slots(
    func: Callable[[Any], Any], size: int, timeout: float | None, *, busy: int = 1, waits: bool = False
) -> Slots:
    """Slots on the process's event loop for a coroutine function, on daemon threads for any other.

    Args:
        func: Applied to each item.
        size: Items in progress at once.
        timeout: Seconds for one item, None for no limit.
        busy: Threads for a function that computes; one that waits gets all `size`.
        waits: It is known to wait; otherwise that is found out.
    """
    from themis.backends._coroutines import LoopSlots
    from themis.backends._threads import ThreadSlots

    if is_coroutine_function(func):
        return LoopSlots(func, size, timeout)
    return ThreadSlots(func, size, timeout, busy, waits)


_loops: dict[tuple[int, str], asyncio.AbstractEventLoop] = {}  # a forked child must not use its parent's
_loops_lock = threading.Lock()


def process_loop(name: str = "themis-loop") -> asyncio.AbstractEventLoop:
    """The event loop of this process and name, running on a daemon thread until the process ends."""
    key = os.getpid(), name
    with _loops_lock:
        loop = _loops.get(key)
        if loop is None:
            loop = _loops[key] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name=name, daemon=True).start()
        return loop


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine run on the process's event loop, waited for on the calling thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, process_loop()).result()
