"""The workers of a map on Ray: started, told, listened to, ended. How much each gets is the crew's to decide."""

from __future__ import annotations

import logging
import os
import pickle
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.backends._cluster import remote
from themis.backends._feed import Door
from themis.backends._host import (
    ACTOR_IDLE_SECONDS,
    IDLE_SECONDS,
    OVER,
    STUCK,
    UNREACHABLE,
    ActorHost,
    Order,
    serve,
)
from themis.backends._wire import unpack_runs
from themis.backends._worker import Tempo, Worker
from themis.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from themis.backends._crew import News

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 0.4
"""How long closing waits for workers to show by their end that they begin nothing more."""

KILL_AFTER = 0.1
"""How long it waits before it kills those in which a plain function runs on."""

SILENT_SECONDS = 2.0
"""A worker that said nothing for longer than its items' timeout and this is taken to hang."""

MAX_UNREAD = 256
"""Messages of a worker that may wait for the driver; then it stops sending, and keeps its CPU while it waits.

Another map of the same consumer may need that CPU before this one is taken from again.
"""

FETCH_SECONDS = 5.0
"""How long a message may be on its way until one asks whether its node is still there."""

MAX_UNREACHABLE = 3
"""Workers that may fail to connect where others did, before none is asked to."""

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


class Staff:
    """The workers of one map.

    Attributes:
        workers: Those that were started and have not ended.
        tempo: Of their items.
        nodes: Where any of them has been.
        begun: When the first of all spoke.
        away: Seconds that nobody listened for, lately.
    """

    def __init__(self, ray: Any, work: Work) -> None:
        self._ray = ray
        self._work = work
        options = {"scheduling_strategy": "SPREAD", **work.options}
        self._for_tasks = {**options, **_STREAMING, "name": work.name, "max_retries": 0}
        self._for_actors = {**_for_actors(options), "max_concurrency": 2, "max_restarts": 0}
        remote(ray, serve).options(**self._for_tasks)  # a name or a value that is wrong is found here
        self._door = _open_door(ray)
        self._ending: list[Worker] = []  # that nobody listens to any more
        self._unreachable = 0
        self._false_starts = 0
        self._left_at = time.monotonic()
        self.workers: list[Worker] = []
        self.tempo = Tempo()
        self.nodes: set[str] = set()
        self.begun: float | None = None
        self.away = 0.0

    def start(self, node: str | None, linger: float) -> Worker:
        """One more worker, on that node where one is named, whose results of so many seconds travel together."""
        self._check_session()
        work = self._work
        idle = ACTOR_IDLE_SECONDS if self._door is None else IDLE_SECONDS
        order = Order(work.key, work.timeout, linger, work.waits or self.tempo.waits, idle)
        where = {} if node is None else {"scheduling_strategy": self._on(node)}
        task, actor_class = remote(self._ray, serve), remote(self._ray, ActorHost)
        if self._door is not None:
            address, lane = self._door.lane()
            worker = Worker(task.options(**self._for_tasks | where).remote(work.function, order, address), lane)
        else:
            actor = actor_class.options(**self._for_actors | where).remote(work.function, order)
            stream = actor.messages.options(**_STREAMING, name=work.name).remote()
            worker = Worker(stream, _Calls(actor, work.name), actor)
        worker.node, worker.placed = node or "", node is not None
        self.workers.append(worker)
        return worker

    def _check_session(self) -> None:
        """Raise where Ray was shut down: asked for anything, it would start another session by itself."""
        if not self._ray.is_initialized():
            raise ExecutionError("Ray was shut down while a map ran on it: close the map before, or leave Ray be")

    def _on(self, node: str) -> Any:
        strategies = self._ray.util.scheduling_strategies
        return strategies.NodeAffinitySchedulingStrategy(node, soft=True)

    def dismiss(self, worker: Worker) -> None:
        """Ask no longer for a worker that has not spoken."""
        self._end(worker)
        self._remove(worker)
        self._ending.append(worker)

    # Listening

    def listen(self, timeout: float, news: News) -> None:
        """Wait up to so many seconds for messages, and add to the news what they say.

        Raises:
            ExecutionError: Ray was shut down meanwhile.
        """
        self._check_session()
        gap = time.monotonic() - self._left_at
        self.away = max(gap, 0.9 * self.away)
        for worker in self.workers:
            worker.heard += gap  # nobody listened: that silence is not theirs
        for worker in self._speaking(timeout):
            self._read(worker, news)
        self._find_silent(news)
        self._left_at = time.monotonic()

    def _speaking(self, timeout: float) -> list[Worker]:
        streams = [worker.stream for worker in self.workers]
        if not streams:
            time.sleep(timeout)
            return []
        if not self._ray.wait(streams, timeout=timeout, fetch_local=False)[0]:
            return []
        ready = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]
        known = {id(stream) for stream in ready}
        return [worker for worker in self.workers if id(worker.stream) in known]

    def _read(self, worker: Worker, news: News) -> None:
        """Take one message of a worker, or its end."""
        try:
            data = self._fetch(worker, next(worker.stream))
        except StopIteration:
            self._gone(worker, "its worker ended before its last item", news)
        except self._ray.exceptions.GetTimeoutError:
            self._end(worker)
            self._gone(worker, "its node is gone, and a result with it", news, by_node=True)
        except self._ray.exceptions.ObjectLostError as error:  # the worker itself may be alive
            self._end(worker)
            self._gone(worker, f"{type(error).__name__}: {error}", news)
        except _deaths(self._ray) as error:
            by_node = isinstance(error, self._ray.exceptions.NodeDiedError)
            self._gone(worker, f"{type(error).__name__}: {error}", news, by_node=by_node)
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
            self._meet(worker, data)
        elif data == STUCK:
            self._hangs(worker, news)
        elif data == OVER:
            self._left(worker, news)
        elif data:
            runs, pace = unpack_runs(data)
            self.tempo.note(worker.note(runs), pace, len(data))
            news.runs.extend(runs)

    def _left(self, worker: Worker, news: News) -> None:
        """A worker had nothing to do any more; what was sent since has not begun."""
        if worker.n_left:
            news.losses.append(worker.untouched())
        self._remove(worker)
        self._ending.append(worker)

    def _meet(self, worker: Worker, data: bytes) -> None:
        """A worker's first message: where it is, or that it cannot be reached."""
        if data.startswith(UNREACHABLE):
            self._remove(worker)
            self._unreachable += 1
            if self.begun is None or self._unreachable >= MAX_UNREACHABLE:
                self._give_up_feeding(data.removeprefix(UNREACHABLE).decode())
            return
        worker.up = True
        self.begun = self.begun or worker.heard
        self._false_starts = 0
        worker.node = pickle.loads(data)  # noqa: S301 - from our own worker
        self.nodes.add(worker.node)

    def _give_up_feeding(self, reason: str) -> None:
        if self._door is None:
            return
        logger.warning(
            "workers cannot connect to this process (%s): the map goes on in actors, which take a second to start. "
            "Let the nodes of the cluster reach each other's ports to avoid that",
            reason,
        )
        self._door.close()
        self._door = None

    def _hangs(self, worker: Worker, news: News) -> None:
        self._end(worker)
        self._gone(worker, "an item in it hung and held up its process", news, timeout=self._work.timeout)

    def _gone(
        self, worker: Worker, reason: str, news: News, *, timeout: float | None = None, by_node: bool = False
    ) -> None:
        self._remove(worker)
        if not worker.up:
            self._note_false_start(reason)
        elif worker.n_left:
            logger.warning("%d items run again: %s", worker.n_left, reason.splitlines()[0])
            news.losses.append(worker.loss(reason, self.tempo, timeout=timeout, by_node=by_node))

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.way.close()

    def _note_false_start(self, reason: str) -> None:
        self._false_starts += 1
        if self._false_starts >= MAX_FALSE_STARTS + 2 * len(self.workers):
            raise ExecutionError(
                f"{self._false_starts} workers in a row ended before they began to work, the last one so: {reason}"
            )

    def _find_silent(self, news: News) -> None:
        timeout = self._work.timeout
        if timeout is None:
            return
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.up and worker.n_left and now - worker.heard > timeout + SILENT_SECONDS:
                self._hangs(worker, news)

    # Leaving

    def _end(self, worker: Worker) -> None:
        if worker.actor is not None:
            self._ray.kill(worker.actor)
        else:
            self._ray.cancel(worker.stream, force=worker.up)

    def close(self) -> None:
        """End all workers; returns when nothing more can begin. Idempotent.

        Of those without items nothing is asked but to leave: by the time that a kill arrived, the process could be at
        work for another map.
        """
        if self._door is not None:
            self._door.close()
        if not self._ray.is_initialized():
            return
        for worker in self.workers:
            worker.way.leave()
        left = self._still_there(self.workers, CLOSE_SECONDS if self._work.waits else KILL_AFTER)
        busy = [worker for worker in left if worker.n_left or not worker.up]
        for worker in busy:
            self._end(worker)
        self._still_there(busy, CLOSE_SECONDS)
        self._still_there(self._ending, 0.0)
        for worker in self.workers:
            worker.way.close()
            if worker.actor is not None:
                self._ray.kill(worker.actor)
        self.workers.clear()

    def _still_there(self, workers: list[Worker], seconds: float) -> list[Worker]:
        """Those that have not ended within so many seconds."""
        ending = {worker.stream.completed(): worker for worker in workers}
        if not ending:
            return []
        ended, left = self._ray.wait(list(ending), num_returns=len(ending), timeout=seconds, fetch_local=False)
        for reference in ended:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(reference)  # an error that nobody asks for would be shown by Ray
        return [ending[reference] for reference in left]


class _Calls:
    """The way to an actor."""

    ended = False

    def __init__(self, actor: Any, name: str) -> None:
        self._put = actor.put.options(num_returns=0, name=name)
        self._leave = actor.leave.options(num_returns=0, name=name)

    def send(self, size: int, data: bytes) -> None:
        self._put.remote(size, data)

    def leave(self) -> None:
        self._leave.remote()

    def close(self) -> None:
        """There is nothing to close."""


def _open_door(ray: Any) -> Door | None:
    """Where workers connect to; None where a connection of their own must not be, or cannot."""
    if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
        return None  # items would travel in the clear
    host = ray.util.get_node_ip_address()
    try:
        return Door(host)
    except OSError as error:
        logger.warning("cannot listen on %s (%s): the map runs in actors, which take a second to start", host, error)
        return None


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
        errors.TaskCancelledError,
        errors.RayActorError,
    )
