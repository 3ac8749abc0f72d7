"""The metrics of one call, sorted by how they come to their scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.ids import canonical_json
from themis.scoring.base import JudgedMetric, Metric, RepeatsMetric, metric_evaluation_id, scorer_identity

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Scorers:
    """What is reported, and the metrics that score each answer for it, which are called by their places in `each`.

    Attributes:
        metrics: What is reported, the main metric first.
        each: What scores single answers: those of `metrics` that do, and what the metrics over repeats are over.
        reported: The places of those whose scores are reported themselves.
        repeats: The metrics over repeats, each with the place of what it is over.
    """

    metrics: tuple[Metric, ...]
    each: tuple[Metric, ...] = field(init=False)
    reported: tuple[int, ...] = field(init=False)
    repeats: tuple[tuple[RepeatsMetric, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"metrics={names}: give at least one, each name once")
        bases = [metric.of if isinstance(metric, RepeatsMetric) else metric for metric in self.metrics]
        known = [canonical_json(scorer_identity(metric)) for metric in bases]
        first = dict(zip(known[::-1], bases[::-1], strict=True))
        order = list(dict.fromkeys(known))
        places = [order.index(identity) for identity in known]
        over = [isinstance(metric, RepeatsMetric) for metric in self.metrics]
        repeats = [(m, place) for m, place in zip(self.metrics, places, strict=True) if isinstance(m, RepeatsMetric)]
        object.__setattr__(self, "each", tuple(first[identity] for identity in order))
        object.__setattr__(self, "reported", tuple(p for p, several in zip(places, over, strict=True) if not several))
        object.__setattr__(self, "repeats", tuple(repeats))

    def evaluation_ids(self, generation_id: str, target: str | list[str] | None) -> list[str]:
        """Id of the evaluation of one answer by each of `each`, in their order."""
        return [metric_evaluation_id(metric, (generation_id,), target) for metric in self.each]

    def beside_calls(self) -> tuple[Metric, ...]:
        """Those quick enough to score where model calls wait."""
        return tuple(metric for metric in self.each if not is_late(metric))

    def judged(self) -> list[tuple[int, JudgedMetric]]:
        """Those that ask a judge, with their places."""
        return [(place, metric) for place, metric in enumerate(self.each) if isinstance(metric, JudgedMetric)]

    def config(self) -> dict[str, Any]:
        """What determines the scores, by the names of the metrics."""
        return {metric.name: {"version": metric.version, **metric.config()} for metric in self.metrics}


def is_late(metric: Metric) -> bool:
    """Whether a metric scores only after the model calls."""
    return metric.dear or isinstance(metric, JudgedMetric)


def missing(scorers: Scorers, ids: Sequence[str], scored: Any) -> list[int]:
    """The places of the metrics whose evaluations, of these ids, are not among those that are stored."""
    return [place for place in range(len(scorers.each)) if ids[place] not in scored]
