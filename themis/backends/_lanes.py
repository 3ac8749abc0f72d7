"""Where threads add rows side by side: the open parts of a writer, in lanes that do not wait for each other.

One lock for all threads would be a queue: whoever has it waits for the interpreter as often as not, and seven others
for the lock. Eight threads that save single records took twice the time of one that way.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from themis.backends._pending import Pending
    from themis.records import RecordKind

T = TypeVar("T")

MAX_LANES = 8
"""Each lane has a journal of its own, which is an open file."""


class Lane:
    """The open parts that one thread at a time adds to, each of a kind.

    Attributes:
        lock: Whose holder may touch `open`. Reentrant: the garbage collector may run the backend's finalizer on a
            thread that holds it.
        open: By kind.
    """

    __slots__ = ("lock", "open")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: dict[RecordKind, Pending] = {}


class Lanes:
    """The lanes of one writer: as many as threads were ever adding at the same time, up to MAX_LANES."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._free: deque[Lane] = deque()
        self._growing = threading.RLock()

    def use(self, act: Callable[[Lane], T]) -> T:
        """What `act` returns, which has a lane to itself meanwhile."""
        try:
            lane = self._free.pop()
        except IndexError:
            return self._use_another(act)
        return self._use(lane, act)

    def _use(self, lane: Lane, act: Callable[[Lane], T]) -> T:
        try:
            with lane.lock:
                return act(lane)
        finally:
            self._free.append(lane)

    def _use_another(self, act: Callable[[Lane], T]) -> T:
        """The same in a new lane; where there may be no more, in one that another thread is using, after that."""
        if len(self._lanes) < MAX_LANES and (lane := self._new()):
            return self._use(lane, act)
        lane = self._lanes[threading.get_native_id() % MAX_LANES]
        with lane.lock:
            return act(lane)

    def _new(self) -> Lane | None:
        with self._growing:
            if len(self._lanes) == MAX_LANES:
                return None
            self._lanes.append(Lane())
            return self._lanes[-1]

    def parts(self) -> list[Pending]:
        """The open parts; they may grow meanwhile."""
        return [part for lane in self._lanes for part in list(lane.open.values())]

    def held(self, kind: RecordKind) -> tuple[int, int]:
        """Rows of a kind in all lanes, and their bytes."""
        n_rows = nbytes = 0
        for lane in self._lanes:
            if part := lane.open.get(kind):
                n_rows += part.n_rows
                nbytes += part.nbytes
        return n_rows, nbytes

    def tables(self, kind: RecordKind, run_id: str, launch: str) -> list[pa.Table]:
        """All rows of a kind."""
        tables: list[pa.Table] = []
        for lane in self._lanes:
            with lane.lock:
                tables += lane.open[kind].tables(run_id, launch) if kind in lane.open else ()
        return tables

    def seal(self, parts: list[Pending]) -> None:
        """Move all open parts to the end of a list; what was added before is in them."""
        for lane in self._lanes:
            with lane.lock:
                # One call, so that no interruption and no fork comes when a part is in neither place.
                parts.extend(map(lane.open.pop, list(lane.open)))
