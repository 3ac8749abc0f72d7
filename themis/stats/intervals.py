"""How sure a mean is: standard errors, intervals, bounds.

Pure functions; what is undefined is None, never NaN. Sums are exact (math.fsum), so that the order of the values does
not change a bit of the result.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from themis.errors import UsageError
from themis.stats._given import check_pairs, check_probability

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

_MANY_DEGREES = 500

_ROUNDING = 1e-14
"""Values that differ by no more than this share of the largest are equal: one mean's rounding is some 1e-16 of it."""


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of no values."""
    return math.fsum(values) / len(values) if values else None


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two.

    From the sample variance (n - 1): Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, section 2.
    """
    return clustered_standard_error(values, range(len(values)))


def clustered_standard_error(values: Sequence[float], clusters: Iterable[Hashable]) -> float | None:
    """Standard error of the mean of values that depend on each other within a cluster; None for one cluster.

    sqrt(G / (G - 1) * sum over clusters of (sum of deviations)^2) / n, for G clusters: Miller 2024
    (arXiv:2411.00640, section 2.2) with the correction for few clusters of Cameron & Miller 2015, "A
    Practitioner's Guide to Cluster-Robust Inference", section VI. With one value in each cluster it is the
    plain standard error.
    """
    center = mean(values)
    if center is None:
        return None
    sums = cluster_sums(deviations(values, center), clusters)
    count = len(sums)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(total**2 for total, _ in sums)) / len(values)


def deviations(values: Sequence[float], center: float) -> list[float]:
    """How far values are from their mean; all 0 where they differ by rounding only.

    The mean of 0.1, 0.1 and 0.1 is not 0.1 in floats, and 1e-17 for the spread of equal values would claim certainty.
    """
    found = [value - center for value in values]
    if max(map(abs, found), default=0.0) > _ROUNDING * max(map(abs, values), default=0.0):
        return found
    return [0.0] * len(found)


def cluster_sums(values: Sequence[float], clusters: Iterable[Hashable]) -> list[tuple[float, int]]:
    """Exact sum and size of each cluster, in the order in which they first come."""
    members: dict[Hashable, list[float]] = {}
    of = list(clusters)
    check_pairs(values, of, "values and clusters")
    for value, cluster in zip(values, of, strict=True):
        members.setdefault(cluster, []).append(value)
    return [(math.fsum(group), len(group)) for group in members.values()]


def macro_average(means: Sequence[float], stderrs: Sequence[float | None]) -> tuple[float, float | None] | None:
    """The mean of group means, each group counting the same, with its standard error; None of no groups.

    sqrt(sum of squared standard errors) / G, as for strata that are given and not drawn: Cochran 1977, "Sampling
    Techniques", section 5.3, with equal weights. None beside the mean where a group has no standard error.
    """
    check_pairs(means, stderrs, "means and standard errors")
    center = mean(means)
    if center is None:
        return None
    known = [error for error in stderrs if error is not None]
    if len(known) < len(means):
        return center, None
    return center, math.sqrt(math.fsum(error**2 for error in known)) / len(means)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval for the share of successes among n independent trials; None for none.

    Wilson 1927. Inside [0, 1], and not empty at 0 or n successes. Its real coverage is below the level by up
    to 3 points for a few dozen trials, by less than one from 500 on.

    Raises:
        UsageError: More successes than trials, fewer than none, or a level that is no probability.
    """
    check_probability("level", level)
    if n < 1:
        return None
    if not 0 <= successes <= n:
        raise UsageError(f"{successes!r} successes in {n} trials: give 0 to {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    center = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes <= 0 else (center - reach) / scale
    high = 1.0 if successes >= n else (center + reach) / scale
    return low, high


def t_interval(center: float, stderr: float | None, degrees: int, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval around a mean; None without a standard error, or where it is 0.

    A standard error of 0 says that no variation was seen, not that there is none: [mean, mean] would claim
    certainty.

    Args:
        center: The mean.
        stderr: Its standard error.
        degrees: Degrees of freedom: values minus one, or clusters minus one (Cameron & Miller 2015, section VI).
        level: Probability with which it covers the true mean.

    Raises:
        UsageError: The level is no probability.
    """
    check_probability("level", level)
    if not stderr or degrees < 1:
        return None
    reach = t_quantile((1 + level) / 2, degrees) * stderr
    return center - reach, center + reach


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution.

    From 500 degrees on by the Cornish-Fisher expansion of Abramowitz & Stegun 26.7.5, which by then agrees with
    scipy.special.stdtrit to 1e-12: importing scipy would take a third of a second at the end of a run.
    """
    check_probability("probability", probability)
    if degrees < _MANY_DEGREES:
        from scipy.special import stdtrit

        return float(stdtrit(degrees, probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))


def missing_bounds(scores: Sequence[float], n_attempted: int) -> tuple[float, float] | None:
    """The mean if every missing score were 0, and if every one were 1; None where scores leave [0, 1]."""
    if n_attempted < len(scores):
        raise UsageError(f"{len(scores)} scores of {n_attempted} samples: those that have none are to be bounded")
    if n_attempted < 1 or any(not 0 <= score <= 1 for score in scores):
        return None
    total = math.fsum(scores)
    return total / n_attempted, (total + n_attempted - len(scores)) / n_attempted
