"""One metric of two runs, sample by sample: difference, interval, test, bounds."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from themis import stats
from themis.compare._pooled import is_pooled, pooled_difference, pooled_function, pooled_test
from themis.compare.values import MetricDifference
from themis.estimates import cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from themis.compare._pooled import Pooled, Summands
    from themis.compare._runs import Scores, StoredRun
    from themis.scoring.base import Metric

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How differences are computed: cluster by "sample" or "group" (None: as the reports did), level, seed.

    `metrics` are those that were given as objects, by name.
    """

    cluster: str | None
    level: float
    seed: int
    metrics: Mapping[str, Metric] = field(default_factory=dict)


class _Found(NamedTuple):
    """Both runs' numbers, how they differ, how sure that is."""

    baseline_mean: float | None
    run_mean: float | None
    paired: stats.PairedDifference
    stderr_method: str | None
    test: str | None
    p_value: float | None


_UNKNOWN = _Found(None, None, stats.PairedDifference(None, None, None, None), None, None, None)
"""Of a number that is not the mean of scores, where nothing here makes it of their sums."""


def metric_difference(baseline: StoredRun, run: StoredRun, metric: str, settings: Settings) -> MetricDifference:
    """The difference of one metric, its p-value not yet corrected and its flips not yet read."""
    before, after = baseline.scores[metric], run.scores[metric]
    names = sorted(before.by_sample.keys() & after.by_sample.keys())
    first, second = _paired_means(before, after, names)
    clusters = _clusters(baseline, run, metric, names, settings)
    summed = bool(before.statistics and after.statistics)
    pooled = pooled_function(baseline, metric, settings.metrics.get(metric)) if summed else None
    if pooled is not None:
        befores, afters = ([scores.statistics[name] for name in names] for scores in (before, after))
        found = _of_sums(befores, afters, clusters, pooled, settings)
    elif summed and any(is_pooled(each, metric) for each in (baseline, run)):
        found = _UNKNOWN
    else:
        found = _of_means(first, second, clusters, repeated=before.repeated or after.repeated, settings=settings)
    wins, losses = (sum(b > a for a, b in zip(*pair, strict=True)) for pair in ((first, second), (second, first)))
    both = before.asked & after.asked
    missing = len(both) > len(names) or not both.isdisjoint(before.lost.keys() | after.lost.keys())
    bounded = found is not _UNKNOWN and not (pooled and missing)
    bounds = _bounds(before, after, both, None if missing else found.paired.difference) if bounded else None
    return MetricDifference(
        metric=metric,
        baseline=baseline.label,
        run=run.label,
        baseline_mean=found.baseline_mean,
        run_mean=found.run_mean,
        **found.paired._asdict(),
        stderr_method=None if found.paired.stderr is None else found.stderr_method,
        ci_level=settings.level,
        test=found.test,
        p_value=found.p_value,
        p_adjusted=None,
        wins=wins,
        losses=losses,
        ties=len(names) - wins - losses,
        correlation=stats.correlation(first, second),
        minimum_detectable_effect=stats.minimum_detectable_effect(found.paired.stderr, level=settings.level),
        n_paired=len(names),
        n_only_baseline=len(before.asked - after.asked),
        n_only_run=len(after.asked - before.asked),
        n_unscored_baseline=len(both - before.by_sample.keys()),
        n_unscored_run=len(both - after.by_sample.keys()),
        bound_low=bounds and bounds[0],
        bound_high=bounds and bounds[1],
        n_flips=wins + losses,
    )


def _of_means(
    first: Sequence[float], second: Sequence[float], clusters: list[Any] | None, *, repeated: bool, settings: Settings
) -> _Found:
    paired = stats.paired_difference(first, second, clusters, level=settings.level)
    test, p_value = _test(first, second, clusters, repeated=repeated, seed=settings.seed)
    method = f"paired, {_unit(clusters)} as clusters"
    return _Found(stats.mean(first), stats.mean(second), paired, method, test, p_value)


