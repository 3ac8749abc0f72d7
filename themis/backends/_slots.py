"""Runs items of one function inside one process, a fixed number at a time.

The same code serves a map on local threads and the inside of a Ray task. Plain functions run on daemon threads,
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
from collections import deque
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from themis.backends._errors import portable
from themis.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

CLOSE_SECONDS = 0.5
"""How long closing waits for cancelled coroutines to end."""


@dataclass(frozen=True, slots=True)
class Task:
    """One item on its way: its input position and itself."""

    index: int
    item: Any


Outcome: TypeAlias = tuple[int, Any, BaseException | None]
"""Input position, value, error: the value counts where the error is None."""


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: a function, a partial, or an object whose __call__ is one."""
    while isinstance(func, partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def call(func: Callable[[Any], Any], task: Task) -> Outcome:
    """The outcome of one item on the calling thread; only KeyboardInterrupt passes through."""
    try:
        return task.index, func(task.item), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit of an item must not end a worker
        return task.index, None, portable(error)


def overdue(task: Task, seconds: float) -> Outcome:
    """The outcome of an item that took longer than its timeout."""
    return (
        task.index,
        None,
        TaskTimeoutError(f"item {task.index} took longer than its timeout of {seconds:g} s"),
    )


class Slots(ABC):
    """Runs what is put in, at most `size` at once, beginning in the order of arrival.

    `put`, `take` and `close` are called from one thread. An item that outlasts `timeout` seconds gives a
    TaskTimeoutError and its slot is free again.
    """

    def __init__(self, func: Callable[[Any], Any], size: int, timeout: float | None) -> None:
        self._func = func
        self._size = size
        self._timeout = timeout
        self._closed = False
        self._done: SimpleQueue[Outcome] = SimpleQueue()

    @abstractmethod
    def put(self, tasks: Sequence[Task]) -> None:
        """Take more items; returns at once."""

    def take(self, timeout: float | None = None) -> list[Outcome]:
        """Whatever has ended: at least one outcome, or [] when none came within `timeout` seconds."""
        outcomes: list[Outcome] = []
        try:
            outcomes.append(self._done.get(timeout != 0, timeout))
            while True:
                outcomes.append(self._done.get_nowait())
        except Empty:
            return outcomes

    @abstractmethod
    def close(self) -> bool:
        """Begin nothing more. True when nothing is running any more, False when threads had to be abandoned."""


def make_slots(func: Callable[[Any], Any], size: int, timeout: float | None) -> Slots:
    """Slots on the process's event loop for a coroutine function, on daemon threads for any other."""
    return LoopSlots(func, size, timeout) if is_coroutine_function(func) else ThreadSlots(func, size, timeout)


class ThreadSlots(Slots):
    """Slots on daemon threads: they are abandoned, never joined, so that nothing delays interpreter exit."""

    def __init__(self, func: Callable[[Any], Any], size: int, timeout: float | None) -> None:
        super().__init__(func, size, timeout)
        self._todo: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._threads = 0
        self._begun: dict[int, tuple[Task, float]] = {}  # in order of beginning, so of deadline
        self._closing = threading.Event()
        if timeout is not None:
            threading.Thread(target=self._watch, name="themis-watch", daemon=True).start()

    def put(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._todo.put(task)
        with self._lock:
            self._unfinished += len(tasks)
            self._grow()

    def _grow(self) -> None:
        while self._threads < min(self._size, self._unfinished):
            self._threads += 1
            threading.Thread(target=self._work, name="themis-slot", daemon=True).start()

    def _work(self) -> None:
        while (task := self._todo.get()) is not None and not self._closed:
            with self._lock:
                self._begun[task.index] = (task, time.monotonic())
            outcome = self._call(task)
            with self._lock:
                if self._begun.pop(task.index, None) is None:
                    return  # it was overdue: another thread has this one's slot
                self._unfinished -= 1
            self._done.put(outcome)

    def _call(self, task: Task) -> Outcome:
        try:
            return call(self._func, task)
        except KeyboardInterrupt as error:  # raised by the item itself: signals only reach the main thread
            return task.index, None, portable(error)

    def _watch(self) -> None:
        assert self._timeout is not None  # noqa: S101 - started only with one
        while not self._closing.wait(self._until_overdue(self._timeout)):
            now = time.monotonic()
            with self._lock:
                late = [task for task, begun in self._begun.values() if now - begun >= self._timeout]
                for task in late:
                    del self._begun[task.index]
                self._threads -= len(late)
                self._unfinished -= len(late)
                self._grow()
            for task in late:
                self._done.put(overdue(task, self._timeout))

    def _until_overdue(self, timeout: float) -> float:
        with self._lock:
            first = next(iter(self._begun.values()), None)
        return timeout if first is None else max(0.0, first[1] + timeout - time.monotonic())

    def close(self) -> bool:
        self._closed = True
        self._closing.set()
        for _ in range(self._threads):
            self._todo.put(None)
        return not self._begun


class LoopSlots(Slots):
    """Slots on the process's event loop."""

    def __init__(self, func: Callable[[Any], Any], size: int, timeout: float | None) -> None:
        super().__init__(func, size, timeout)
        self._loop = process_loop()
        self._todo: deque[Task] = deque()
        self._active: set[asyncio.Task[None]] = set()
        self._ended = threading.Event()

    def put(self, tasks: Sequence[Task]) -> None:
        self._todo.extend(tasks)
        self._loop.call_soon_threadsafe(self._fill)

    def _fill(self) -> None:
        while self._todo and len(self._active) < self._size and not self._closed:
            running = self._loop.create_task(self._run(self._todo.popleft()))
            self._active.add(running)
            running.add_done_callback(self._free)
        if self._closed and not self._active:
            self._ended.set()

    def _free(self, running: asyncio.Task[None]) -> None:
        self._active.discard(running)
        self._fill()

    async def _run(self, task: Task) -> None:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                outcome: Outcome = task.index, await self._func(task.item), None
            if limit.expired():  # the coroutine passed over its cancellation
                outcome = overdue(task, self._timeout or 0)
        except BaseException as error:  # noqa: BLE001 - SystemExit of an item must not end the loop
            if self._closed and isinstance(error, asyncio.CancelledError):
                return
            expired = self._timeout is not None and isinstance(error, TimeoutError) and limit.expired()
            outcome = overdue(task, self._timeout or 0) if expired else (task.index, None, portable(error))
        self._done.put(outcome)

    def close(self) -> bool:
        self._closed = True
        self._todo.clear()
        self._loop.call_soon_threadsafe(self._cancel)
        return self._ended.wait(CLOSE_SECONDS)

    def _cancel(self) -> None:
        for running in self._active:
            running.cancel()
        self._fill()


_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process id: a forked child must not use its parent's
_loops_lock = threading.Lock()


def process_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process, running on a daemon thread until the process ends."""
    with _loops_lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            _loops.clear()
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="themis-loop", daemon=True).start()
        return loop


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine run on the process's event loop, waited for on the calling thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, process_loop()).result()
