"""The crew of a map on Ray: how many workers there are, and how many items each of them has.

Every worker is a host: it runs many items at once and takes more as they end. Items go only to workers that have
spoken, so that what waits for a place on the cluster holds up none.
"""

from __future__ import annotations

import time
from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Any

from themis.backends._cluster import Cluster, Shape
from themis.backends._crew import Crew, News
from themis.backends._staff import Staff
from themis.backends._wire import ItemPacker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from themis.backends._chunk import Chunk, Run
    from themis.backends._staff import Work
    from themis.backends._worker import Worker

FIRST_DEPTH = 2
"""Items pulled for each slot while nothing is known of them."""

AHEAD_SECONDS = 0.05
"""Work that a worker has waiting beside what is in progress."""

GATHER_SECONDS = 0.004
"""A worker hears of more items when so much work has gathered, and tells of the results of so long: messages cost."""

WORKERS_OF_THAT = 8
"""With more workers than this more gathers, so that the driver has no more messages to write and to read."""

START_SECONDS = 2.0
"""A worker that has not spoken for so long waits for a place on the cluster: its share goes to the others."""

PLACE_SECONDS = 5.0
"""How long a worker may take to come up on the node that was chosen for it."""

TICK_SECONDS = 0.25
"""How often a crew that waits looks around."""

WINDOW_BYTES = 48_000_000
"""Items and results that are on their way at the same time, about."""


