"""Intervals for a mean without a formula for its distribution: the bootstrap, the jackknife."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from themis.errors import UsageError
from themis.stats._given import check_at_least, check_probability
from themis.stats.intervals import cluster_sums, deviations, mean

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

Method: TypeAlias = Literal["bca", "percentile"]

_CELLS = 1 << 20
"""Draws that are in memory at once, of 8 bytes or fewer each."""


def bootstrap_interval(
    values: Sequence[float],
    clusters: Iterable[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> tuple[float, float] | None:
    """The bootstrap interval of the mean; None for fewer than two clusters, or where nothing varies.

    Whole clusters are drawn, each value by itself without them, and a resample's mean is over the values in it.
    "percentile" takes the quantiles of the resampled means (Efron & Tibshirani 1993, "An Introduction to the
    Bootstrap", section 13.3), "bca" corrects them for bias and skewness (section 14.3). The same values in any order
    give the same interval.

    Args:
        values: Scores.
        clusters: What each value belongs to; values of one cluster depend on each other.
        level: Probability with which it covers the true mean.
        resamples: How many are drawn.
        seed: Of the draws.
        method: "bca" or "percentile".
    """
    import numpy as np

    if method not in {"bca", "percentile"}:
        raise UsageError(f"method={method!r}: give 'bca' or 'percentile'")
    check_probability("level", level)
    check_at_least("resamples", resamples, 1)
    sums, sizes = _sorted_clusters(values, clusters)
    if len(sums) < 2 or np.allclose(sums * sizes[0], sums[0] * sizes, rtol=1e-14, atol=0):
        return None
    return interval_of(bootstrap_means(sums, sizes, resamples, seed), sums, sizes, level, method)


def interval_of(
    resampled: Array, sums: Array, sizes: Array, level: float, method: Method = "bca"
) -> tuple[float, float] | None:
    """The interval that resampled means give for a mean of clusters with these sums and sizes."""
    import numpy as np

    tails = (1 - level) / 2, (1 + level) / 2
    if method == "bca":
        tails = _corrected(tails, resampled, sums, sizes)
    low, high = np.quantile(resampled, tails)
    return float(low), float(high)


def bootstrap_means(sums: Array, sizes: Array, resamples: int, seed: int) -> Array:
    """The mean of each of so many resamples, drawn cluster by cluster, in bounded memory."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows = np.stack([sums, sizes])
    different, times = np.unique(rows, axis=1, return_counts=True)
    if different.shape[1] <= max(2, rows.shape[1] // 16):  # scores of a few values: draw how often each comes
        return _counted_means(different, times, resamples, random)
    count = len(sums)
    means = np.empty(resamples)
    step = max(1, _CELLS // count)
    plain = bool((sizes == 1).all())
    for start in range(0, resamples, step):
        drawn = random.integers(0, count, (min(step, resamples - start), count), dtype=np.int32)
        total = sums.take(drawn).sum(axis=1)
        means[start : start + step] = total / (count if plain else sizes.take(drawn).sum(axis=1))
    return means


def _counted_means(different: Array, times: Array, resamples: int, random: np.random.Generator) -> Array:
    import numpy as np

    count = int(times.sum())
    means = np.empty(resamples)
    step = max(1, _CELLS // len(times))
    for start in range(0, resamples, step):
        drawn = random.multinomial(count, times / count, size=min(step, resamples - start))
        total, size = different @ drawn.T
        means[start : start + step] = total / size
    return means


def _sorted_clusters(values: Sequence[float], clusters: Iterable[Hashable] | None) -> tuple[Array, Array]:
    """Sum and size of each cluster, in an order that the values' own does not change."""
    import numpy as np

    if clusters is None:
        return np.sort(np.asarray(values, dtype=float)), np.ones(len(values))
    pairs = sorted(cluster_sums(values, clusters))
    return np.array([total for total, _ in pairs], dtype=float), np.array([size for _, size in pairs], dtype=float)


def _corrected(tails: tuple[float, float], resampled: Array, sums: Array, sizes: Array) -> tuple[float, float]:
    """Efron & Tibshirani 1993, equations 14.10, 14.14 and 14.15; ties of the bias count half."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    center = sums.sum() / sizes.sum()
    rounding = 1e-12 * np.abs(resampled).max()
    lower, not_higher = (np.count_nonzero(resampled < center + edge) for edge in (-rounding, rounding))
    below = (lower + not_higher) / (2 * len(resampled))
    if not 0 < below < 1:
        return tails
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    deviations = without.mean() - without
    bias, skew = ndtri(below), (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    moved = (ndtr(bias + (bias + z) / (1 - skew * (bias + z))) for z in ndtri(np.array(tails)))
    low, high = map(float, moved)
    return low, high


def jackknife_standard_error(left_out: Sequence[float]) -> float | None:
    """Standard error of a statistic from its values with each sample left out in turn; None for fewer than two.

    sqrt((n - 1) / n * sum of (value - their mean)^2): Efron & Tibshirani 1993, equation 11.5. Of the mean it is the
    plain standard error.
    """
    center, count = mean(left_out), len(left_out)
    if center is None or count < 2:
        return None
    return math.sqrt((count - 1) / count * math.fsum(away**2 for away in deviations(left_out, center)))
