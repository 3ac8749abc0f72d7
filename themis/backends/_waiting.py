"""What is with no worker: items that were pulled and never begun, and those whose worker ended before their result."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from themis.backends._chunk import Chunk, Failed, Run, overdue
from themis.errors import WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from themis.backends._crew import Crew, Loss
    from themis.backends._table import Table

MAX_DEATHS = 3
"""How often an item, running alone, may end its worker before it is given up."""

CUT_AFTER_LOSS = 8
"""What was lost with its worker is leased again in pieces of this fraction: one of them may end workers."""

CUT_ABOVE = 256
"""But not so few: those that a worker has in reserve have hardly begun."""

NODES_LOST = 2
"""How often an item may be lost with its node before it is asked whether it was the item."""


class Waiting:
    """The items of a map that wait for a worker: suspects alone, then what runs again, then what is new.

    Args:
        table: Of leases; an item that is given up ends there.

    Attributes:
        n_again: Items that were lost with a worker so far, each time counted.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._new = Chunk(0, [])
        self._lost: deque[Chunk] = deque()
        self._suspects: deque[Chunk] = deque()
        self._deaths: dict[int, int] = {}
        self._executions: dict[int, int] = {}
        self._apart: set[int] = set()  # where leases with a cap began
        self.n_again = 0

    def __len__(self) -> int:
        return len(self._new.items) + sum(len(chunk.items) for chunk in (*self._lost, *self._suspects))

    def add(self, items: Sequence[Any]) -> None:
        """Take in the next items of the source."""
        self._new.items.extend(items)

    def lease(self, crew: Crew) -> None:
        """Give the crew what it wants."""
        while self._suspects and crew.wants(len(self._suspects), alone=len(self._suspects[0].items)):
            self._hand_out(self._suspects.popleft(), crew)
        while n_waiting := sum(len(chunk.items) for chunk in (*self._lost, self._new)):
            first = self._lost[0] if self._lost else self._new
            count = crew.wants(n_waiting, apart=first.cap is not None)
            if not count:
                break
            self._hand_out(self._take(first, min(count, len(first.items), first.cap or count)), crew)

    def _take(self, first: Chunk, count: int) -> Chunk:
        """The first items of a chunk, out of the queue."""
        if count < len(first.items):
            return first.cut(count)
        if self._lost:
            return self._lost.popleft()
        self._new = Chunk(first.stop, [])
        return first

    def _hand_out(self, chunk: Chunk, crew: Crew) -> None:
        if chunk.cap is not None:
            self._apart.add(chunk.start)
        self._table.hand_out(chunk)
        crew.submit(chunk)

    def recover(self, loss: Loss) -> None:
        """Take back what has no result of the items that were lost with a worker."""
        lost = [chunk for lease in loss.leases for chunk in self._table.unfinished(lease)]
        n_lost = sum(len(chunk.items) for chunk in lost)
        self.n_again += n_lost if loss.begun else 0
        if not loss.begun or (loss.by_node and not self._lost_often(lost)):
            self._put_back(lost, loss.begun)
            return
        narrows = any(lease.start in self._apart for lease in loss.leases)
        n_rest = n_lost - loss.suspects
        # Of the loss as a whole: a worker may have had many leases, and any of them may hold what ended it.
        cap = max(1, n_rest // CUT_AFTER_LOSS) if narrows or n_rest > CUT_ABOVE else None
        self._cut_suspects(lost, loss)
        self._put_back(lost, loss.begun - loss.suspects, cap)

    def _lost_often(self, lost: list[Chunk]) -> bool:
        return any(self._count_executions(chunk, begun=False) > NODES_LOST for chunk in lost)

    def _cut_suspects(self, lost: list[Chunk], loss: Loss) -> None:
        """Take the suspects off the front, each by itself or several together."""
        left = loss.suspects
        for chunk in lost:
            while chunk.items and left:
                some = chunk.cut(min(loss.together, left, len(chunk.items)))
                left -= len(some.items)
                self._suspect(some, loss)

    def _put_back(self, lost: list[Chunk], begun: int, cap: int | None = None) -> None:
        """Let items wait before the new ones, of which so many, from the front, may have begun.

        Without a cap they wait as they did before: a suspect is one still, and what ran apart runs apart.
        """
        later: list[Chunk] = []
        for part, may_have_begun in _split(lost, begun):
            part.execution = self._count_executions(part, begun=may_have_begun)
            if cap is None and part.start in self._deaths:
                part.alone = True
                self._suspects.append(part)
                continue
            part.cap = len(part.items) if cap is None and part.start in self._apart else cap
            later.append(part)
        self._lost.extendleft(reversed(later))

    def _count_executions(self, chunk: Chunk, *, begun: bool) -> int:
        """The most that an item of a chunk will have begun when it runs again."""
        if begun:
            for index in range(chunk.start, chunk.stop):
                self._executions[index] = self._executions.get(index, 1) + 1
        return max(self._executions.get(index, 1) for index in range(chunk.start, chunk.stop))

    def _suspect(self, chunk: Chunk, loss: Loss) -> None:
        """Items that may have begun: they run again by themselves, unless one that was alone has had its chances."""
        index, alone = chunk.start, len(loss.leases) == 1 and len(loss.leases[0]) == 1
        if alone and loss.timeout is not None:
            self._fail(index, overdue(index, loss.timeout))
            return
        deaths = self._deaths.get(index, 0) + alone
        if deaths >= MAX_DEATHS:
            reason = f"item {index} ended its worker {deaths} times while it ran alone: {loss.reason}"
            self._fail(index, WorkerCrashedError(reason))
            return
        self._deaths[index] = deaths
        for other in range(index + 1, chunk.stop):
            self._deaths.setdefault(other, 0)
        chunk.execution = self._count_executions(chunk, begun=True)
        chunk.alone = True
        self._suspects.append(chunk)

    def _fail(self, index: int, error: Exception) -> None:
        self._table.finish(Run(index, [Failed(error)], failed=True))


def _split(lost: list[Chunk], begun: int) -> Iterator[tuple[Chunk, bool]]:
    """The chunks in their order, one of them cut where what may have begun ends; and whether each may have."""
    for chunk in lost:
        for part in (chunk.cut(min(begun, len(chunk.items))), chunk):
            if part.items:
                yield part, begun > 0
                begun = max(0, begun - len(part.items))