class RayCrew(Crew):
    """The workers of one map. At most `work.limit` items are in progress over all of them."""

    def __init__(self, ray: Any, work: Work) -> None:
        self._ray = ray
        self._limit = work.limit
        self._cluster = Cluster(ray, work.name, work.options, work.limit, work.waits, work.may_grow)
        self._staff = Staff(ray, work)
        self._packer = ItemPacker()
        self._target: Worker | None = None
        self._unsendable: list[Run] = []
        self._n_sent = 0
        self._n_bytes = 0  # of the items that were sent
        self._withheld = 0  # from the others, for a group of suspects
        self._shared: tuple[list[Worker], int] = [], 0  # among whom what is shared
        self._plan: deque[tuple[Worker, int]] = deque()

    @property
    def _shape(self) -> Shape:
        return self._cluster.shape

    @property
    def _workers(self) -> list[Worker]:
        return self._staff.workers

    @property
    def nodes(self) -> int:
        return len(self._staff.nodes)

    # How much

    def window(self, wanted: int) -> int:
        tempo = self._staff.tempo
        if not tempo:
            return min(wanted, FIRST_DEPTH * self._limit)
        per_item = tempo.result_bytes + self._n_bytes / max(self._n_sent, 1)
        return min(wanted, max(self._limit, int(WINDOW_BYTES / max(per_item, 1.0))))

    def wants(self, waiting: int, *, alone: int = 0, apart: bool = False) -> int:
        if alone:
            self._target = self._loner(waiting, alone)
            return alone if self._target is not None else 0
        if apart:
            self._plan.clear()
            self._hire(waiting)
            self._target = next((worker for worker in self._share() if worker.listens and not worker.n_left), None)
            return waiting if self._target is not None else 0
        if not self._plan:
            self._plan = deque(self._needs(waiting))
        self._target, count = self._plan.popleft() if self._plan else (None, 0)
        return count

    def _needs(self, waiting: int) -> Iterator[tuple[Worker, int]]:
        """Who should get how many of the items that wait, the neediest first."""
        self._hire(waiting)
        sharing = [worker for worker in self._share() if not (worker.apart and worker.n_left)]
        up = [worker for worker in sharing if worker.listens]
        if not up:
            return
        # Its part of all that is pulled: the workers should come to the end together.
        even = ceil((waiting + sum(worker.n_left for worker in sharing)) / len(sharing))
        free = self._free()
        for worker in sorted(up, key=lambda worker: worker.n_left / worker.size):
            wanted, least = self._deficit(worker, free), self._worth_a_message(worker)
            count = min(wanted, even - worker.n_left)
            if wanted >= least and count >= (1 if self._has_idle_slots(worker) else least):
                free -= max(0, min(worker.size, worker.n_left + count) - worker.in_progress())
                yield worker, count

    def _free(self) -> int:
        return self._limit - sum(worker.in_progress() for worker in self._workers)

    def _deficit(self, worker: Worker, free: int) -> int:
        """Items that a worker should get now: what its slots take, and some to go on with while the driver is away."""
        tempo = self._staff.tempo
        room = free + worker.in_progress()
        if room < worker.size or worker.shrinks:
            return min(room, worker.size) - worker.n_left
        if not tempo:
            return FIRST_DEPTH * worker.size - worker.n_left
        ahead = max(AHEAD_SECONDS, 4 * self._gather, 2 * self._staff.away)
        return tempo.at_once(worker.size) + tempo.items_in(ahead, worker.size) - worker.n_left

    def _has_idle_slots(self, worker: Worker) -> bool:
        return worker.n_left < self._staff.tempo.at_once(worker.size)

    def _worth_a_message(self, worker: Worker) -> int:
        return max(1, self._staff.tempo.items_in(self._gather, worker.size))

    @property
    def _gather(self) -> float:
        """Seconds of work, and of results, that travel together."""
        return GATHER_SECONDS * max(1.0, self._shape.processes / WORKERS_OF_THAT)

    # Who

    def _hire(self, waiting: int) -> None:
        """As many workers as there are places and items."""
        n_normal = self._n_normal()
        places = min(self._shape.processes, self._shape.tasks - (len(self._workers) - n_normal), self._room())
        n_items = waiting + sum(worker.n_left for worker in self._workers if not worker.reserved)
        for _ in range(min(places, n_items) - n_normal):
            self._start()

    def _start(self, *, anywhere: bool = False) -> Worker:
        """One more worker; where, is left to Ray until any has come up: the emptiest node may be another's."""
        leave_it = anywhere or self._staff.begun is None
        places = None if leave_it else self._cluster.places(worker.node for worker in self._workers)
        return self._staff.start(places.emptiest() if places else None, self._gather)

    def _ask_elsewhere(self) -> None:
        """Let Ray look for a place for those that do not come up where they should: the node may be full, or gone."""
        late = time.monotonic() - PLACE_SECONDS
        for worker in [w for w in self._workers if w.placed and not w.up and w.started < late]:
            self._cluster.refuse(worker.node)
            self._staff.dismiss(worker)
            self._start(anywhere=True).reserved = worker.reserved

    def _even_out(self) -> None:
        """Where one node is more crowded than another needs to be, let one of its workers make way for one there."""
        normal = [worker for worker in self._workers if not worker.reserved]
        if len(normal) < self._shape.processes or not all(worker.up for worker in self._workers):
            return  # who is still to come may be there
        places = self._cluster.places(worker.node for worker in normal)
        crowded = places and places.too_full()
        if crowded:
            there = [worker for worker in normal if worker.node == crowded]
            min(there, key=lambda worker: worker.n_left).reserved = True  # it ends with its last item

    def _share(self) -> list[Worker]:
        """The workers among which the limit is shared, those that will be there in a moment included."""
        fresh = time.monotonic() - START_SECONDS
        normal = [w for w in self._workers if not w.reserved and (w.listens or w.started > fresh)]
        room = self._room()
        sharing = normal[:room]
        if sharing and (sharing, room) != self._shared:
            even, more = divmod(room, len(sharing))
            for number, worker in enumerate(sharing):
                worker.resize(even + (number < more))
        self._shared = sharing, room
        return sharing

    def _room(self) -> int:
        """How many items the others may have in progress beside the reserved, and what waits for them."""
        theirs = sum(max(1, worker.in_progress()) for worker in self._workers if worker.reserved)
        return max(0, self._limit - theirs - self._withheld)

    def _n_normal(self) -> int:
        return sum(not worker.reserved for worker in self._workers)

    def _loner(self, waiting: int, size: int) -> Worker | None:
        """A worker that has nothing to do and gets one of `waiting` groups of suspects, of that size; None until then.

        Some run in processes of their own while the others go on. Where there is no place for more, the worker that has
        the fewest items left gets no others.
        """
        reserved = [worker for worker in self._workers if worker.reserved]
        useful = waiting + sum(worker.n_left > 0 for worker in reserved)
        places = self._shape.tasks - len(self._workers) + len(reserved)
        most = min(useful, places, self._shape.processes, max(1, self._limit // (2 * size)))
        for _ in range(most - len(reserved)):
            reserved.append(self._start())
            reserved[-1].reserved = True
        if not reserved:
            reserved.append(min(self._workers, key=lambda worker: (not worker.listens, worker.n_left)))
            reserved[-1].reserved = True
        if self._free() < size:
            self._withheld = size  # what the others finish is not replaced until then
            return None
        return next((worker for worker in reserved if worker.listens and not worker.n_left), None)

    def submit(self, chunk: Chunk) -> None:
        data, unsendable = self._packer.pack(chunk)
        self._n_sent += len(chunk.items)
        self._n_bytes += len(data)
        self._unsendable += unsendable
        count = len(chunk.items) - len(unsendable)
        if not count or self._target is None:
            return
        if self._target.reserved:
            self._target.resize(len(chunk.items))
        self._target.apart = chunk.cap is not None
        self._target.way.send(self._target.size, data)
        self._target.add(chunk.start, chunk.stop, count)

    # What happens

    def wait(self, timeout: float | None) -> News:
        self._plan.clear()
        self._withheld = 0
        news, self._unsendable = News(self._unsendable), []
        tick = TICK_SECONDS if timeout is None else min(TICK_SECONDS, timeout)
        self._staff.listen(0.0 if news.runs else tick, news)
        self._ask_elsewhere()
        if self._cluster.look(begun=self._staff.begun is not None):
            self._even_out()
        return news

    def close(self) -> None:
        self._staff.close()
        if self._ray.is_initialized():
            self._cluster.close()
