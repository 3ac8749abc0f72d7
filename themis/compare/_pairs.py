"""One metric of two runs, sample by sample: difference, interval, test, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from themis import stats
from themis.compare._pooled import pooled_difference, pooled_function, pooled_test
from themis.compare.values import MetricDifference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from themis.compare._pooled import Pooled, Summands
    from themis.compare._runs import Scores, StoredRun


@dataclass(frozen=True)
class Settings:
    """How differences are computed: cluster by "sample" or "group" (None: as the reports did), level, seed."""

    cluster: str | None
    level: float
    seed: int


class _Found(NamedTuple):
    """Both runs' numbers, how they differ, how sure that is."""

    baseline_mean: float | None
    run_mean: float | None
    paired: stats.PairedDifference
    stderr_method: str | None
    test: str | None
    p_value: float | None


def metric_difference(baseline: StoredRun, run: StoredRun, metric: str, settings: Settings) -> MetricDifference:
    """The difference of one metric, its p-value not yet corrected and its flips not yet read."""
    before, after = baseline.scores[metric], run.scores[metric]
    names = sorted(before.by_sample.keys() & after.by_sample.keys())
    first, second = (_means(scores, names) for scores in (before, after))
    clusters = _clusters(baseline, run, metric, names, settings)
    pooled = pooled_function(baseline, metric) if before.statistics and after.statistics else None
    if pooled is None:
        found = _of_means(first, second, clusters, repeated=before.repeated or after.repeated, settings=settings)
    else:
        befores, afters = ([scores.statistics[name] for name in names] for scores in (before, after))
        found = _of_sums(befores, afters, clusters, pooled, settings)
    wins, losses = (sum(b > a for a, b in zip(*pair, strict=True)) for pair in ((first, second), (second, first)))
    both = before.asked & after.asked
    missing = len(both) > len(names)
    bounds = None if pooled and missing else _bounds(before, after, both, None if missing else found.paired.difference)
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
    if len(set(clusters or range(len(first)))) < 2:
        return _Found(None, None, stats.PairedDifference(None, None, None, None), None, None, None)
    numbers = pooled_difference(first, second, clusters, pooled, settings.level)
    p_value = pooled_test(first, second, clusters, pooled, settings.seed)
    return _Found(*numbers, f"paired jackknife over {_unit(clusters)}", "approximate randomization", p_value)


def _unit(clusters: list[Any] | None) -> str:
    return "samples" if clusters is None else "groups"


def flipped(baseline: StoredRun, run: StoredRun, metric: str) -> list[tuple[str, float, float]]:
    """Every sample that the two score differently, with both scores: the largest differences first, losses before."""
    before, after = baseline.scores[metric], run.scores[metric]
    names = sorted(before.by_sample.keys() & after.by_sample.keys())
    rows = zip(names, _means(before, names), _means(after, names), strict=True)
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: (-abs(row[2] - row[1]), row[2] > row[1]))


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
    return [("sample", name) if groups.get(name) is None else ("group", groups[name]) for name in names]


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
    pairs = [(_mean(before, name), _mean(after, name)) for name in both]
    low = stats.mean([(0 if b is None else b) - (1 if a is None else a) for a, b in pairs])
    high = stats.mean([(1 if b is None else b) - (0 if a is None else a) for a, b in pairs])
    return None if low is None or high is None else (low, high)


def _mean(scores: Scores, name: str) -> float | None:
    return stats.mean(scores.by_sample.get(name, []))
