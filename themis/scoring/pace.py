"""Scoring on the event loop that holds model calls, for as long as it is quick.

Whoever holds the loop holds up every answer on its way: requests time out, connections break. Metrics say that they are
`dear`, but a function given as a metric says nothing, so that its time is taken.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from themis.scoring.base import evaluate_generation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records import EvaluationRecord, GenerationRecord, Sample
    from themis.scoring.base import Metric

logger = logging.getLogger(__name__)

FIRST_SECONDS = 0.5
"""How long the first score of a metric may take, which it computes on a thread: it may load whatever it needs."""

ALLOWANCE, SECONDS_EACH = 0.3, 0.01
"""Seconds that a metric may hold the loop: so many in all, and so many more for each score."""


class LoopScorer:
    """Scores on the running loop by those metrics that are quick; the others it leaves out.

    One for each process and map: it pickles without what it has seen.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = tuple(metrics)
        self._paced = [_Paced(metric) for metric in metrics]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._metrics,)

    async def score(self, sample: Sample, generation: GenerationRecord) -> list[EvaluationRecord]:
        """One evaluation by each metric that is not slow, in their order."""
        found = []
        for metric in self._paced:
            if not metric.known:
                evaluation = await metric.first(sample, generation)
            else:
                evaluation = metric.next(sample, generation)
            if evaluation is not None:
                found.append(evaluation)
        return found


class _Paced:
    """A metric, and how long it may still hold the loop."""

    def __init__(self, metric: Metric) -> None:
        self.known = False  # its first score was tried
        self._metric = metric
        self._left = ALLOWANCE
        self._trial: asyncio.Event | None = None

    async def first(self, sample: Sample, generation: GenerationRecord) -> EvaluationRecord | None:
        """An evaluation on a thread; for those who come while it is computed, one on the loop thereafter."""
        if self._trial is not None:  # errors wait too: no answer should overtake those that came before it
            await self._trial.wait()
            return self.next(sample, generation)
        if generation.status == "error":  # passed on, whatever the metric
            return evaluate_generation(self._metric, sample, generation)
        self._trial = asyncio.Event()
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                return await _on_thread(self._metric, sample, generation)
        except TimeoutError:
            self._give_up()
            return None
        finally:
            self.known = True
            self._trial.set()

    def next(self, sample: Sample, generation: GenerationRecord) -> EvaluationRecord | None:
        """An evaluation here and now; None where the metric is slow."""
        if self._left < 0:
            return None
        began = time.perf_counter()
        evaluation = evaluate_generation(self._metric, sample, generation)
        self._left = min(ALLOWANCE, self._left + SECONDS_EACH - (time.perf_counter() - began))
        if self._left < 0:
            self._give_up()
        return evaluation

    def _give_up(self) -> None:
        self._left = -1.0
        logger.info("the metric %s is slow: it scores when the model calls are over", self._metric.name)


async def _on_thread(metric: Metric, sample: Sample, generation: GenerationRecord) -> EvaluationRecord:
    """An evaluation computed on a daemon thread, which is abandoned when nobody waits any longer."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[EvaluationRecord] = loop.create_future()

    def give(evaluation: EvaluationRecord) -> None:
        if not found.done():
            found.set_result(evaluation)

    def work() -> None:
        evaluation = evaluate_generation(metric, sample, generation)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(give, evaluation)

    threading.Thread(target=work, name="themis-first-score", daemon=True).start()
    return await found
