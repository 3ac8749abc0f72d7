"""The one loop under every execution backend: laziness, windows, order, leases.

A backend supplies a crew, which starts items and tells what became of them; the loop here decides what is pulled,
started, yielded and run again. It runs on the consumer's thread: between two `next()` nothing is pulled.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.backends._slots import Outcome, Slots, Task, call
from themis.errors import WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

PULL_SECONDS = 0.005
"""How long items are pulled before the crew hears of them: a slow source must not hold up what is there."""

MAX_DEATHS = 3
"""How often an item, running alone, may end its worker before it is given up."""


class Loss(NamedTuple):
    """Items whose worker ended before their results came.

    Attributes:
        tasks: In the order in which they would have begun.
        begun: How many of them, from the front, may have begun: one of these may be what ended the worker.
        reason: What the backend knows of it.
    """

    tasks: Sequence[Task]
    begun: int
    reason: str


class Progress(NamedTuple):
    """What a crew has to tell: items that ended, and items whose worker did."""

    outcomes: Sequence[Outcome] = ()
    losses: Sequence[Loss] = ()


class Crew(ABC):
    """The verbs that a backend supplies for one map."""

    @abstractmethod
    def wants(self, waiting: int) -> int:
        """How many of `waiting` items it takes now, in one lease; 0 for none."""

    @abstractmethod
    def submit(self, tasks: list[Task]) -> None:
        """Start a lease: these items share a worker, and its fate."""

    @abstractmethod
    def wait(self, timeout: float | None) -> Progress:
        """What happened: at least one outcome or loss, unless `timeout` seconds pass first."""

    @abstractmethod
    def close(self) -> None:
        """Cancel everything, in under a second."""


class InlineCrew(Crew):
    """Runs one item at a time on the thread that waits."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func
        self._todo: deque[Task] = deque()

    def wants(self, waiting: int) -> int:
        return 0 if self._todo else 1

    def submit(self, tasks: list[Task]) -> None:
        self._todo.extend(tasks)

    def wait(self, timeout: float | None) -> Progress:
        return Progress([call(self._func, self._todo.popleft())])

    def close(self) -> None:
        self._todo.clear()


