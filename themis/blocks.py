"""Scoring stored answers in blocks: as many together as their scores are quick."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from themis.maps import closing
from themis.work import ScoredBlock, ScoringBlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from themis.maps import Maps
    from themis.records import EvaluationRecord
    from themis.work import ScoreStored, Scoring

BLOCK_SECONDS = 0.02
"""How long a block of quick scores takes about."""
BLOCK_ANSWERS = 256
"""Answers of one block at most."""


def score_blocks(maps: Maps, work: ScoreStored, answers: Iterable[Scoring]) -> Iterator[list[EvaluationRecord]]:
    """The evaluations of stored answers, some answers' together, as they are made.

    A dear metric scores answers one by one, so that each has the whole timeout. The others begin so too. A block that
    a backend gives up, for its time or because its worker ended, is done again one by one: only the answer that is the
    reason is an error of the scorers.
    """
    again: list[Scoring] = []
    blocks = _Blocks(answers, 1 if any(metric.dear for metric in work.metrics) else BLOCK_ANSWERS)
    with closing(maps.map(work, blocks, maps.timeout)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, ScoredBlock):
                blocks.hear(outcome)
                yield outcome.evaluations
            elif len(outcome.item.answers) == 1:
                yield work.failed(outcome.item.answers[0], outcome)
            else:
                again += outcome.item.answers
    if again:
        with closing(maps.map(work, (ScoringBlock([one]) for one in again), maps.timeout)) as outcomes:
            for outcome in outcomes:
                given_up = not isinstance(outcome, ScoredBlock)
                yield work.failed(outcome.item.answers[0], outcome) if given_up else outcome.evaluations


class _Blocks:
    """Cuts answers into blocks; what it hears of the first ones tells how long the next may be."""

    def __init__(self, answers: Iterable[Scoring], most: int) -> None:
        self._answers = iter(answers)
        self._most = most
        self._size = 1

    def __iter__(self) -> Iterator[ScoringBlock]:
        while answers := list(islice(self._answers, self._size)):
            yield ScoringBlock(answers)

    def hear(self, block: ScoredBlock) -> None:
        """Take note of how long a block took."""
        each = block.seconds / max(len(block.evaluations), 1)
        fitting = int(BLOCK_SECONDS / each) if each > 0 else self._most
        self._size = max(1, min(fitting, 2 * self._size, self._most))
