"""What travels between the loop, its crews and their workers: runs of items out, runs of results back."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from themis.backends._errors import portable
from themis.errors import TaskTimeoutError
from themis.records import EvaluationRecord, GenerationRecord, Request, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(slots=True)
class Chunk:
    """Consecutive items on their way to a worker.

    Attributes:
        start: Input position of the first.
        items: In input order.
        execution: 1 where none of them has begun before, 2 where they may have begun once, ...
        alone: What may have ended its worker: it runs where nothing else does.
        cap: The most items of one lease; None for as many as the crew wants.
    """

    start: int
    items: list[Any]
    execution: int = 1
    alone: bool = False
    cap: int | None = None

    @property
    def stop(self) -> int:
        """Input position after the last."""
        return self.start + len(self.items)

    def cut(self, count: int) -> Chunk:
        """The first `count` items as a chunk of their own; this one keeps the rest."""
        head = Chunk(self.start, self.items[:count], self.execution, self.alone, self.cap)
        del self.items[:count]
        self.start += count
        return head


class Todo:
    """Items that nobody has begun, in the order of arrival: to cut a chunk for each would move all that follow."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[Chunk, Iterator[Any]]] = deque()
        self.count = 0

    def add(self, chunk: Chunk, *, first: bool = False) -> None:
        """Take in a chunk that has items, behind the others or before them."""
        entry = (chunk, iter(chunk.items))
        (self._chunks.appendleft if first else self._chunks.append)(entry)
        self.count += len(chunk.items)

    def take(self, count: int) -> Chunk:
        """The next items, up to `count` and of one chunk; there must be one."""
        chunk, rest = self._chunks[0]
        items = list(islice(rest, count))
        left = rest.__length_hint__()  # type: ignore[attr-defined]
        if not left:
            self._chunks.popleft()
        self.count -= len(items)
        return Chunk(chunk.stop - left - len(items), items, chunk.execution)

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self.count = 0


PLAIN: set[type] = {Sample, Request, GenerationRecord, EvaluationRecord}
"""Types of objects that can be rebuilt on the other side whenever what they hold can."""


def plain(kind: type[T]) -> type[T]:
    """Marks a class of PLAIN: no code of its own runs when an object of it is pickled or rebuilt."""
    PLAIN.add(kind)
    return kind


class Failed(NamedTuple):
    """Stands in place of a result for the error that the item ended with."""

    error: BaseException


class Run(NamedTuple):
    """Results of consecutive items.

    Attributes:
        start: Input position of the first.
        values: In input order, a Failed where an item ended with an error.
        failed: Whether there is any Failed among them.
    """

    start: int
    values: list[Any]
    failed: bool = False


class Pace(NamedTuple):
    """How long items take inside a worker.

    Attributes:
        seconds: That items took which ended lately, added up; each from its beginning to its end.
        threads: That run items of a function that computes; None where it waits: as many as there are slots.
    """

    seconds: float
    threads: int | None


_execution: ContextVar[int] = ContextVar("themis_execution", default=1)


def executions() -> int:
    """How often the item that is being worked on may have begun, this time included; never too low.

    1, except where the worker of an earlier time died: that execution may have done any part of its work. Read it
    inside the mapped function, on the thread or in the coroutine that was called.
    """
    return _execution.get()


def set_executions(number: int) -> None:
    """Let `executions()` say this number in the present context."""
    _execution.set(number)


def overdue(index: int, seconds: float) -> TaskTimeoutError:
    """The error of an item that took longer than its timeout."""
    return TaskTimeoutError(f"item {index} took longer than its timeout of {seconds:g} s")


def call(func: Callable[[Any], Any], item: Any) -> Any:
    """The function's value, or its error as Failed; only KeyboardInterrupt passes through."""
    try:
        return func(item)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit of an item must not end a worker
        return Failed(portable(error))
