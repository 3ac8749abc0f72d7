"""How items and results cross between processes: plain records together, everything else by itself."""

from __future__ import annotations

import gc
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from themis.backends._chunk import Chunk, Pace, Run
from themis.backends._wire import ItemPacker, pack_function, pack_runs, unpack_chunk, unpack_runs
from themis.errors import TaskError
from themis.records import EvaluationRecord, GenerationRecord, Request, Sample
from themis.work import Done, Item

PACE = Pace(1.0, None)


def item(number, **fields):
    """A question of evaluate()."""
    sample = Sample(f"s{number}", "2 + 2?", "4", metadata={"source": ["a", {"page": 1}]}, **fields)
    return Item(Request(f"g{number}", "2 + 2?", sample.id, params={"seed": number}), sample)


def done(number, **fields):
    """An answer with its score."""
    generation = GenerationRecord(f"g{number}", "2 + 2?", "4", token_logprobs=[{"token": "4"}])
    return Done(generation, [EvaluationRecord(f"e{number}", generation.id, "exact_match", score=1.0, **fields)])


def one_by_one(values):
    """The size of the message in which each value is a blob of its own."""
    return sum(len(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)) for value in values)


class Unbuildable:
    """Pickles, and cannot be rebuilt."""

    def __reduce__(self):
        return int, ("no number",)


@dataclass(frozen=True)
class Special(Sample):
    """A user's own kind of sample."""


def test_records_travel_together():
    """Questions and answers of evaluate() arrive equal, in messages smaller than their blobs one by one."""
    items, answers = [item(number) for number in range(50)], [done(number) for number in range(50)]
    data, unsendable = ItemPacker().pack(Chunk(7, items))
    message = pack_runs([Run(number, [answer]) for number, answer in enumerate(answers)], PACE)

    (chunk,), unbuildable = unpack_chunk(data)
    runs, _ = unpack_runs(message)

    assert (chunk.start, chunk.items, unsendable, unbuildable) == (7, items, [], [])
    assert [value for run in runs for value in run.values] == answers
    assert len(data) < one_by_one(items)
    assert len(message) < one_by_one(answers)


@pytest.mark.parametrize("odd", [Unbuildable(), lambda: None, Special("x", "q")])
def test_a_value_that_is_not_plain_costs_only_its_own_item(odd):
    """A record that holds an object which cannot be pickled or rebuilt is an error by itself."""
    answers = [done(0), done(1, explanation=odd), done(2)]
    runs, _ = unpack_runs(pack_runs([Run(0, answers)], PACE))
    values = runs[0].values

    assert (values[0], values[2]) == (answers[0], answers[2])
    if isinstance(odd, Unbuildable):
        assert isinstance(values[1].error, TaskError)
    elif isinstance(odd, Special):
        assert values[1] == answers[1]


def test_an_item_that_cannot_be_rebuilt_costs_no_other():
    """A sample with such an object is the TaskError of its item; its neighbours arrive."""
    items = [item(0), item(1, group=Unbuildable()), item(2)]
    chunks, unbuildable = unpack_chunk(ItemPacker().pack(Chunk(0, items))[0])

    assert [chunk.items for chunk in chunks] == [[items[0]], [items[2]]]
    assert [run.start for run in unbuildable] == [1]
    assert isinstance(unbuildable[0].values[0].error, TaskError)


def test_a_function_is_packed_while_modules_are_imported():
    """What is loaded in the middle of packing, here whenever garbage is collected, does not disturb it."""
    added = []

    def load_one(phase, info):
        added.append(f"loaded_meanwhile_{len(added)}")
        sys.modules[added[-1]] = ModuleType(added[-1])

    threshold = gc.get_threshold()
    gc.callbacks.append(load_one)
    gc.set_threshold(1)
    try:
        _, data = pack_function(len)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(load_one)
        for name in added:
            del sys.modules[name]

    assert added
    assert pickle.loads(data) is len