class SlotsCrew(Crew):
    """Runs items in slots of this process."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def wants(self, waiting: int) -> int:
        return waiting  # the slots hold what has not begun; the window bounds it

    def submit(self, tasks: list[Task]) -> None:
        self._slots.put(tasks)

    def wait(self, timeout: float | None) -> Progress:
        return Progress(self._slots.take(timeout))

    def close(self) -> None:
        self._slots.close()


class Results(Iterator[Any]):
    """The results of a map, as its contract says; the crew is made when the first one is asked for."""

    def __init__(
        self,
        make_crew: Callable[[], Crew],
        items: Iterable[Any],
        *,
        buffersize: int,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        self._maps: list[_Map] = []
        # The generator knows nothing of this object: when the last name for it goes, it is closed at once.
        self._results = _run(make_crew, items, buffersize, ordered, return_exceptions, self._maps)

    def __next__(self) -> Any:
        return next(self._results)

    def finished(self) -> list[Any]:
        """What has ended by now and was not yet taken, exceptions included; nothing more is waited for."""
        return [outcome for running in self._maps for outcome in running.finished()]

    def close(self) -> None:
        """Cancel what has not ended, in under a second. Idempotent."""
        self._results.close()


def _run(  # noqa: PLR0917 - called in one place
    make_crew: Callable[[], Crew],
    items: Iterable[Any],
    buffersize: int,
    ordered: bool,
    return_exceptions: bool,
    maps: list[_Map],
) -> Generator[Any, None, None]:
    crew = make_crew()
    try:
        maps.append(_Map(crew, items, buffersize, ordered))
        yield from maps[0].results(return_exceptions)
    finally:
        maps.clear()
        crew.close()


class _Map:
    """One map on its way: what was pulled, what is out on a lease, what waits for its turn."""

    def __init__(self, crew: Crew, items: Iterable[Any], buffersize: int, ordered: bool) -> None:
        self._crew = crew
        self._source = iter(items)
        self._source_error: Exception | None = None
        self._exhausted = False
        self._buffersize = buffersize
        self._pulled = 0
        self._taken = 0
        self._todo: deque[Task] = deque()
        self._suspects: deque[Task] = deque()
        self._deaths: dict[int, int] = {}
        self._items: dict[int, Any] = {}  # the lease table: pulled and without a result
        self._ready: _Ready = _Ordered() if ordered else _Ready()

    def results(self, return_exceptions: bool) -> Generator[Any, None, None]:
        while True:
            self._pull()
            self._submit()
            self._collect()
            for value, error in self._ready.take():
                self._taken += 1
                if error is None:
                    yield value
                elif return_exceptions:
                    yield error
                else:
                    raise error
            if self._exhausted and self._taken == self._pulled:
                break
        if self._source_error is not None:  # only now: what was pulled before it has been delivered
            raise self._source_error

    def finished(self) -> list[Any]:
        """Outcomes that are there, in the order in which they may be taken."""
        if self._items:
            self._note(self._crew.wait(0))
        return [value if error is None else error for value, error in self._ready.take()]

    def _room(self) -> bool:
        return not self._exhausted and self._pulled - self._taken < self._buffersize

    def _pull(self) -> None:
        until = time.monotonic() + PULL_SECONDS
        while self._room() and time.monotonic() < until:
            try:
                item = next(self._source)
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # noqa: BLE001 - raised once the pulled ones are through
                self._exhausted, self._source_error = True, error
            else:
                self._todo.append(Task(self._pulled, item))
                self._items[self._pulled] = item
                self._pulled += 1

    def _submit(self) -> None:
        while self._suspects and self._crew.wants(1):
            self._crew.submit([self._suspects.popleft()])
        while self._todo and (count := self._crew.wants(len(self._todo))):
            self._crew.submit([self._todo.popleft() for _ in range(min(count, len(self._todo)))])

    def _collect(self) -> None:
        if not self._items:
            return
        self._note(self._crew.wait(0 if self._room() else None))

    def _note(self, progress: Progress) -> None:
        for index, value, error in progress.outcomes:
            self._finish(index, value, error)
        for loss in progress.losses:
            self._recover(loss)

    def _finish(self, index: int, value: Any, error: BaseException | None) -> None:
        if index not in self._items:
            return  # an earlier execution of the same item was faster
        item = self._items.pop(index)
        self._ready.add(index, value, None if error is None else located(error, index, item))

    def _recover(self, loss: Loss) -> None:
        unfinished = [task for task in loss.tasks if task.index in self._items]
        alone = len(loss.tasks) == 1  # a suspect is leased by itself: its death can be nobody else's
        for task in unfinished[: loss.begun]:
            deaths = self._deaths[task.index] = self._deaths.get(task.index, 0) + alone
            if deaths < MAX_DEATHS:
                self._suspects.append(task)
            else:
                crashed = WorkerCrashedError(
                    f"item {task.index} ended its worker {deaths} times while it ran alone: {loss.reason}"
                )
                self._finish(task.index, None, crashed)
        self._todo.extendleft(reversed(unfinished[loss.begun :]))


class _Ready:
    """Results that the consumer may take, as they came."""

    def __init__(self) -> None:
        self._results: deque[tuple[Any, BaseException | None]] = deque()

    def add(self, index: int, value: Any, error: BaseException | None) -> None:
        self._results.append((value, error))

    def take(self) -> Iterable[tuple[Any, BaseException | None]]:
        while self._results:
            yield self._results.popleft()


class _Ordered(_Ready):
    """Results that the consumer may take, in input order; the others are parked."""

    def __init__(self) -> None:
        super().__init__()
        self._parked: dict[int, tuple[Any, BaseException | None]] = {}
        self._next = 0

    def add(self, index: int, value: Any, error: BaseException | None) -> None:
        self._parked[index] = value, error

    def take(self) -> Iterable[tuple[Any, BaseException | None]]:
        while self._next in self._parked:
            self._next += 1
            yield self._parked.pop(self._next - 1)


def located(error: BaseException, index: int, item: Any) -> BaseException:
    """The error with `.index` and `.item`; a copy where one object stands for several items."""
    if getattr(error, "index", None) is not None and getattr(error, "item", None) is not item:
        trace = error.__traceback__
        error = copy(error).with_traceback(trace)
    with suppress(AttributeError):  # a class with slots: it arrives without them
        error.index, error.item = index, item  # type: ignore[attr-defined]
    return error
