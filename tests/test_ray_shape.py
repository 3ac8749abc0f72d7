"""How a map lies on a Ray cluster, told from the cluster's own description of its nodes."""

from __future__ import annotations

import pytest

from themis.backends._cluster import Places, Shape, check_feasible, shape
from themis.errors import ExecutionError


def node(alive=True, **resources):
    """A node as Ray describes it."""
    return {"Alive": alive, "Resources": {**resources, "node:127.0.0.1": 1.0, "object_store_memory": 2e8}}


@pytest.mark.parametrize(
    ("nodes", "options", "limit", "waits", "expected"),
    [
        ([node(CPU=2)], {"num_cpus": 0.5}, 64, False, Shape(2, 4, 8, 2)),
        ([node(CPU=2)], {"num_cpus": 0.5}, 1, False, Shape(1, 4, 0, 2)),
        ([node(CPU=64)], {"num_cpus": 0.5}, 64, True, Shape(4, 128, 0, 64)),
        ([node(CPU=0), node(CPU=4), node(CPU=4)], {"num_cpus": 0.5}, 512, True, Shape(8, 16, 6, 4)),
        ([node(CPU=8, GPU=1)], {"num_cpus": 1, "num_gpus": 1}, 64, True, Shape(1, 1, 0, 8)),
        ([node(CPU=4), node(alive=False, CPU=64)], {"num_cpus": 1}, 64, False, Shape(4, 4, 8, 4)),
        ([node(CPU=0)], {"num_cpus": 0.5}, 64, False, Shape(1, 1, 0, 0)),
        ([node(CPU=16, big=2)], {"num_cpus": 0, "resources": {"big": 1}}, 64, False, Shape(2, 2, 3, 16)),
    ],
)
def test_shape(nodes, options, limit, waits, expected):
    """Workers: one per CPU for plain functions, one per 16 coroutines in progress, and nodes for more."""
    assert shape(nodes, options, limit, waits=waits) == expected


def test_what_no_node_has_is_an_error_with_both_sides():
    """The error says what was asked for and what the nodes have."""
    with pytest.raises(ExecutionError, match=r"CPU=0\.5, magic=1: the nodes have CPU=2.*task_options"):
        check_feasible([node(CPU=2)], {"num_cpus": 0.5, "resources": {"magic": 1}})


def test_what_some_node_has_is_feasible():
    """One node with enough is enough, however busy it is."""
    check_feasible([node(CPU=1), node(CPU=8, GPU=2)], {"num_cpus": 4, "num_gpus": 1})


def test_a_worker_is_placed_where_the_fewest_share_the_cpus():
    """Of the nodes that have what is asked the emptiest for its size is chosen; one alone, or none, is left to Ray."""
    nodes = [
        {"NodeID": "head", **node(CPU=0)},
        {"NodeID": "small", **node(CPU=2)},
        {"NodeID": "large", **node(CPU=8)},
        {"NodeID": "gone", **node(alive=False, CPU=64)},
    ]
    asks = {"num_cpus": 0.5}

    assert Places(nodes, asks, []).emptiest() == "large"
    assert Places(nodes, asks, ["large"] * 4).emptiest() == "small"
    assert Places(nodes, asks, ["large"] * 4 + ["small"]).emptiest() == "large"
    assert Places(nodes, asks, [], full={"large"}).emptiest() == "small"
    assert Places(nodes, {"num_cpus": 4}, []).emptiest() is None
    assert Places(nodes[:2], asks, []).emptiest() is None


@pytest.mark.parametrize(
    ("used", "expected"),
    [("aabb", "a"), ("abb", "b"), ("abc", None), ("aabc", None), ("", None), ("aaxx", "a")],
)
def test_a_node_is_too_full_where_another_would_be_less_so_with_one_more(used, expected):
    """Of three nodes of two CPUs one gives up a worker as long as that makes the fullest emptier, and no further."""
    nodes = [{"NodeID": name, **node(CPU=2)} for name in "abc"]

    assert Places(nodes, {"num_cpus": 0.5}, used).too_full() == expected


def test_places_are_counted_by_what_is_asked():
    """Workers with a GPU each go where the GPUs are, whatever the CPUs, and never more to a node than it has."""
    nodes = [{"NodeID": "few", **node(CPU=128, GPU=1)}, {"NodeID": "many", **node(CPU=16, GPU=3)}]
    asks = {"num_cpus": 1, "num_gpus": 1}

    assert Places(nodes, asks, ["few"]).emptiest() == "many"
    assert Places(nodes, asks, ["few", "many"]).too_full() is None  # a model that is loaded stays where it is
    assert Places(nodes, asks, ["few", "many", "many"]).emptiest() == "many"
    assert Places(nodes, asks, ["few", "many", "many", "many"]).emptiest() is None
