"""The one loop under every execution backend: laziness, windows, order, leases.

A backend supplies a crew, which starts items and tells what became of them; the loop here decides what is pulled,
started, yielded and run again. It runs on the consumer's thread: between two results nothing is pulled. Items and
results move in runs, so that a short item costs a list element and not a message, a lock or a dictionary entry.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.backends._chunk import Chunk, Failed, Run, call, overdue
from themis.backends._table import Table
from themis.errors import WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from themis.backends._slots import Slots

PULL_SECONDS = 0.005
"""How long items are pulled before the crew hears of them: a slow source must not hold up what is there."""

BITE_SECONDS = 0.0005
"""Items are pulled together while so many take less than this."""

MAX_BITE = 16_384

MAX_DEATHS = 3
"""How often an item, running alone, may end its worker before it is given up."""

CUT_AFTER_LOSS = 8
"""What was lost with its worker is leased again in pieces of this fraction: one of them may end workers."""

CUT_ABOVE = 256
"""But not so few: those that a worker has in reserve have hardly begun."""

AHEAD_SECONDS = 0.5
"""Work that a window without a bound of the caller's may hold ahead of the consumer."""

GROWTH = 16
"""Times what the consumer has taken, at most, that such a window holds."""


class Loss(NamedTuple):
    """Items whose worker ended before their results came.

    Attributes:
        leases: Their positions, in the order in which they would have begun; those that have ended may be among them.
        suspects: How many of the others, from the front, are taken for what may have ended the worker.
        begun: How many of them, from the front, may have begun; no fewer.
        reason: What the backend knows of it.
        timeout: The worker was ended because an item hung in it, whose timeout was so many seconds; else None.
    """

    leases: Sequence[range]
    suspects: int
    begun: int
    reason: str
    timeout: float | None = None


@dataclass(slots=True)
class News:
    """What a crew has to tell: items that ended, and items whose worker did."""

    runs: list[Run] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


class MapProgress(NamedTuple):
    """How far a map is.

    Attributes:
        done: Items that have ended, with a result or an error.
        failed: How many of them with an error.
        waiting: Items that were pulled and are with no worker.
        out: Items that are with a worker, in progress or next in line.
        again: Items that were given to another worker because theirs died.
        nodes: Machines that have worked on items so far.
        seconds: Since the first result was asked for.
    """

    done: int = 0
    failed: int = 0
    waiting: int = 0
    out: int = 0
    again: int = 0
    nodes: int = 1
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Items that have ended per second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Crew(ABC):
    """The verbs that a backend supplies for one map."""

    @property
    def nodes(self) -> int:
        """Machines that have worked on items so far."""
        return 1

    def window(self, wanted: int) -> int:
        """How many items may be pulled and not yet taken, where `wanted` are from the caller's point of view."""
        return wanted

    @abstractmethod
    def wants(self, waiting: int, *, alone: bool = False, apart: bool = False) -> int:
        """How many of `waiting` items it takes now, in one lease; 0 for none.

        Of items that have to run `alone` it takes one at a time. What is to be `apart` goes to a worker that has
        nothing else, and gets nothing else meanwhile.
        """

    @abstractmethod
    def submit(self, chunk: Chunk) -> None:
        """Start a lease: these items share a worker, and its fate."""

    @abstractmethod
    def wait(self, timeout: float | None) -> News:
        """What happened: returns when the crew may want more items too, and after `timeout` seconds."""

    @abstractmethod
    def close(self) -> None:
        """Cancel everything, in under a second."""


class InlineCrew(Crew):
    """Runs one item at a time on the thread that waits."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func
        self._todo: deque[Chunk] = deque()

    def wants(self, waiting: int, *, alone: bool = False, apart: bool = False) -> int:
        return 0 if self._todo else 1

    def submit(self, chunk: Chunk) -> None:
        self._todo.append(chunk)

    def wait(self, timeout: float | None) -> News:
        if timeout == 0:
            return News()
        chunk = self._todo.popleft()
        values = [call(self._func, item) for item in chunk.items]
        return News([Run(chunk.start, values, any(type(value) is Failed for value in values))])

    def close(self) -> None:
        self._todo.clear()


class SlotsCrew(Crew):
    """Runs items in slots of this process."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def wants(self, waiting: int, *, alone: bool = False, apart: bool = False) -> int:
        return waiting  # the slots hold what has not begun; the window bounds it

    def submit(self, chunk: Chunk) -> None:
        self._slots.put(chunk)

    def wait(self, timeout: float | None) -> News:
        return News(self._slots.take(timeout))

    def close(self) -> None:
        self._slots.close()


