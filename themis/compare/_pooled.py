"""The difference of a pooled metric, corpus BLEU for one: a function of sums, not a mean over samples."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from themis import stats
from themis.errors import UsageError
from themis.estimates import added, without
from themis.scoring import PooledMetric, load_metric

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from themis.compare._runs import StoredRun
    from themis.scoring.base import Metric

    Pooled = Callable[[Sequence[float]], float]
    Summands = Sequence[Sequence[float]]

DRAWS = 10_000


def is_pooled(run: StoredRun, metric: str) -> bool:
    """Whether the run's report says that its number is no mean of scores."""
    result = run.report.metrics.get(metric) if run.report else None
    return result is not None and (result.stderr_method or "").startswith("jackknife")


def pooled_function(run: StoredRun, metric: str, given: Metric | None = None) -> Pooled | None:
    """What makes a run's number of its sums; None for a metric that does not pool, or is not known here.

    `given` is the metric itself, where it is at hand.
    """
    from themis.benchmarks import benchmark_names, load_benchmark

    name = run.config.get("benchmark")
    own = load_benchmark(name).metrics if name in benchmark_names() else ()
    with suppress(UsageError):
        found = given or load_metric(metric, own)
        settings = run.metric_config(metric)
        same = settings is None or {"version": found.version, **found.config()} == settings
        return partial(_finite, found) if same and isinstance(found, PooledMetric) else None
    return None


def _finite(metric: PooledMetric, sums: Sequence[float]) -> float:
    number = float(metric.pooled(sums))
    if not math.isfinite(number):
        raise ValueError(f"{metric.name} made {number} of {list(sums)}")
    return number


def pooled_difference(
    first: Summands, second: Summands, clusters: Sequence[Hashable] | None, pooled: Pooled, level: float
) -> tuple[float, float, stats.PairedDifference]:
    """Both numbers and their difference, its standard error by the jackknife over samples, or over clusters.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", equation 11.5: both sides lose the same sample.
    """
    befores, afters = _by_cluster(first, clusters), _by_cluster(second, clusters)
    before, after = added(befores), added(afters)
    pairs = zip(befores, afters, strict=True)
    alone = len(befores) < 2
    left_out = [] if alone else [pooled(without(after, b)) - pooled(without(before, a)) for a, b in pairs]
    numbers = pooled(before), pooled(after)
    stderr = stats.jackknife_standard_error(left_out)
    interval = stats.t_interval(numbers[1] - numbers[0], stderr, len(left_out) - 1, level) or (None, None)
    return *numbers, stats.PairedDifference(numbers[1] - numbers[0], stderr, *interval)


def pooled_test(
    first: Summands, second: Summands, clusters: Sequence[Hashable] | None, pooled: Pooled, seed: int
) -> float:
    """Two-sided p-value that it does not matter which run gave which answer, over DRAWS random exchanges.

    Approximate randomization: Riezler & Maxwell 2005, "On Some Pitfalls in Automatic Evaluation and Significance
    Testing for MT"; the observed one counted in.
    """
    befores, afters = _by_cluster(first, clusters), _by_cluster(second, clusters)
    before, after = added(befores), added(afters)
    both = [a + b for a, b in zip(before, after, strict=True)]
    differences = [without(b, a) for a, b in zip(befores, afters, strict=True)]
    columns = (stats.signed_sums(column, DRAWS, seed).tolist() for column in zip(*differences, strict=True))
    exchanged = zip(*columns, strict=True)
    least = abs(pooled(after) - pooled(before)) - 1e-12
    extreme = sum(abs(_drawn(pooled, both, moved, 1) - _drawn(pooled, both, moved, -1)) >= least for moved in exchanged)
    return (extreme + 1) / (DRAWS + 1)


def _drawn(pooled: Pooled, both: Sequence[float], moved: Sequence[float], sign: int) -> float:
    return pooled([(total + sign * part) / 2 for total, part in zip(both, moved, strict=True)])


def _by_cluster(rows: Summands, clusters: Sequence[Hashable] | None) -> Summands:
    if clusters is None:
        return rows
    members: dict[Hashable, list[Any]] = {}
    for row, cluster in zip(rows, clusters, strict=True):
        members.setdefault(cluster, []).append(row)
    return [added(group) for group in members.values()]
