"""The Ray engine on a real cluster of several nodes: spread over them, used when new, nothing lost when they go.

The nodes are Ray's own `cluster_utils.Cluster`, all on this machine. One process holds one Ray, so that these tests
need a pytest process of their own: `pytest -m nodes`. Ray takes about 14 s to notice that a node is lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from functools import partial
from itertools import count

import pytest
from test_cluster import alive, wait_until
from test_faults import NORMAL, SOAK, Diary, killer, stored_ids, within

from themis import evaluate
from themis.backends import LocalExecutionBackend, RayExecutionBackend
from themis.testing import ModelServer

pytestmark = pytest.mark.nodes

WORKERS = 16
USED_SECONDS = 20.0
"""How long a map may take to notice that a node has joined."""
NOTICE_SECONDS = 60.0
"""How long after the loss of a node everything must be through; Ray needs 14 of them to notice."""


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, on which the driver is, and two nodes with two CPUs each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=2)
        ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def diary(tmp_path):
    """An empty diary."""
    return Diary(tmp_path / "diary")


def here():
    """The id of the node that this runs on."""
    import ray

    return ray.get_runtime_context().get_node_id()


def stay(diary, mean, x):
    """The item, and where it was, after a random time, another one each time that it runs."""
    diary.write(x)
    time.sleep(random.uniform(0, 2 * mean))
    return x, here()


async def stay_async(diary, mean, x):
    """The same on the event loop."""
    diary.write(x)
    await asyncio.sleep(random.uniform(0, 2 * mean))
    return x, here()


def large(diary, mean, x):
    """The same; the item comes back as a megabyte, which stays on the node until the driver has fetched it."""
    diary.write(x)
    time.sleep(random.uniform(0, 2 * mean))
    return x.to_bytes(4, "big") * 250_000, here()


class Consumer:
    """A thread that takes the results of a map; what came, from which node, and when."""

    def __init__(self, func, items, max_workers=WORKERS, backend=None, **options):
        self.results, self.nodes, self.clocks, self.error = [], [], {}, None
        self._left = False
        self._map = (backend or RayExecutionBackend()).map(func, items, max_workers=max_workers, **options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for value, node in self._map:
                self._take(value, node)
                if self._left:
                    break
            self._map.close()
        except BaseException as error:
            self.error = error

    def _take(self, value, node):
        x = value if isinstance(value, int) else int.from_bytes(value[:4], "big")
        assert isinstance(value, int) or value == x.to_bytes(4, "big") * 250_000
        self.clocks[x] = time.monotonic()
        self.nodes.append(node)
        self.results.append(x)

    def alive(self):
        """Whether there is more to come."""
        return self._thread.is_alive()

    def through(self, seconds):
        """All results; the map's own error where it has one."""
        self._thread.join(seconds)
        assert not self.alive(), f"{len(self.results)} results, and no end within {seconds} s"
        if self.error is not None:
            raise self.error
        return self.results

    def leave(self):
        """The results so far, and an end to the map."""
        self._left = True
        return self.through(10)


@pytest.mark.parametrize("func", [stay, stay_async])
def test_work_is_spread_over_the_nodes(cluster, diary, func):
    """With a head that has no CPUs every worker node does its part of a map before long, and the head none."""
    workers = {node.node_id for node in cluster.worker_nodes}
    consumer = Consumer(partial(func, diary, 0.02), count(), max_workers=32)

    def spread():
        late = consumer.nodes[-400:]
        return len(late) == 400 and min(late.count(node) for node in workers) >= 400 / len(workers) / 4

    try:
        wait_until(spread, "a part for each node", 40)
    finally:
        results = consumer.leave()

    assert results == list(range(len(results)))
    assert set(consumer.nodes) == workers


