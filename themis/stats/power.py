"""How small a difference a comparison can see, and how many samples it takes to see one.

Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, section 5: a two-sided test at 1 - level finds a true
difference with probability `power` when it is z(1 - (1 - level) / 2) + z(power) standard errors large. The chance of a
finding in the wrong direction is left out, as there.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from themis.errors import UsageError
from themis.stats._given import check_at_least, check_probability


def minimum_detectable_effect(stderr: float | None, *, level: float = 0.95, power: float = 0.8) -> float | None:
    """The true difference that a test finds with probability `power`, from the standard error of the difference.

    None without a standard error, or where it is 0: nothing varied, so nothing is known.
    """
    return _reach(level, power) * stderr if stderr else None


def samples_needed(effect: float, variance: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """Samples with which a true difference of `effect` is found with probability `power`.

    Args:
        effect: The difference of the means that is to be found.
        variance: Of one sample's difference: `paired_variance` or `unpaired_variance`.
        level: One minus the chance of finding a difference where there is none.
        power: Probability with which the difference is found.
    """
    check_at_least("variance", variance, 0)
    if effect == 0:
        raise UsageError("no number of samples tells a difference of 0 from none: give the smallest that matters")
    return max(1, math.ceil(_reach(level, power) ** 2 * variance / effect**2))


def paired_variance(first: float, second: float, correlation: float) -> float:
    """Variance of the difference of two scores of one sample, from their variances and correlation.

    Miller 2024 (arXiv:2411.00640), section 4.2.
    """
    return first + second - 2 * correlation * math.sqrt(first * second)


def unpaired_variance(first: float, second: float) -> float:
    """Variance of the difference of two scores of different samples."""
    return first + second


def repeated_variance(between: float, within: tuple[float, float], repeats: tuple[int, int] = (1, 1)) -> float:
    """Variance of one sample's difference when each side's score is the mean of several answers.

    between + within[0] / repeats[0] + within[1] / repeats[1]: Miller 2024 (arXiv:2411.00640), section 5.

    Args:
        between: Variance, over samples, of the difference of what the two would score on average.
        within: Of each side the variance of its answers to one sample, averaged over samples.
        repeats: Of each side how many answers there are to a sample.
    """
    return between + within[0] / repeats[0] + within[1] / repeats[1]


def _reach(level: float, power: float) -> float:
    check_probability("level", level)
    check_probability("power", power, 0.8)
    normal = NormalDist()
    return normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
