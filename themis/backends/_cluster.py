"""What a Ray cluster has room for."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

SLOTS_PER_LOOP = 16
"""Coroutines in progress that make another process worth its start."""

COUNT_SECONDS = 2.0
"""How often the nodes are counted again."""

FULL_SECONDS = 60.0
"""How long a node that took no worker is offered none."""

MAX_NODES_ASKED = 8
"""Nodes that one map asks an autoscaler for at the same time."""


class Shape(NamedTuple):
    """How a map lies on a cluster.

    Attributes:
        processes: Workers among which the items in progress are shared.
        tasks: Ray tasks that fit on the cluster at the same time.
        more_nodes: Nodes that it could use beside those that are there.
        node_cpus: CPUs of the largest node.
    """

    processes: int
    tasks: int
    more_nodes: int = 0
    node_cpus: int = 0


def asked(options: Mapping[str, Any]) -> dict[str, float]:
    """Amount of each resource that a task with these options asks for."""
    amounts = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    amounts |= options.get("resources") or {}
    return {name: float(amount) for name, amount in amounts.items() if amount}


def shape(nodes: list[dict[str, Any]], options: Mapping[str, Any], limit: int, *, waits: bool) -> Shape:
    """How many workers `limit` items in progress make on these nodes; at least one, be it pending."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = int(sum(node.get("CPU", 0) for node in resources))
    ask = asked(options)
    tasks = sum(_fits(node, ask) for node in resources) if ask else limit
    wanted = ceil(limit / SLOTS_PER_LOOP) if waits else limit
    largest = int(max((node.get("CPU", 0) for node in resources), default=0))
    more = min(MAX_NODES_ASKED, ceil(max(0, wanted - cpus) / largest)) if largest else 0
    return Shape(max(1, min(wanted, cpus or 1, tasks)), max(1, tasks), more, largest)


def _fits(node: Mapping[str, float], ask: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in ask.items())


class Places:
    """The nodes on which workers may be, and how crowded each is with those that there are.

    Args:
        nodes: As Ray describes them.
        options: What a worker asks for.
        used: For each worker that there is, the id of its node.
        full: Nodes that others have filled.
    """

    def __init__(
        self, nodes: list[dict[str, Any]], options: Mapping[str, Any], used: Iterable[str], full: Container[str] = ()
    ) -> None:
        ask = asked(options) or {"CPU": 0.5}
        self._exclusive = bool(ask.keys() - {"CPU", "memory"})
        fits = {node["NodeID"]: _fits(node["Resources"], ask) for node in nodes if node["Alive"]}
        self._fits = {node: number for node, number in fits.items() if number}
        self._counts = Counter(node for node in used if node in self._fits)
        self._full = full

    def _crowded(self, node: str, more: int = 0) -> float:
        """The part of a node's places that are taken, with so many workers more."""
        return (self._counts[node] + more) / self._fits[node]

    def emptiest(self) -> str | None:
        """Where one more worker has the fewest beside it; None where there is no choice."""
        free = [node for node in self._fits if node not in self._full and self._crowded(node, 1) <= 1]
        return min(free, key=lambda node: self._crowded(node, 1)) if free and len(self._fits) > 1 else None

    def too_full(self) -> str | None:
        """Where there should be one worker less, because the emptiest node would still be less crowded with it.

        None where workers have something to themselves, a GPU perhaps: they are not in each other's way.
        """
        emptiest = self.emptiest()
        if emptiest is None or not self._counts or self._exclusive:
            return None
        fullest = max(self._counts, key=self._crowded)
        return fullest if self._crowded(fullest) > self._crowded(emptiest, 1) else None


def check_feasible(nodes: list[dict[str, Any]], options: Mapping[str, Any]) -> None:
    """Nothing, where some node has what a task asks for.

    Raises:
        ExecutionError: No node has it, however long one waits.
    """
    ask = asked(options)
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if not ask or any(_fits(node, ask) for node in resources):
        return
    has = "; ".join(sorted({_words(node) for node in resources})) or "no node at all"
    raise ExecutionError(
        f"no node of the Ray cluster can run a task that asks for {_words(ask)}: the nodes have {has}. "
        "Ask for less (task_options), or start a node that has it"
    )


def _words(amounts: Mapping[str, float]) -> str:
    kinds = {name: amount for name, amount in amounts.items() if not name.startswith(("node:", "object_store"))}
    return ", ".join(f"{name}={amount:g}" for name, amount in sorted(kinds.items())) or "nothing"


@cache
def remote(ray: Any, target: Any) -> Any:
    """The function or class as Ray knows it; made once, because Ray sends it to the cluster once for each making."""
    return ray.remote(target)


def found() -> None:
    """Nothing: what asked for an empty node has found one."""


class Cluster:
    """The nodes that a map may use, counted again now and then.

    Args:
        ray: The module, with a session.
        name: Of the map's tasks.
        options: What each of them asks for.
        limit: Items in progress.
        waits: Of a coroutine function.
        may_grow: There may be an autoscaler, which is shown how many more nodes would be used.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self, ray: Any, name: str, options: Mapping[str, Any], limit: int, waits: bool, may_grow: bool
    ) -> None:
        self._ray = ray
        self._name = name
        self._options = options
        self._limit = limit
        self._waits = waits
        self._may_grow = may_grow
        self._scout = remote(ray, found)
        self._scouts: list[Any] = []
        self._refused: dict[str, float] = {}
        self._count(ray.nodes())

    def _count(self, nodes: list[dict[str, Any]]) -> None:
        self._counted = time.monotonic()
        self._nodes = nodes
        self.shape = shape(nodes, self._options, self._limit, waits=self._waits)

    def places(self, used: Iterable[str]) -> Places | None:
        """How crowded the nodes are with workers on these; None where it is the user who says where they are."""
        if "scheduling_strategy" in self._options:
            return None
        since = time.monotonic() - FULL_SECONDS
        full = {node for node, refused in self._refused.items() if refused > since}
        return Places(self._nodes, self._options, used, full)

    def refuse(self, node: str) -> None:
        """Note that a node took no worker: others have filled it, or it is gone."""
        self._refused[node] = time.monotonic()

    def look(self, *, begun: bool) -> bool:
        """Count again and return True, if it is time; `begun` says that some task has found its place.

        Raises:
            ExecutionError: None has, and none ever will.
        """
        if time.monotonic() - self._counted <= COUNT_SECONDS:
            return False
        nodes = self._ray.nodes()
        self._count(nodes)
        if not begun:
            check_feasible(nodes, self._options)
        if self._may_grow:
            self._ask_for_nodes()
        return True

    def _ask_for_nodes(self) -> None:
        """Let the cluster's autoscaler see that more nodes would be used.

        Workers that wait for a CPU would show it too, but on a cluster that does not grow they would squeeze
        themselves in. What asks for a whole node waits until there is an empty one, and then it is over at once.
        """
        if self._scouts:
            _, self._scouts = self._ray.wait(self._scouts, num_returns=len(self._scouts), timeout=0)
        scout = self._scout.options(num_cpus=self.shape.node_cpus, max_retries=0, name=self._name)
        self._scouts += [scout.remote() for _ in range(self.shape.more_nodes - len(self._scouts))]

    def close(self) -> None:
        """Ask for nothing any more."""
        for scout in self._scouts:
            self._ray.cancel(scout)
        self._scouts.clear()