def _of_sums(
    first: Summands, second: Summands, clusters: list[Any] | None, pooled: Pooled, settings: Settings
) -> _Found:
    if not first:
        return _UNKNOWN
    try:
        numbers = pooled_difference(first, second, clusters, pooled, settings.level)
        p_value = pooled_test(first, second, clusters, pooled, settings.seed)
    except Exception:  # a user's metric: the other metrics must not be lost for it
        logger.warning("a pooled metric made no number of the sums of two runs", exc_info=True)
        return _UNKNOWN
    return _Found(*numbers, f"paired jackknife over {_unit(clusters)}", "approximate randomization", p_value)


def _unit(clusters: list[Any] | None) -> str:
    return "samples" if clusters is None else "groups"


def flipped(baseline: StoredRun, run: StoredRun, metric: str) -> list[tuple[str, float, float]]:
    """Every sample that the two score differently, with both scores: the largest differences first, losses before."""
    before, after = baseline.scores[metric], run.scores[metric]
    names = sorted(before.by_sample.keys() & after.by_sample.keys())
    rows = zip(names, *_paired_means(before, after, names), strict=True)
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: (-abs(row[2] - row[1]), row[2] > row[1]))


def _paired_means(before: Scores, after: Scores, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """The score of each sample in both runs: (0 + 0.3) / 2 and (0.1 + 0.2) / 2 are a tie, and not in floats."""
    first, second = (_means(scores, names) for scores in (before, after))
    return first, [
        a if math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15) else b for a, b in zip(first, second, strict=True)
    ]


def _means(scores: Scores, names: Sequence[str]) -> list[float]:
    """The score of each sample, the mean of its repeats."""
    if not scores.repeated:
        return [scores.by_sample[name][0] for name in names]
    return [stats.mean(scores.by_sample[name]) or 0.0 for name in names]


def _clusters(
    baseline: StoredRun, run: StoredRun, metric: str, names: Sequence[str], settings: Settings
) -> list[Any] | None:
    """The group of each sample where errors cluster by groups, else None: each sample by itself."""
    by = settings.cluster or ("group" if any(_by_groups(each, metric) for each in (baseline, run)) else "sample")
    if by == "sample":
        return None
    groups = {**run.groups, **baseline.groups}
    return [cluster(name, groups) for name in names]


def _by_groups(run: StoredRun, metric: str) -> bool:
    result = run.report.metrics.get(metric) if run.report else None
    return result is not None and "group" in (result.stderr_method or "")


def _test(
    first: Sequence[float], second: Sequence[float], clusters: list[Any] | None, *, repeated: bool, seed: int
) -> tuple[str | None, float | None]:
    """The test that fits the scores, and its two-sided p-value."""
    if not first:
        return None, None
    if clusters is None and not repeated and {*first, *second} <= {0, 1}:
        losses = sum(a > b for a, b in zip(first, second, strict=True))
        wins = sum(a < b for a, b in zip(first, second, strict=True))
        return "McNemar exact", stats.mcnemar_exact(losses, wins)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    return "paired permutation", stats.permutation_test(differences, clusters, seed=seed)


def _bounds(before: Scores, after: Scores, both: Iterable[str], difference: float | None) -> tuple[float, float] | None:
    """The mean difference over all samples of both, if each missing score were the worst, and the best, for the run.

    Given the difference, none is missing.
    """
    if not (before.within_one and after.within_one):
        return None
    if difference is not None:
        return difference, difference
    names = sorted(both)
    low = stats.mean([_filled(after, name, 0.0) - _filled(before, name, 1.0) for name in names])
    high = stats.mean([_filled(after, name, 1.0) - _filled(before, name, 0.0) for name in names])
    return None if low is None or high is None else (low, high)


def _filled(scores: Scores, name: str, missing: float) -> float:
    """The mean of a sample's repeats, with this for each score that is missing."""
    found, lost = scores.by_sample.get(name, []), scores.lost.get(name, 0)
    mean = stats.mean([*found, *[missing] * lost])
    return missing if mean is None else mean
