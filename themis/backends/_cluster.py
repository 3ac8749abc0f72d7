"""What a Ray cluster has room for."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOTS_PER_LOOP = 16
"""Coroutines in progress that make another process worth its start."""


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
