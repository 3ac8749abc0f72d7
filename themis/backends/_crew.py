"""What the loop of a map asks of a backend: a crew, which starts items and tells what became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.backends._chunk import Chunk, Failed, Run, call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from themis.backends._slots import Slots


class Loss(NamedTuple):
    """Items whose worker ended before their results came.

    Attributes:
        leases: Their positions, in the order in which they would have begun; those that have ended may be among them.
        suspects: How many of the others, from the front, are taken for what may have ended the worker.
        begun: How many of them, from the front, may have begun; no fewer.
        reason: What the backend knows of it.
        timeout: The worker was ended because an item hung in it, whose timeout was so many seconds; else None.
        by_node: The whole node was lost, for which no item is suspected at once.
        together: How many of the suspects share a process when they run again.
    """

    leases: Sequence[range]
    suspects: int
    begun: int
    reason: str
    timeout: float | None = None
    by_node: bool = False
    together: int = 1


@dataclass(slots=True)
class News:
    """What a crew has to tell: items that ended, and items whose worker did."""

    runs: list[Run] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


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
    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
        """How many of `waiting` items it takes now, in one lease; 0 for none.

        Of `waiting` groups that have to run by themselves, the first of so many items, `alone`, it takes that one or
        none. What is to be `apart` goes to a worker that has nothing else, and gets nothing else meanwhile.
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

    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
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

    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
        return waiting  # the slots hold what has not begun; the window bounds it

    def submit(self, chunk: Chunk) -> None:
        self._slots.put(chunk)

    def wait(self, timeout: float | None) -> News:
        return News(self._slots.take(timeout))

    def close(self) -> None:
        self._slots.close()
