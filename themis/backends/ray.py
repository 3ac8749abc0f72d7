"""RayExecutionBackend: items on the workers of a Ray cluster.

Few remote tasks run many items each, because a task costs about 1 ms whatever it does and model calls wait on a
network. The driver gives each task a lease on some items and streams their results back. Ray's own retries are off: a
streaming task that Ray starts again goes on at the old position with other results, so items get lost and doubled
without an error. Instead the driver runs again exactly the items for which it has no result.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from themis.backends._engine import Crew, Loss, Progress
from themis.backends._lease import run_lease
from themis.backends._slots import Outcome, Task, is_coroutine_function
from themis.backends._wire import pack_function, pack_tasks, unpack_outcomes
from themis.backends.execution import EngineBackend, positive
from themis.errors import ExecutionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

LEASE_DEPTH = 8
"""Items of a lease per slot: deep enough that a slot rarely waits for the driver."""

SLOTS_PER_LOOP = 16
"""Coroutines in progress that make another process worth its start."""

TASK_CPUS = 0.5
"""CPUs that a task asks for: a lease may begin beside one whose last items are still running."""

CONNECT_SECONDS = 5.0
"""How long a cluster's head may take to accept a connection."""

_session_lock = threading.Lock()


class RayExecutionBackend(EngineBackend):
    """Runs items on a Ray cluster; an item's worker may die without the item being lost.

    Args:
        address: Of a cluster's head ("host:port", or "auto" for the one on this machine). None: the session that is
            already initialised, else RAY_ADDRESS, else a Ray of its own on this machine.
        num_cpus: Size of the Ray that the backend starts; default all CPUs of this machine.
        task_options: What each task asks of Ray, as for `ray.remote(...).options()`: num_cpus, num_gpus, resources,
            runtime_env, scheduling_strategy, ...

    Nothing starts before the first result is asked for. `shutdown` ends a Ray that this backend started, no other.
    """

    concurrent = True
    isolates_crashes = True

    def __init__(
        self,
        address: str | None = None,
        num_cpus: int | None = None,
        *,
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if address is not None and num_cpus is not None:
            raise UsageError(
                f"address={address!r} is a cluster that runs, num_cpus={num_cpus} the size of one to start: give one. "
                "What each task asks for is task_options={'num_cpus': ...}"
            )
        self._address = address
        self._num_cpus = None if num_cpus is None else positive("num_cpus", num_cpus)
        self._task_options = dict(task_options or {})
        for name in ("num_returns", "max_retries", "retry_exceptions"):
            if name in self._task_options:
                raise UsageError(
                    f"task_options[{name!r}] belongs to the backend, which streams and runs again by itself"
                )
        self._started = False

    def _crew(self, func: Callable[[Any], Any], limit: int, timeout: float | None) -> Crew:
        key, data = pack_function(func)  # first: a mistake in it should not wait for Ray to start
        ray = self._session()
        waits = is_coroutine_function(func)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        options = {
            "num_cpus": TASK_CPUS,
            "scheduling_strategy": "SPREAD",
            "name": f"themis:{getattr(func, '__qualname__', type(func).__qualname__)}",
            **self._task_options,
            "num_returns": "streaming",
            "max_retries": 0,
        }
        task = ray.remote(run_lease).options(**options)
        processes = min(cpus, ceil(limit / SLOTS_PER_LOOP) if waits else limit)
        return _RayCrew(ray, task, (key, ray.put(data)), timeout, limit, processes, preempt=not waits)

    def _session(self) -> Any:
        """The ray module, with a session."""
        import ray

        with _session_lock:
            if ray.is_initialized():
                self._check_address(ray)
            else:
                self._init(ray)
        return ray

    def _check_address(self, ray: Any) -> None:
        running = ray.get_runtime_context().gcs_address
        if self._address not in {None, "auto", "local", running}:
            raise UsageError(
                f"this process already uses the Ray at {running}; RayExecutionBackend(address={self._address!r}) "
                "would need another one: leave the address out, or call ray.shutdown() first"
            )

    def _init(self, ray: Any) -> None:
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        check_address(address)
        check_reachable(address)
        # Ray would otherwise upload the working directory and build an environment on every worker under `uv run`.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": self._num_cpus}
        try:
            ray.init(address=address, **options)
        except ConnectionError as error:
            raise ExecutionError(f"no Ray cluster answers at {address!r}: {error}. {_NO_CLUSTER}") from error
        self._started = True
        logger.info("Ray session at %s", ray.get_runtime_context().gcs_address)

    def describe(self) -> dict[str, Any]:
        """The type, and the shape of the cluster while there is a session."""
        import ray

        if not ray.is_initialized():
            return super().describe()
        resources = ray.cluster_resources()
        shape = {name: resources[name] for name in ("CPU", "GPU", "memory") if name in resources}
        return {**super().describe(), "nodes": sum(node["Alive"] for node in ray.nodes()), "resources": shape}

    def shutdown(self) -> None:
        if self._started:
            self._started = False
            import ray

            ray.shutdown()


def check_address(address: str) -> None:
    """Raise UsageError for an address that is no cluster's head but a door to one."""
    if address.startswith("ray://"):
        raise UsageError(
            f"{address!r} is a Ray client address; themis runs its driver on the cluster: `ray job submit --address "
            "http://HEAD:8265 -- themis eval ... --backend ray`, or give HEAD:6379 on a machine of the cluster"
        )
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"{address!r} is a dashboard's address, which takes jobs: `ray job submit --address {address} -- themis "
            "eval ... --backend ray`. As a backend's address (or RAY_ADDRESS) give the head's HOST:6379"
        )


