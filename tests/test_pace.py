"""A metric that takes long leaves the event loop that holds model calls, and the scores stay the same."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import time

import pytest

from themis import evaluate
from themis.backends import LocalExecutionBackend, RayExecutionBackend, SequentialExecutionBackend
from themis.models import load_model
from themis.records import GenerationRecord, Sample
from themis.scoring import load_metric
from themis.scoring.base import FunctionMetric
from themis.scoring.pace import LoopScorer

ROWS = [{"question": f"q{number}", "answer": str(number)} for number in range(40)]
SAMPLE = Sample("s", "2 + 2?", "4")
ANSWER = GenerationRecord("g", "2 + 2?", "4")


async def answer(prompt):
    """Right, after a moment."""
    await asyncio.sleep(0.01)
    return prompt[1:]


def scores(scorer, count):
    """How many evaluations each of so many answers got, one after the other."""

    async def run():
        return [len(await scorer.score(SAMPLE, ANSWER)) for _ in range(count)]

    return asyncio.run(run())


def takes(seconds, first=None):
    """A metric that takes so long, and notes its calls."""
    calls = []

    def metric(sample, generation):
        calls.append(generation.id)
        time.sleep(first if first is not None and len(calls) == 1 else seconds)
        return 1.0

    return FunctionMetric(metric), calls


def test_a_quick_metric_scores_every_answer_on_the_loop():
    """A metric of 2 ms stays on the loop for good, each answer scored once, the first one included."""
    metric, calls = takes(0.002)

    assert scores(LoopScorer([metric]), 100) == [1] * 100
    assert len(calls) == 100


def test_a_slow_metric_leaves_the_loop_after_a_few_answers():
    """A metric of 0.1 s holds the loop for half a second at most; the quick one beside it goes on."""
    slow, calls = takes(0.1)

    found = scores(LoopScorer([slow, load_metric("exact_match")]), 40)

    assert len(calls) <= 5
    assert found[:2] == [2, 2]
    assert found[-30:] == [1] * 30


def test_a_slow_first_score_does_not_hold_the_loop(monkeypatch):
    """While a metric loads what it needs the loop runs on, and who comes meanwhile waits no longer than allowed."""
    monkeypatch.setattr("themis.scoring.pace.FIRST_SECONDS", 0.2)
    metric, calls = takes(0.0, first=1.0)
    scorer = LoopScorer([metric])
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def run():
        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(*(scorer.score(SAMPLE, ANSWER) for _ in range(5)))
        ticking.cancel()
        return found

    assert asyncio.run(run()) == [[]] * 5
    assert len(calls) == 1
    assert max(after - before for before, after in itertools.pairwise(ticks)) < 0.15


def test_one_slow_answer_is_forgiven():
    """A single score of 0.2 s among quick ones, as a busy machine may cause, changes nothing."""
    metric, _ = takes(0.0001, first=0.2)

    assert scores(LoopScorer([metric]), 50) == [1] * 50


def test_it_travels_without_what_it_has_seen():
    """In another process the metric is tried anew."""
    scorer = LoopScorer([load_metric("exact_match")])
    scores(scorer, 1)

    assert scores(pickle.loads(pickle.dumps(scorer)), 3) == [1, 1, 1]


@pytest.mark.parametrize("make", [LocalExecutionBackend, SequentialExecutionBackend, RayExecutionBackend])
def test_every_answer_is_scored_by_a_slow_metric(make, ray_session, tmp_path):
    """What leaves the loop is scored after the model calls: the report is complete and the metrics in their order."""

    def slow(sample, generation):
        time.sleep(0.1)
        return float(generation.response == sample.target)

    model = load_model(answer, name="waits")
    result = evaluate(ROWS, model, metrics=[slow, "exact_match"], execution_backend=make(), storage=tmp_path)
    again = evaluate(ROWS, model, metrics=[slow, "exact_match"], storage=tmp_path)

    assert list(result.metrics.items()) == [("slow", 1.0), ("exact_match", 1.0)]
    assert (result.report.status, result.report.metrics["slow"].n_scored) == ("complete", 40)
    assert len({record.id for record in result.evaluations}) == len(result.evaluations) == 80
    assert again.n_asked == 0
    assert again.report.metrics == result.report.metrics


def test_requests_are_answered_while_a_slow_metric_scores(tmp_path):
    """With a metric of 0.1 s no request waits for the scores of the others."""
    late = []

    async def model(prompt):
        began = time.monotonic()
        await asyncio.sleep(0.05)
        late.append(time.monotonic() - began - 0.05)
        return prompt[1:]

    def slow(sample, generation):
        time.sleep(0.1)
        return 1.0

    result = evaluate(ROWS, load_model(model, name="timed"), metrics=slow, max_workers=20, storage=tmp_path)

    assert result.metrics == {"slow": 1.0}
    assert sum(late) < 20 * 0.6  # each of the first twenty may meet what the metric is allowed in all
    assert max(late[-5:]) < 0.2
