"""The crew of a map on Ray: which worker has which items, who gets the next ones, who is gone.

A map begins with plain tasks: worker processes that are already there take them at once, each with one lease. But the
slots of a lease fall idle while its last items run. A map that has lost half a second to that gets hosts, actors of
which each takes one lease after the other: they need as long to start, and then no slot waits for another's item.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from themis.backends._cluster import Cluster, Shape
from themis.backends._engine import Crew, News
from themis.backends._lease import STUCK, Host, run_lease
from themis.backends._ray_worker import Tempo, Worker
from themis.backends._wire import ItemPacker, unpack_runs
from themis.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from themis.backends._chunk import Chunk, Run

logger = logging.getLogger(__name__)

HOSTS_AFTER = 0.5
"""Seconds that all slots together may lose between plain leases: what it costs to start hosts, which lose none."""

FIRST_DEPTH, MAX_DEPTH = 2, 16
"""Items of a plain task's lease per slot: while nothing is known of them, and at most."""

LEASE_SECONDS = 0.8
"""Work of a plain task's lease, where a slot takes several items in it: its end leaves slots idle."""

SHORT_SECONDS = 0.02
"""The same where items are so short that MAX_DEPTH of them are less than this."""

AHEAD_SECONDS = 0.2
"""Work that a host has waiting beside what is in progress."""

GATHER_SECONDS = 0.004
"""A host hears of more items when so much work has gathered: messages are what costs."""

CLOSE_SECONDS = 0.4
"""How long closing waits for workers to say, or to show by their end, that they begin nothing more."""

TICK_SECONDS = 0.25
"""How often a crew that waits looks at silent workers."""

SILENT_SECONDS = 2.0
"""A worker that said nothing for longer than its items' timeout and this is taken to hang."""

WINDOW_BYTES = 48_000_000
"""Items and results that are on their way at the same time, about."""

MAX_UNREAD = 256
"""Messages of a worker that may wait for the driver; then it stops sending, and keeps its CPU while it waits.

More than a lease is worth (0.8 s, one every 4 ms): another map of the same consumer may need that CPU before this one
is taken from again.
"""

FETCH_SECONDS = 5.0
"""How long a message may be on its way until one asks whether its node is still there."""

MAX_FALSE_STARTS = 10
"""Workers in a row, and two for each process more, that may end before they have spoken."""


@dataclass(frozen=True)
class Work:
    """What every worker of a map gets."""

    name: str
    key: str
    function: Any
    timeout: float | None
    limit: int
    waits: bool
    options: Mapping[str, Any]
    may_grow: bool