class Results(Iterator[Any]):
    """The results of a map, as its contract says; the crew is made when the first one is asked for."""

    def __init__(
        self,
        make_crew: Callable[[], Crew],
        items: Iterable[Any],
        *,
        window: Window,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        self._maps: list[_Map] = []
        table = Table(ordered=ordered, keep_errors=return_exceptions)
        self._rest: list[Iterator[Any]] = []
        # The generator knows nothing of this object: when the last name for it goes, it is closed at once.
        self._results = _flat(_run(make_crew, items, window, table, self._maps), self._rest)

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - see below
        return self._results  # a Python frame less for each result than through __next__

    def __next__(self) -> Any:
        return next(self._results)

    def finished(self) -> list[Any]:
        """What has ended by now and was not yet taken; nothing more is waited for."""
        rest = [result for batch in self._rest for result in batch]
        return rest + [result for running in self._maps for result in running.finished()]

    @property
    def progress(self) -> MapProgress:
        """How far the map is; what it was at the end, once it has ended."""
        return self._maps[0].progress() if self._maps else MapProgress()

    def close(self) -> None:
        """Cancel what has not ended, in under a second. Idempotent."""
        self._results.close()


def _flat(batches: Generator[list[Any], None, None], rest: list[Iterator[Any]]) -> Generator[Any, None, None]:
    """The results of every batch; `rest` has those of the present one that were not taken."""
    with closing(batches):
        for batch in batches:
            results = iter(batch)
            rest[:] = [results]
            yield from results


def _run(
    make_crew: Callable[[], Crew], items: Iterable[Any], window: Window, table: Table, maps: list[_Map]
) -> Generator[list[Any], None, None]:
    crew = make_crew()
    try:
        maps.append(_Map(crew, items, window, table))
        yield from maps[0].batches()
    finally:
        crew.close()


class Window:
    """How many items may be pulled and not yet taken by the consumer.

    Args:
        size: At least so many.
        fixed: Never more. Else up to GROWTH times what the consumer has taken, and no more than AHEAD_SECONDS of work:
            who takes millions of small results gets a large window, who takes ten does not.
    """

    def __init__(self, size: int, *, fixed: bool) -> None:
        self._size = size
        self._fixed = fixed

    def at(self, taken: int, seconds: float) -> int:
        """Its size after so many were taken in so many seconds."""
        if self._fixed or not taken:
            return self._size
        return max(self._size, min(GROWTH * taken, int(taken / max(seconds, 1e-3) * AHEAD_SECONDS)))


class _Map:
    """One map on its way: what was pulled, what is out on a lease, what waits for its turn."""

    def __init__(self, crew: Crew, items: Iterable[Any], window: Window, table: Table) -> None:
        self._crew = crew
        self._source = iter(items)
        self._source_error: Exception | None = None
        self._exhausted = False
        self._window = window
        self._table = table
        self._pulled = 0
        self._taken = 0
        self._bite = 1
        self._todo: deque[Chunk] = deque()
        self._suspects: deque[Chunk] = deque()
        self._deaths: dict[int, int] = {}
        self._executions: dict[int, int] = {}
        self._apart: set[int] = set()  # where leases with a cap began
        self._again = 0
        self._began = time.monotonic()

    def batches(self) -> Generator[list[Any], None, None]:
        while True:
            self._pull()
            self._submit()
            while 0 < self._waiting() == self._pulled - self._table.n_done:
                # Nobody has anything: to pull more would help nobody, and a source that blocks must not keep the crew
                # from being heard.
                self._note(self._crew.wait(None))
                self._submit()
            self._collect()
            batch = self._table.take()
            self._taken += len(batch)
            if self._table.n_failed and any(type(value) is Failed for value in batch):
                first = next(number for number, value in enumerate(batch) if type(value) is Failed)
                yield batch[:first]
                raise batch[first].error
            if batch:
                yield batch
            if self._exhausted and self._taken == self._pulled:
                break
        if self._source_error is not None:  # only now: what was pulled before it has been delivered
            raise self._source_error

    def finished(self) -> list[Any]:
        """Results that are there, in the order in which they may be taken."""
        if self._table.n_done < self._pulled:
            self._note(self._crew.wait(0))
        return [value.error if type(value) is Failed else value for value in self._table.take()]

    def progress(self) -> MapProgress:
        table = self._table
        waiting = self._waiting()
        out = self._pulled - table.n_done - waiting
        seconds = time.monotonic() - self._began
        return MapProgress(table.n_done, table.n_failed, waiting, out, self._again, self._crew.nodes, seconds)

    def _room(self) -> int:
        if self._exhausted:
            return 0
        window = self._window.at(self._taken, time.monotonic() - self._began)
        return self._crew.window(window) - (self._pulled - self._taken)

    def _pull(self) -> None:
        until = time.monotonic() + PULL_SECONDS
        while (room := self._room()) > 0 and time.monotonic() < until:
            began = time.perf_counter()
            self._bite_off(min(room, self._bite))
            took = time.perf_counter() - began
            self._bite = min(2 * self._bite, MAX_BITE) if took < BITE_SECONDS else max(1, self._bite // 2)

    def _bite_off(self, count: int) -> None:
        items: list[Any] = []
        try:
            items.extend(islice(self._source, count))  # keeps what came before an error of the source
            self._exhausted = len(items) < count
        except Exception as error:  # noqa: BLE001 - raised once the pulled ones are through
            self._exhausted, self._source_error = True, error
        if self._todo and self._todo[-1].start >= self._table.end:  # not behind what runs again: it has its lease
            self._todo[-1].items.extend(items)
        elif items:
            self._todo.append(Chunk(self._pulled, items))
        self._pulled += len(items)

    def _submit(self) -> None:
        while self._suspects and self._crew.wants(len(self._suspects), alone=True):
            self._lease(self._suspects.popleft())
        while self._todo:
            first = self._todo[0]
            waiting = sum(len(chunk.items) for chunk in self._todo)
            if not (count := self._crew.wants(waiting, apart=first.cap is not None)):
                break
            count = min(count, len(first.items), first.cap or count)
            self._lease(self._todo.popleft() if count == len(first.items) else first.cut(count))

    def _lease(self, chunk: Chunk) -> None:
        if chunk.cap is not None:
            self._apart.add(chunk.start)
        self._table.hand_out(chunk)
        self._crew.submit(chunk)

    def _collect(self) -> None:
        if self._table.n_done < self._pulled:
            self._note(self._crew.wait(0 if self._room() > 0 else None))

    def _waiting(self) -> int:
        """Items that were pulled and are with no worker."""
        return sum(len(chunk.items) for chunk in (*self._todo, *self._suspects))

    def _note(self, news: News) -> None:
        for run in news.runs:
            self._table.finish(run)
        for loss in news.losses:
            self._recover(loss)

    def _recover(self, loss: Loss) -> None:
        lost = [chunk for lease in loss.leases for chunk in self._table.unfinished(lease)]
        self._again += sum(len(chunk.items) for chunk in lost) if loss.begun else 0
        alone = len(loss.leases) == 1 and len(loss.leases[0]) == 1
        left, begun = loss.suspects, loss.begun - loss.suspects
        narrows = any(lease.start in self._apart for lease in loss.leases)
        later: list[Chunk] = []
        for chunk in lost:
            if not loss.begun and chunk.start in self._deaths:  # a suspect is one still
                chunk.alone, chunk.execution = True, self._executions[chunk.start]
                self._suspects.append(chunk)
                continue
            while chunk.items and left:
                left -= 1
                self._suspect(chunk.cut(1), loss, alone)
            cap = max(1, len(chunk.items) // CUT_AFTER_LOSS) if narrows or len(chunk.items) > CUT_ABOVE else None
            for part in (chunk.cut(min(begun, len(chunk.items))), chunk):
                if part.items:
                    part.cap, part.execution = cap, self._count_executions(part, begun=begun > 0)
                    later.append(part)
                    begun = max(0, begun - len(part.items))
        self._todo.extendleft(reversed(later))

    def _count_executions(self, chunk: Chunk, *, begun: bool) -> int:
        """The most that an item of a chunk will have begun when it runs again."""
        if begun:
            for index in range(chunk.start, chunk.stop):
                self._executions[index] = self._executions.get(index, 1) + 1
        return max(self._executions.get(index, 1) for index in range(chunk.start, chunk.stop))

    def _suspect(self, chunk: Chunk, loss: Loss, alone: bool) -> None:
        """One item that may have begun: it runs again by itself, unless it has had its chances."""
        index = chunk.start
        if alone and loss.timeout is not None:
            self._fail(index, overdue(index, loss.timeout))
            return
        deaths = self._deaths[index] = self._deaths.get(index, 0) + alone
        if deaths >= MAX_DEATHS:
            reason = f"item {index} ended its worker {deaths} times while it ran alone: {loss.reason}"
            self._fail(index, WorkerCrashedError(reason))
            return
        chunk.execution = self._executions[index] = self._executions.get(index, 1) + 1
        chunk.alone = True
        self._suspects.append(chunk)

    def _fail(self, index: int, error: Exception) -> None:
        self._table.finish(Run(index, [Failed(error)], failed=True))
