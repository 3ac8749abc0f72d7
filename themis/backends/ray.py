"""RayExecutionBackend: items on the workers of a Ray cluster.

Few remote tasks run many items each, because a task costs about 1 ms whatever it does and model calls wait on a
network. The driver keeps a lease on the items of each and streams their results back. Ray's own retries are off: a
streaming task that Ray starts again goes on at the old position with other results, so items get lost and doubled
without an error. Instead the driver runs again exactly the items for which it has no result.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from themis.backends._ray_crew import RayCrew
from themis.backends._slots import is_coroutine_function
from themis.backends._staff import Work
from themis.backends._wire import pack_function
from themis.backends.execution import EngineBackend, positive
from themis.errors import ExecutionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from themis.backends._crew import Crew

logger = logging.getLogger(__name__)

TASK_CPUS = 0.5
"""CPUs that a worker asks for: beside one for each CPU there is room for those that run suspects alone."""

CONNECT_SECONDS = 5.0
"""How long a cluster's head may take to accept a connection."""

_ENVIRONMENT = {
    # Ray would otherwise upload the working directory and build an environment on every worker under `uv run`.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Printed to stdout, whatever is said about logs. The backend has its own word on it, through `logging`.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing a task",
}

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
    preempts = True

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
        work = Work(
            name=f"themis:{getattr(func, '__qualname__', type(func).__qualname__)}",
            key=key,
            function=ray.put(data),
            timeout=timeout,
            limit=limit,
            waits=is_coroutine_function(func),
            options={"num_cpus": TASK_CPUS, **self._task_options},
            may_grow=not self._started and not self._task_options,
        )
        try:
            return RayCrew(ray, work)
        except (ValueError, TypeError) as error:  # of `.options()`, which checks names and values
            raise UsageError(f"task_options={self._task_options!r}: {error}") from error

    def _session(self) -> Any:
        """The ray module, with a session."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
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
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": self._num_cpus}
        try:
            ray.init(address=address, **options)
        except ConnectionError as error:
            raise ExecutionError(f"no Ray cluster answers at {address!r}: {error}. {_NO_CLUSTER}") from error
        except RuntimeError as error:
            if "Version mismatch" not in str(error):
                raise
            raise ExecutionError(
                f"the cluster at {address!r} runs another Ray or Python than this process: {error}. Install the "
                "cluster's versions here, or submit a job, which runs there: `ray job submit -- themis eval ...`"
            ) from error
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