@pytest.mark.parametrize("func", [stay, stay_async])
def test_a_node_that_others_have_filled_holds_up_no_map(cluster, diary, func):
    """While another job has all CPUs of one node, a map runs on the other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    full, free = cluster.worker_nodes

    class Other:
        def there(self):
            import ray  # in the method, because the class travels to workers without this module

            return ray.get_runtime_context().get_node_id()

    strategy = NodeAffinitySchedulingStrategy(full.node_id, soft=False)
    other = ray.remote(Other).options(num_cpus=2, scheduling_strategy=strategy).remote()
    assert ray.get(other.there.remote()) == full.node_id
    try:
        with within(40):
            results = list(RayExecutionBackend().map(partial(func, diary, 0.02), range(400), max_workers=8))
    finally:
        ray.kill(other)

    assert [x for x, _ in results] == list(range(400))
    assert {node for _, node in results} == {free.node_id}


@pytest.mark.parametrize(
    "number", [*range(NORMAL), *(pytest.param(n, marks=pytest.mark.soak) for n in range(NORMAL, NORMAL + SOAK))]
)
def test_killed_workers_on_several_nodes(cluster, diary, number):
    """With random SIGKILLs on every node, and one of all workers at once, the results are exactly the expected ones."""
    func = stay_async if number % 2 else stay
    ordered = number % 4 < 2
    items = range(2_000)

    with killer(diary.pids, 2, "nodes", number) as kills:
        consumer = Consumer(partial(func, diary, 0.016), items, ordered=ordered)
        wait_until(lambda: len(consumer.results) > 500, "the first results", 30)
        for pid in filter(alive, diary.pids()):
            os.kill(pid, signal.SIGKILL)
        results = consumer.through(60)

    assert kills.killed
    assert (results if ordered else sorted(results)) == list(items)
    assert diary.begun_after(consumer.clocks) == []


@pytest.mark.parametrize("func", [stay, pytest.param(stay_async, marks=pytest.mark.soak)])
def test_a_node_that_joins_is_used(cluster, diary, func):
    """A node that joins while a map runs gets a part of its items before long."""
    consumer = Consumer(partial(func, diary, 0.05), count(), max_workers=64)
    wait_until(lambda: len(consumer.results) > 100, "the first results", 30)

    joined = cluster.add_node(num_cpus=2)
    try:
        wait_until(lambda: joined.node_id in consumer.nodes, "work on the node that joined", USED_SECONDS)
    finally:
        results = consumer.leave()
        cluster.remove_node(joined)

    assert results == list(range(len(results)))


class UntilLost:
    """Numbers from 0 for as long as no node was lost, and so many more; any number of maps may draw on their own."""

    def __init__(self, more):
        self.lost = threading.Event()
        self._more = more

    def numbers(self):
        """As many as are taken until then, and the rest."""
        for number in count():
            yield number
            if self.lost.is_set():
                break
        yield from range(number + 1, number + 1 + self._more)


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 1 + SOAK))])
def test_a_lost_node_costs_nothing(cluster, tmp_path, number):
    """When a node vanishes, maps of either kind, results of a megabyte and an evaluation end exactly as without it."""
    diaries = [Diary(tmp_path / f"diary-{n}") for n in range(3)]
    until = UntilLost(more=100)
    rows = []

    def questions():
        for n in until.numbers():
            rows.append({"question": f"q{n}", "answer": str(n)})
            yield rows[-1]

    def ask(rows, place, backend):
        return evaluate(rows, "openai/m", base_url=server.base_url, storage=tmp_path / place, execution_backend=backend)

    with ModelServer(lambda prompt: prompt.removeprefix("q"), latency=0.1) as server:
        small = RayExecutionBackend(task_options={"num_cpus": 0.25})  # so that there is room for all four at once
        maps = [
            Consumer(partial(stay, diaries[0], 0.04), until.numbers(), backend=small),
            Consumer(partial(stay_async, diaries[1], 0.04), until.numbers(), backend=small, ordered=False),
            Consumer(partial(large, diaries[2], 0.2), until.numbers(), backend=small, ordered=False),
        ]
        evaluated = later(lambda: ask(questions(), "ray", small))
        try:
            lose_a_node(cluster, maps, random.Random(number).uniform(0.0, 1.0))
        finally:  # else what is endless would go on beside the tests that follow
            until.lost.set()
        results = [each.through(NOTICE_SECONDS) for each in maps]
        result = evaluated(NOTICE_SECONDS)
        server.latency = 0.0
        expected = ask(rows, "local", LocalExecutionBackend())

    assert results[0] == list(range(len(results[0])))
    assert sorted(results[1]) == list(range(len(results[1])))
    assert sorted(results[2]) == list(range(len(results[2])))
    assert min(map(len, results)) > 100
    assert [diary.begun_after(each.clocks) for diary, each in zip(diaries, maps, strict=True)] == [[], [], []]
    assert result.report.status == "complete"
    assert result.report.metrics == expected.report.metrics
    assert sorted(stored_ids(tmp_path / "ray" / result.run_id)) == sorted(g.id for g in expected.generations)


def later(call):
    """What the call gives, as a function that waits so many seconds for it; meanwhile it runs on a thread."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(call()), daemon=True)
    thread.start()

    def result(seconds):
        thread.join(seconds)
        assert outcome, f"no result within {seconds} s, or an error that the thread has shown"
        return outcome[0]

    return result


def lose_a_node(cluster, maps, seconds):
    """Remove, without a farewell, a node that has worked for each of the maps; after so many seconds more."""

    def in_use():
        assert not any(each.error for each in maps), [each.error for each in maps]
        common = set.intersection(*(set(each.nodes) for each in maps))
        return [node for node in cluster.worker_nodes if node.node_id in common]

    wait_until(in_use, "a node that has worked for each map", 60)
    time.sleep(seconds)
    doomed = in_use()[0]
    assert all(each.alive() for each in maps), "the maps were over before the node was"
    cluster.remove_node(doomed, allow_graceful=False)
    cluster.add_node(num_cpus=2)  # the tests after this one find as many as before