class RayCrew(Crew):
    """The workers of one map. At most `work.limit` items are in progress over all of them."""

    def __init__(self, ray: Any, work: Work) -> None:
        self._ray = ray
        self._work = work
        self._cluster = Cluster(ray, work.name, work.options, work.limit, work.waits, work.may_grow)
        options = {"scheduling_strategy": "SPREAD", **work.options}
        task = {**options, **_STREAMING, "name": work.name, "max_retries": 0}
        self._task = ray.remote(run_lease).options(**task)
        # Alone, an item begins when its worker's introduction has been read: a death before that is not its doing.
        self._lone_task = ray.remote(run_lease).options(**task | {"_generator_backpressure_num_objects": 1})
        self._host = ray.remote(Host).options(**_for_actors(options), max_concurrency=2, max_restarts=0)
        self._packer = ItemPacker()
        self._workers: list[Worker] = []
        self._target: Worker | None = None
        self._unsendable: list[Run] = []
        self._n_sharing = 0  # hosts among which the limit is shared
        self._suspects_wait = False
        self._changed = False
        self._false_starts = 0
        self._seen_nodes: set[str] = set()
        self._tempo = Tempo()
        self._n_sent = 0
        self._n_bytes = 0  # of the items that were sent
        self._first: float | None = None  # when the first worker spoke
        self._left_at = time.monotonic()
        self._listened = 0.0  # seconds in `wait` since the crew was asked last; not those of a consumer that is away
        self._waiting = 0  # items that no worker could take when the crew was asked last
        self._lost = 0.0  # seconds, of all slots
        self._away = 0.0  # how long the consumer was lately

    @property
    def _shape(self) -> Shape:
        return self._cluster.shape

    @property
    def nodes(self) -> int:
        return len(self._seen_nodes)

    # How much

    def window(self, wanted: int) -> int:
        limit = self._work.limit
        if not self._tempo:
            return min(wanted, FIRST_DEPTH * limit)
        per_item = self._tempo.result_bytes + self._n_bytes / max(self._n_sent, 1)
        return min(wanted, max(limit, int(WINDOW_BYTES / max(per_item, 1.0))))

    def wants(self, waiting: int, *, alone: bool = False) -> int:
        self._target = None
        if alone:
            return self._wants_suspect()
        self._count_loss(waiting)
        hosts = self._hosts()
        up = [host for host in hosts if host.up]
        if up:
            free = self._free()
            deficits = {host: self._deficit(host, free) for host in up}
            neediest = max(up, key=lambda host: deficits[host] / host.size)
            if (count := deficits[neediest]) >= self._worth_a_message(neediest):
                self._target = neediest
                even = ceil((waiting + sum(host.n_left for host in up)) / len(up)) - neediest.n_left
                return min(count, max(1, even))
        return 0 if len(up) == len(hosts) > 0 else self._task_wants(waiting)

    def _wants_suspect(self) -> int:
        """1 where a plain task of its own can run it. Hosts may hold every resource: then one of them has to go."""
        self._suspects_wait = True
        if self._task_fits():
            return int(self._free() > 0)
        hosts = [worker for worker in self._workers if worker.host is not None]
        if hosts and not any(host.retired for host in hosts):
            min(hosts, key=lambda host: host.n_left).retired = True
        return 0

    def _task_wants(self, waiting: int) -> int:
        """Items for another plain task."""
        free, processes = self._free(), self._shape.processes
        # A lease of a few slots costs as much as one of many: fragments would add up.
        if free < min(waiting, max(1, self._work.limit // processes)) or not self._task_fits():
            return 0
        slots = min(free, ceil(self._work.limit / processes))
        # Its part of all that is pulled: the workers should come to the end together.
        even = ceil((waiting + sum(worker.n_left for worker in self._workers)) / processes)
        return min(self._depth(slots), max(slots, even), waiting)

    def _depth(self, slots: int) -> int:
        """Items of a plain task with so many slots."""
        if not self._tempo:
            return FIRST_DEPTH * slots
        per_slot = min(MAX_DEPTH, max(1.0, LEASE_SECONDS / self._tempo.seconds))
        return max(int(self._tempo.at_once(slots) * per_slot), self._tempo.items_in(SHORT_SECONDS, slots))

    def _free(self) -> int:
        return self._work.limit - sum(worker.in_progress() for worker in self._workers)

    def _task_fits(self) -> bool:
        """Whether a plain task would find a process that is there: Ray would start one more for one more task."""
        n_plain = sum(worker.host is None for worker in self._workers)
        return n_plain < self._shape.processes and len(self._workers) < self._shape.tasks

    def _deficit(self, host: Worker, free: int) -> int:
        """Items that a host should get now: what its slots take, and some to go on with while the driver is away."""
        room = free + host.in_progress()
        if room < host.size or host.shrinks:
            return min(room, host.size) - host.n_left
        ahead = max(AHEAD_SECONDS, 2 * self._away)
        return self._tempo.at_once(host.size) + self._tempo.items_in(ahead, host.size) - host.n_left

    def _worth_a_message(self, host: Worker) -> int:
        return max(1, self._tempo.items_in(GATHER_SECONDS, host.size))

    # Starting

    def _hosts(self) -> list[Worker]:
        """The hosts that take items, started when it is time."""
        hosts = [worker for worker in self._workers if worker.host is not None and not worker.retired]
        missing = min(self._shape.processes, self._shape.tasks) - len(hosts)
        if missing > 0 and self._worth_hosts():
            hosts += [self._start_host() for _ in range(missing)]
        if hosts and (missing > 0 or len(hosts) != self._n_sharing):  # one that replaces another has no share yet
            self._n_sharing = len(hosts)
            even, more = divmod(self._work.limit, len(hosts))
            for number, host in enumerate(hosts):
                host.resize(max(1, even + (number < more)))
        return hosts

    def _count_loss(self, waiting: int) -> None:
        """Add up the time for which slots were idle while items waited."""
        if self._first is not None and self._waiting:
            self._lost += self._listened * min(self._free(), self._waiting) / self._work.limit
        self._listened, self._waiting = 0.0, waiting

    def _worth_hosts(self) -> bool:
        """Whether so much time was lost that hosts are worth their start, and nothing speaks against them."""
        return (
            self._lost > HOSTS_AFTER and not self._suspects_wait and not any(worker.alone for worker in self._workers)
        )

    def _start_host(self) -> Worker:
        work = self._work
        actor = self._host.remote(work.key, work.function, work.timeout)
        host = Worker(actor.results.options(**_STREAMING, name=work.name).remote(), 1, host=actor)
        self._workers.append(host)
        return host

    def submit(self, chunk: Chunk) -> None:
        data, unsendable = self._packer.pack(chunk)
        self._n_sent += len(chunk.items)
        self._n_bytes += len(data)
        self._unsendable += unsendable
        count = len(chunk.items) - len(unsendable)
        if not count:
            return
        if self._target is None or chunk.alone:
            self._start_task(data, count, chunk.alone).add(chunk.start, chunk.stop, count)
            return
        put = self._target.host.put.options(num_returns=0, name=self._work.name)
        put.remote(data, self._target.size)
        self._target.add(chunk.start, chunk.stop, count)

    def _start_task(self, data: bytes, count: int, alone: bool) -> Worker:
        work = self._work
        size = min(count, ceil(work.limit / self._shape.processes), max(1, self._free()))
        task = self._lone_task if alone else self._task
        stream = task.remote(work.key, work.function, data, size, work.timeout, self._tempo.waits)
        worker = Worker(stream, size, alone=alone)
        self._workers.append(worker)
        self._suspects_wait &= not alone
        return worker

    # Listening

    def wait(self, timeout: float | None) -> News:
        until = None if timeout is None else time.monotonic() + timeout
        self._back()
        while True:
            news, self._unsendable = News(self._unsendable), []
            now = time.monotonic()
            tick = TICK_SECONDS if until is None else max(0.0, min(TICK_SECONDS, until - now))
            for worker in self._speaking(0.0 if news.runs else tick):
                self._read(worker, news)
            self._look_after(news)
            self._left_at = time.monotonic()
            self._listened += self._left_at - now
            hungry = self._waiting > 0 and self._free() > 0  # and losing time: that has to be counted
            if news.runs or news.losses or self._changed or hungry or (until is not None and self._left_at >= until):
                self._changed = False  # a worker that came or went may be wanted to take items
                return news

    def _back(self) -> None:
        """While the consumer was away nobody listened: that silence is not the workers'."""
        gap = time.monotonic() - self._left_at
        self._away = max(gap, 0.9 * self._away)
        for worker in self._workers:
            worker.heard += gap

    def _speaking(self, timeout: float) -> list[Worker]:
        streams = [worker.stream for worker in self._workers]
        if not streams:
            time.sleep(timeout)
            return []
        if not self._ray.wait(streams, timeout=timeout, fetch_local=False)[0]:
            return []
        ready = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]
        known = {id(stream) for stream in ready}
        return [worker for worker in self._workers if id(worker.stream) in known]

    def _read(self, worker: Worker, news: News) -> None:
        """Take one message of a worker, or its end."""
        try:
            data = self._fetch(worker, next(worker.stream))
        except StopIteration:
            self._gone(worker, "its worker ended before its last item", news)
        except self._ray.exceptions.GetTimeoutError:
            self._end(worker)
            self._gone(worker, "its node is gone, and a result with it", news)
        except _deaths(self._ray) as error:
            self._gone(worker, f"{type(error).__name__}: {error}", news)
        except self._ray.exceptions.RayError as error:
            raise ExecutionError(f"Ray could not run a task: {error}") from error
        else:
            self._hear(worker, data, news)

    def _fetch(self, worker: Worker, message: Any) -> bytes:
        """The bytes of a message. A large one lies on the worker's node: no end to waiting for it, if that is gone.

        Raises:
            GetTimeoutError: The node is gone.
        """
        while True:
            try:
                return self._ray.get(message, timeout=FETCH_SECONDS)  # type: ignore[no-any-return]
            except self._ray.exceptions.GetTimeoutError:
                if worker.node not in {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}:
                    raise

    def _hear(self, worker: Worker, data: bytes, news: News) -> None:
        worker.heard = time.monotonic()
        if not worker.up:
            worker.up = self._changed = True
            self._false_starts = 0
            worker.node = pickle.loads(data)  # noqa: S301 - from our own worker
            self._seen_nodes.add(worker.node)
            self._first = self._first or worker.heard
        elif data == STUCK:
            self._hangs(worker, news)
        elif data:
            runs, pace = unpack_runs(data)
            self._tempo.note(worker.note(runs), pace, len(data))
            news.runs.extend(runs)

    def _hangs(self, worker: Worker, news: News) -> None:
        self._end(worker)
        self._gone(worker, "an item in it hung and held up its process", news, self._work.timeout)

    def _gone(self, worker: Worker, reason: str, news: News, timeout: float | None = None) -> None:
        self._workers.remove(worker)
        self._changed = True
        if not worker.up:
            self._note_false_start(reason)
        if worker.n_left:
            logger.warning("%d items run again: %s", worker.n_left, reason.splitlines()[0])
            news.losses.append(worker.loss(reason, self._tempo, timeout))

    def _note_false_start(self, reason: str) -> None:
        self._false_starts += 1
        if self._false_starts >= MAX_FALSE_STARTS + 2 * self._shape.processes:
            raise ExecutionError(
                f"{self._false_starts} workers in a row ended before they began to work, the last one so: {reason}"
            )

    def _look_after(self, news: News) -> None:
        now = time.monotonic()
        timeout = self._work.timeout
        for worker in list(self._workers):
            silent = worker.up and worker.n_left and now - worker.heard
            if timeout is not None and silent > timeout + SILENT_SECONDS:
                self._hangs(worker, news)
            elif worker.retired and not worker.n_left:
                self._end(worker)
                self._workers.remove(worker)
        self._cluster.look(begun=self._first is not None)

    # Leaving

    def _end(self, worker: Worker) -> None:
        if worker.host is not None:
            self._ray.kill(worker.host)
        else:
            self._ray.cancel(worker.stream, force=True)

    def close(self) -> None:
        if not self._ray.is_initialized():
            return
        ending = []
        for worker in self._workers:
            # Of plain tasks only what still has items: by the time that a kill arrived, the process of any other
            # could be at work for another map. A plain function holds its thread until it returns: its process must
            # end.
            if worker.host is not None and worker.up:
                ending.append(worker.host.close.remote())
            elif worker.host is None and worker.n_left:
                self._ray.cancel(worker.stream, force=not self._work.waits)
                ending.append(worker.stream.completed())
        if ending:  # until then items could begin
            self._ray.wait(ending, num_returns=len(ending), timeout=CLOSE_SECONDS, fetch_local=False)
        for worker in self._workers:
            if worker.host is not None:
                self._ray.kill(worker.host)
        self._cluster.close()
        self._workers.clear()


_STREAMING = {"num_returns": "streaming", "_generator_backpressure_num_objects": MAX_UNREAD}

_NOT_FOR_ACTORS = frozenset({"max_calls", "max_retries", "retry_exceptions", "num_returns", "name"})


def _for_actors(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _NOT_FOR_ACTORS}


def _deaths(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises when a worker, its node, or a value that it streamed is gone."""
    errors = ray.exceptions
    return (
        errors.WorkerCrashedError,
        errors.NodeDiedError,
        errors.LocalRayletDiedError,
        errors.OutOfMemoryError,
        errors.ObjectLostError,
        errors.TaskCancelledError,
        errors.RayActorError,
    )
