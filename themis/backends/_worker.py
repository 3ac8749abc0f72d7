"""What a crew knows of its workers on Ray: the items that each has, and how fast they go."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol

from themis.backends._crew import Loss

if TYPE_CHECKING:
    from themis.backends._chunk import Pace, Run


MAX_SUSPECTS = 32
"""Items that are run again by themselves after a death, where no more were in progress."""

SINGLE_SECONDS = 1.0
"""They run one by one where all of them take no longer than this."""

SUSPECT_GROUPS = 8
"""Else in so many groups, at most, each in a process by itself."""


class Way(Protocol):
    """How a worker is told what to do.

    Attributes:
        ended: It is known that nothing reaches it any more.
    """

    ended: bool

    def send(self, size: int, data: bytes) -> None:
        """Give it a packed chunk; from now on `size` of its items may be in progress."""

    def leave(self) -> None:
        """Let it begin nothing more, cancel what it can, and end."""

    def close(self) -> None:
        """Nothing more will be said."""


@dataclass(eq=False)
class Worker:
    """A process that runs items.

    Attributes:
        stream: Its messages.
        way: To it.
        actor: Its handle, where it is one.
        started: When it was asked for.
        placed: On a node that was named, `node`.
        size: Its share of what may be in progress.
        reserved: It gets no items but such as may have ended their worker before, one group at a time.
        apart: It gets no others until what it has is done.
        up: It has spoken.
        heard: When it spoke last.
        node: Where it is, or should be.
        n_left: Items that it has and that have not ended.
    """

    stream: Any
    way: Way
    actor: Any = None
    started: float = field(default_factory=time.monotonic)
    placed: bool = False
    size: int = 1
    reserved: bool = False
    apart: bool = False
    up: bool = False
    heard: float = 0.0
    node: str = ""
    n_left: int = 0
    _was: int = 0
    _leases: dict[int, list[int]] = field(default_factory=dict)  # start: [stop, items left], in order of leasing
    _starts: list[int] = field(default_factory=list)  # sorted

    def add(self, start: int, stop: int, count: int) -> None:
        """Note a lease, `count` of whose items will have a result from here."""
        self._leases[start] = [stop, count]
        insort(self._starts, start)
        self.n_left += count

    def note(self, runs: list[Run]) -> int:
        """Strike off what has ended; the number of items."""
        total = 0
        for run in runs:
            lease = self._leases[start := self._starts[bisect_right(self._starts, run.start) - 1]]
            lease[1] -= len(run.values)
            total += len(run.values)
            if not lease[1]:
                del self._leases[start]
                self._starts.remove(start)
        self.n_left -= total
        self._settle()
        return total

    def resize(self, size: int) -> None:
        """Another share; a smaller one holds once so few items are left."""
        self._was = max(self.size, self._was)
        self.size = size
        self._settle()

    def _settle(self) -> None:
        if self.n_left <= self.size:
            self._was = 0

    @property
    def listens(self) -> bool:
        """Whether it takes items: it has spoken, and has not left."""
        return self.up and not self.way.ended

    @property
    def shrinks(self) -> bool:
        """Whether more may be in progress than its share now is."""
        return self._was > self.size

    def in_progress(self) -> int:
        """At most so many of its items have begun and not ended."""
        return min(self._was if self.shrinks else self.size, self.n_left)

    def leases(self) -> list[range]:
        """What it was given and has not ended, in order; some items of each may have."""
        return [range(start, stop) for start, (stop, _) in self._leases.items()]

    def loss(self, reason: str, tempo: Tempo, *, timeout: float | None = None, by_node: bool = False) -> Loss:
        """Its items, as lost. Suspects are what was in progress, and what probably began since it spoke last.

        Any of the others may have begun as well: what was heard last may have been said long before.
        """
        since = tempo.items_in(time.monotonic() - self.heard, self.size)
        suspects = min(self.n_left, self.in_progress() + since, max(self.in_progress(), MAX_SUSPECTS))
        is_soon = bool(tempo) and suspects * tempo.seconds < SINGLE_SECONDS
        together = 1 if is_soon else max(1, min(self.size, ceil(suspects / SUSPECT_GROUPS)))
        return Loss(self.leases(), suspects, self.n_left, reason, timeout, by_node, together)

    def untouched(self) -> Loss:
        """Its items, none of which has begun: it did all that it had taken in, and ended."""
        return Loss(self.leases(), 0, 0, "")


class Tempo:
    """How fast one worker is and how large its results are, from the messages of late: older ones count less."""

    def __init__(self) -> None:
        self._count = 0.0
        self._seconds = 0.0
        self._bytes = 0.0
        self._threads: int | None = 1

    def note(self, count: int, pace: Pace, size: int) -> None:
        """Take in a message of so many items and bytes."""
        self._count = 0.8 * self._count + count
        self._seconds = 0.8 * self._seconds + pace.seconds
        self._bytes = 0.8 * self._bytes + size
        self._threads = pace.threads

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def waits(self) -> bool:
        """Whether a worker has as many items in progress as it is given slots."""
        return bool(self) and self._threads is None

    @property
    def seconds(self) -> float:
        """Of one item."""
        return max(self._seconds, 1e-9) / max(self._count, 1.0)

    @property
    def result_bytes(self) -> float:
        """Of one result, on the wire."""
        return self._bytes / max(self._count, 1.0)

    def at_once(self, slots: int) -> int:
        """Items that a worker with so many slots really has in progress."""
        return slots if self._threads is None or not self else min(slots, self._threads)

    def items_in(self, seconds: float, slots: int) -> int:
        """Items that a worker with so many slots does in so many seconds."""
        return int(seconds * self.at_once(slots) / self.seconds) if self else 0