_NO_CLUSTER = (
    "Start one with `ray start --head`, correct the address or RAY_ADDRESS, or leave both out for a Ray on this machine"
)


def check_reachable(address: str) -> None:
    """Connect to a head and hang up: Ray itself would try for minutes.

    Raises:
        UsageError: It is not HOST:PORT.
        ExecutionError: Nothing listens there.
    """
    if address in {"local", "auto"}:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{address!r} is no address of a Ray cluster; give the head's HOST:PORT, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ExecutionError(f"no Ray cluster answers at {address!r}: {error}. {_NO_CLUSTER}") from error


@dataclass(eq=False)
class _Lease:
    """Items that one Ray task has, in the order in which they begin."""

    stream: Any
    tasks: dict[int, Task]
    size: int

    def in_progress(self) -> int:
        return min(self.size, len(self.tasks))


class _RayCrew(Crew):
    """The leases of one map. At most `limit` items are in progress over all of them.

    A lease has slots for a share of the limit and several items for each. Slots that fall idle when leases run out of
    items are free at once, and a share of them is the next lease: it does not wait for the last item of another.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        ray: Any,
        task: Any,
        function: tuple[str, Any],
        timeout: float | None,
        limit: int,
        processes: int,
        *,
        preempt: bool,
    ) -> None:
        self._ray = ray
        self._task = task
        self._function = function
        self._timeout = timeout
        self._limit = limit
        self._share = ceil(limit / processes)
        self._least = max(1, limit // processes)
        self._preempt = preempt
        self._leases: list[_Lease] = []
        self._unsendable: list[Outcome] = []

    def _free(self) -> int:
        return self._limit - sum(lease.in_progress() for lease in self._leases)

    def wants(self, waiting: int) -> int:
        free = self._free()
        if free < min(waiting, self._least):
            return 0  # a lease of a few slots costs as much as one of many: fragments would add up
        even = ceil(waiting / max(1, round(free / self._share)))
        return min(LEASE_DEPTH * min(free, self._share), even)

    def submit(self, tasks: list[Task]) -> None:
        data, unsendable = pack_tasks(tasks)
        self._unsendable += unsendable
        lost = {outcome[0] for outcome in unsendable}
        leased = {task.index: task for task in tasks if task.index not in lost}
        if leased:
            size = min(len(leased), self._share, max(1, self._free()))
            stream = self._task.remote(*self._function, data, size, self._timeout)
            self._leases.append(_Lease(stream, leased, size))

    def wait(self, timeout: float | None) -> Progress:
        if self._unsendable:
            outcomes, self._unsendable = self._unsendable, []
            return Progress(outcomes)
        progress = Progress([], [])
        for lease in self._ready(timeout):
            self._read(lease, progress)
        return progress

    def _ready(self, timeout: float | None) -> list[_Lease]:
        streams = [lease.stream for lease in self._leases]
        if not self._ray.wait(streams, timeout=timeout, fetch_local=False)[0]:
            return []
        ready = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]
        known = {id(stream) for stream in ready}
        return [lease for lease in self._leases if id(lease.stream) in known]

    def _read(self, lease: _Lease, progress: Progress) -> None:
        """Take one streamed value of a lease, or its end."""
        reason = "its worker ended before its last item"
        try:
            data = self._ray.get(next(lease.stream))
        except StopIteration:
            data = None
        except _deaths(self._ray) as error:
            data, reason = None, f"{type(error).__name__}: {error}"
        except self._ray.exceptions.RayError as error:
            raise ExecutionError(f"Ray could not run a task: {error}") from error
        if data is not None:
            outcomes = unpack_outcomes(data)
            for index, _, _ in outcomes:
                lease.tasks.pop(index, None)
            progress.outcomes.extend(outcomes)  # type: ignore[attr-defined]
            return
        self._leases.remove(lease)
        if lease.tasks:
            logger.warning("%d items run again: %s", len(lease.tasks), reason.splitlines()[0])
            loss = Loss(list(lease.tasks.values()), lease.in_progress(), reason)
            progress.losses.append(loss)  # type: ignore[attr-defined]

    def close(self) -> None:
        if not self._ray.is_initialized():
            return
        for lease in self._leases:
            # Only what still has items: by the time that a kill arrived, the process of any other lease could be
            # at work for another map. A plain function holds its thread until it returns: its process must end.
            if lease.tasks:
                self._ray.cancel(lease.stream, force=self._preempt)
        self._leases.clear()


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
    )
