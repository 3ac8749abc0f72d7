"""Scoring stored answers in blocks: how long they are, and what becomes of those that fail."""

from __future__ import annotations

import time

from themis.backends import LocalExecutionBackend, SequentialExecutionBackend
from themis.blocks import BLOCK_ANSWERS, score_blocks
from themis.maps import Maps
from themis.records import GenerationRecord, Sample
from themis.scoring import FunctionMetric, Metric, Score
from themis.work import ScoreStored


def answers(count):
    """So many answers, each to be scored by the only metric."""
    return [(Sample(str(n), "?", "x"), GenerationRecord(f"g{n}", "?", "x", str(n)), [0]) for n in range(count)]


class Noting:
    """A backend's map that notes the length of each block."""

    def __init__(self, maps):
        self.maps, self.sizes, self.timeout = maps, [], maps.timeout

    def map(self, func, blocks, timeout):
        def noted():
            for block in blocks:
                self.sizes.append(len(block.answers))
                yield block

        return self.maps.map(func, noted(), timeout)


def scored(metric, count, timeout=600.0, backend=None):
    """The evaluations by sample, and the lengths of the blocks."""
    noting = Noting(Maps(backend or SequentialExecutionBackend(), None, timeout))
    found = [e for some in score_blocks(noting, ScoreStored((metric,)), answers(count)) for e in some]
    return {evaluation.sample_id: evaluation for evaluation in found}, noting.sizes


def test_blocks_grow_while_scores_are_quick():
    """Every answer is scored once; blocks grow to their bound, and stay short where a score takes long."""
    found, sizes = scored(FunctionMetric(lambda s, g: 1.0, "quick"), 5_000)
    assert (len(found), sum(sizes), sizes[0], max(sizes)) == (5_000, 5_000, 1, BLOCK_ANSWERS)

    found, sizes = scored(FunctionMetric(lambda s, g: time.sleep(0.015) or 1.0, "slow"), 10)
    assert (len(found), sizes) == (10, [1] * 10)


class Dear(Metric):
    """Quick, though it says that it is not."""

    name = "dear"
    dear = True

    def score(self, sample, generation):
        return Score(1.0, "x")


def test_dear_metrics_score_one_by_one():
    """Each answer has the whole timeout where a metric says that it is dear."""
    found, sizes = scored(Dear(), 300)

    assert (len(found), set(sizes)) == (300, {1})


def test_a_block_that_fails_is_done_again():
    """Of a block that takes too long only the answer that does so is an error; the others are scored."""

    def hangs(sample, generation):
        if sample.id == "1500":
            time.sleep(1.5)
        return 1.0

    found, sizes = scored(FunctionMetric(hangs, "hangs"), 2_000, 0.5, LocalExecutionBackend(4))

    assert len(found) == 2_000
    assert [(e.sample_id, e.error_kind, e.error_type) for e in found.values() if e.status == "error"] == [
        ("1500", "scorer", "TaskTimeoutError")
    ]
    assert sum(sizes) > 2_000
