"""Slots for plain functions, on daemon threads: abandoned, never joined, so that nothing delays interpreter exit."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.backends._chunk import Chunk, Failed, Run, Todo, overdue, set_executions
from themis.backends._errors import portable
from themis.backends._slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE_SECONDS = 0.0005
"""A thread takes more items at once while those of one piece take less than this."""

MAX_PIECE = 8192

STUCK_SECONDS = 0.005
"""The items behind one that takes this long go to other threads."""

WAITS_BELOW = 0.5
"""Seconds of activity per second, over all threads, below which a function is taken to wait, not to compute."""

FIRST_LOOK, LAST_LOOK = 0.001, 0.05
"""Seconds between two looks at what the threads do: the shortest, and the longest while nothing ends."""


class _Thread(NamedTuple):
    """A thread of this process, by both of its names."""

    ident: int
    native: int


@dataclass(eq=False, slots=True)
class _Piece:
    """Consecutive items that one thread has taken."""

    start: int
    count: int
    rest: Iterator[Any]  # of a list: who exhausts it has the items, in one step
    execution: int
    thread: _Thread
    began: float
    values: list[Any] = field(default_factory=list)
    n_sent: int = 0
    failed: bool = False
    since: float | None = None  # when the present item began, where there is a timeout
    abandoned: bool = False


def active_seconds(thread: _Thread) -> float:
    """How long a thread that is alive has run or stood in line for a CPU; where that is not known, the process.

    On a busy machine CPU seconds alone would make a function that computes look like one that waits. They come from
    the thread's clock: those in /proc are as of the last tick, some milliseconds ago.
    """
    try:
        with open(f"/proc/self/task/{thread.native}/schedstat", "rb") as file:  # noqa: PTH123 - once per look
            _, stood, _ = file.read().split()
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) + int(stood) / 1e9
    except (AttributeError, OSError, ValueError):
        return time.process_time()


def is_runnable(thread: _Thread) -> bool:
    """Whether a thread that is alive runs or stands in line for a CPU at this moment; False where that is not known."""
    try:
        with open(f"/proc/self/task/{thread.native}/stat", "rb") as file:  # noqa: PTH123 - once per look
            return file.read().rpartition(b")")[2].split()[0] == b"R"
    except OSError:
        return False


class ThreadSlots(Slots):
    """Slots on daemon threads.

    A thread takes one item, or a piece of many where they are short: handing one over costs as much as a hundred
    calls of a small function. There is one thread as long as the function computes, `busy` where its items are not
    short, and all `size` once the process is seen to wait.
    """

    def __init__(
        self, func: Callable[[Any], Any], size: int, timeout: float | None, busy: int = 1, waits: bool = False
    ) -> None:
        super().__init__(func, size, timeout)
        self._busy = busy
        self._most = 1
        self._waits = waits
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._todo = Todo()
        self._running: dict[_Piece, None] = {}  # in order of beginning
        self._threads = 0
        self._idle = 0
        self._abandoned = 0
        self._pause = FIRST_LOOK
        self._next_look = time.monotonic() + FIRST_LOOK
        self._seen = (_Thread(0, 0), 0.0, 0.0)  # at the last look: a thread, the time, and how long it had been active
        self._closing = threading.Event()
        if timeout is not None:
            threading.Thread(target=self._watch, args=(timeout,), name="themis-watch", daemon=True).start()

    def put(self, chunk: Chunk) -> None:
        with self._lock:
            self._todo.add(chunk)
            self._staff()

    def _staff(self) -> None:
        """Wake or start the threads that there is work for; the lock is held."""
        self._more.notify(min(self._idle, self._todo.count))
        most = self._size if self._waits else min(self._most, self._size)
        while self._threads < min(most, len(self._running) + self._todo.count):
            self._threads += 1
            threading.Thread(target=self._work, name="themis-slot", daemon=True).start()

    # One thread

    def _work(self) -> None:
        size, execution, thread = 1, 1, _Thread(threading.get_ident(), threading.get_native_id())
        while (piece := self._next(size, thread)) is not None:
            if piece.execution != execution:
                execution = piece.execution
                set_executions(execution)
            if self._timeout is None:
                self._run(piece)
            elif not self._run_timed(piece):
                return  # another thread has this one's slot
            took = time.perf_counter() - piece.began
            with self._lock:
                self._running.pop(piece, None)
                self._seconds += took
                self._send(piece)
            if took < PIECE_SECONDS:
                size = min(2 * size, MAX_PIECE)
            elif took > 2 * PIECE_SECONDS:
                size = max(1, int(size * PIECE_SECONDS / took))

    def _next(self, size: int, thread: _Thread) -> _Piece | None:
        with self._lock:
            while not self._todo.count and not self._closed:
                self._idle += 1
                self._more.wait()
                self._idle -= 1
            if self._closed or self._threads > self._size:
                self._threads -= 1
                self._more.notify()  # one after the other: all at once would hold up who closes
                return None
            chunk = self._todo.take(min(size, 1 + self._todo.count // (2 * self._threads)))
            began = time.perf_counter()
            piece = _Piece(chunk.start, len(chunk.items), iter(chunk.items), chunk.execution, thread, began)
            self._running[piece] = None
            return piece

    def _run(self, piece: _Piece) -> None:
        func, append = self._func, piece.values.append
        for item in piece.rest:
            try:
                append(func(item))
            except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too: signals only reach the main thread
                piece.failed = True
                append(Failed(portable(error)))

    def _run_timed(self, piece: _Piece) -> bool:
        """Whether it came to its end: False when an item was given up in the middle."""
        for item in piece.rest:
            piece.since = time.monotonic()
            try:
                value = self._func(item)
            except BaseException as error:  # noqa: BLE001 - as above
                value = Failed(portable(error))
            with self._lock:
                if piece.abandoned:
                    self._abandoned -= 1
                    return False
                piece.since = None
                piece.failed |= type(value) is Failed
                piece.values.append(value)
        return True

    def _send(self, piece: _Piece) -> None:
        """Hand over what a piece has so far; the lock is held."""
        values = piece.values[piece.n_sent :]
        if values:
            self._done.put(Run(piece.start + piece.n_sent, values, piece.failed))
            piece.n_sent += len(values)

    def _free(self, piece: _Piece) -> None:
        """Give what a piece has not begun to other threads, and hand over what it has; the lock is held."""
        rest = list(piece.rest)
        piece.count -= len(rest)
        if rest:
            self._todo.add(Chunk(piece.start + piece.count, rest, piece.execution), first=True)
        self._send(piece)

    # The thread that takes

    def take(self, timeout: float | None = None, linger: float = 0.0, enough: int | None = None) -> list[Run]:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = self._pause if until is None else min(self._pause, max(0.0, until - time.monotonic()))
            runs = super().take(left, linger, enough)
            if time.monotonic() >= self._next_look:
                self._look()
            if runs or (until is not None and time.monotonic() >= until):
                return runs

    def _look(self) -> None:
        """Start more threads for a function that waits, and free the items behind one that takes long."""
        now = time.perf_counter()
        with self._lock:
            oldest = next(iter(self._running), None)
            if oldest is not None and not self._waits:
                self._waits = self._seen_waiting(oldest.thread, len(self._running))
                if oldest.count == 1 and now - oldest.began > FIRST_LOOK:
                    self._most = self._busy
            for piece in [piece for piece in self._running if piece.count > 1 and now - piece.began > STUCK_SECONDS]:
                self._free(piece)
            self._staff()
        self._pause = min(2 * self._pause, LAST_LOOK)
        self._next_look = time.monotonic() + self._pause

    def _seen_waiting(self, thread: _Thread, n_running: int) -> bool:
        """Whether the threads have been idle for the most part since the last look, going by one of them."""
        now, active = time.perf_counter(), active_seconds(thread)
        (before, since, then), self._seen = self._seen, (thread, now, active)
        # The clocks know of no time in line that is not over yet.
        if before != thread or now <= since or is_runnable(thread):
            return False
        return (active - then) * n_running < WAITS_BELOW * (now - since)

    # Timeouts

    def _watch(self, timeout: float) -> None:
        wait = timeout
        while not self._closing.wait(wait):
            now = time.monotonic()
            wait = timeout
            with self._lock:
                for piece in list(self._running):
                    if piece.since is not None and now - piece.since >= timeout:
                        self._give_up(piece, timeout)
                    elif piece.since is not None:
                        wait = min(wait, piece.since + timeout - now)

    def _give_up(self, piece: _Piece, timeout: float) -> None:
        """Abandon a piece's thread and its present item; the lock is held."""
        piece.abandoned = True
        self._abandoned += 1
        self._free(piece)
        index = piece.start + piece.n_sent
        self._done.put(Run(index, [Failed(overdue(index, timeout))], failed=True))
        del self._running[piece]
        self._threads -= 1
        self._staff()

    def _n_threads(self) -> int | None:
        return None if self._waits else max(1, self._threads)

    def in_progress(self) -> int:
        return len(self._running) + self._abandoned

    def abandoned(self) -> int:
        return self._abandoned

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            self._closed = True
            self._todo.clear()
            for piece in self._running:
                list(piece.rest)
            self._more.notify()
