"""Two models, or two judges, on the same samples: differences, tests, agreement.

Scores are paired by place: the i-th of both are of one sample. What samples have in common, their difficulty, then
drops out of the difference (Miller 2024, arXiv:2411.00640, section 4).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from themis.errors import UsageError
from themis.stats._given import check_at_least, check_pairs
from themis.stats.intervals import cluster_sums, clustered_standard_error, deviations, mean, t_interval

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

ENUMERATED = 20
"""Up to so many differences that are not 0, all of their 2^n signs are tried."""


class PairedDifference(NamedTuple):
    """The mean of second minus first, with its standard error and interval; each None where it is undefined."""

    difference: float | None
    stderr: float | None
    ci_low: float | None
    ci_high: float | None


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Iterable[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> PairedDifference:
    """How much higher `second` is than `first` on average, with Student's interval.

    The standard error is that of the differences, clustered where clusters are given: Miller 2024 (arXiv:2411.00640),
    sections 2.2 and 4.2.
    """
    check_pairs(first, second, "scores of the two")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    of = list(range(len(differences)) if clusters is None else clusters)
    center, stderr = mean(differences), clustered_standard_error(differences, of)
    found = None if center is None else t_interval(center, stderr, len(set(of)) - 1, level)
    return PairedDifference(center, stderr, *(found or (None, None)))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that as many samples go one way as the other, from those that only one got right.

    The exact binomial test of McNemar 1947, "Note on the Sampling Error of the Difference between Correlated
    Proportions"; 1 where there are none.
    """
    from scipy.special import bdtr

    check_at_least("only_first", only_first, 0)
    check_at_least("only_second", only_second, 0)
    n = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5))) if n else 1.0


def permutation_test(
    differences: Sequence[float],
    clusters: Iterable[Hashable] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value that differences are as likely to have the other sign; clusters turn as a whole.

    The paired permutation test of Fisher 1935, "The Design of Experiments", section 21. Exact, over all signs, for up
    to ENUMERATED differences that are not 0; else the share among `draws` random ones, the observed one counted in
    (Phipson & Smyth 2010, "Permutation P-values Should Never Be Zero"), so never below 1 / (draws + 1).
    """
    check_at_least("draws", draws, 1)
    if clusters is not None:
        differences = [total for total, _ in cluster_sums(differences, clusters)]
    moved = sorted(abs(value) for value in differences if value)
    if not moved:
        return 1.0
    exact = len(moved) <= ENUMERATED
    sums = _all_sums(moved) if exact else signed_sums(moved, draws, seed)
    least = abs(math.fsum(differences)) - 1e-10 * math.fsum(moved)  # equal sums differ by rounding
    extreme = int((abs(sums) >= least).sum())
    return extreme / len(sums) if exact else (extreme + 1) / (draws + 1)


def _all_sums(values: Sequence[float]) -> Array:
    """The sum under each choice of signs."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def signed_sums(values: Sequence[float], draws: int, seed: int) -> Array:
    """The sum under random signs, `draws` times; equally many values get the same signs from one seed.

    The signs of eight values are one random byte, which is looked up in a table of their 256 sums.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    padded = np.zeros(-(-len(values) // 8) * 8)
    padded[: len(values)] = values
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    sums = np.zeros(draws)
    for eight in padded.reshape(-1, 8):
        sums += (signs @ eight)[random.integers(0, 256, draws, dtype=np.uint8)]
    return sums


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted so that the chance of any false finding among them stays below the level; None stays None.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    ranked = _ranked(p_values)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p))
        adjusted[place] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted so that the expected share of false ones among the findings stays below the level.

    Benjamini & Hochberg 1995, "Controlling the False Discovery Rate". None stays None.
    """
    ranked = _ranked(p_values)
    adjusted: list[float | None] = [None] * len(p_values)
    lowest = 1.0
    for rank, (p, place) in reversed(list(enumerate(ranked, 1))):
        lowest = min(lowest, p * len(ranked) / rank)
        adjusted[place] = lowest
    return adjusted


def _ranked(p_values: Sequence[float | None]) -> list[tuple[float, int]]:
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise UsageError(f"{p!r} among the p-values: each is a probability, or None")
    return sorted((p, place) for place, p in enumerate(p_values) if p is not None)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None where either does not vary, or of fewer than two pairs."""
    check_pairs(first, second, "values of the two")
    a, b = mean(first), mean(second)
    if a is None or b is None:
        return None
    firsts, seconds = deviations(first, a), deviations(second, b)
    products = math.fsum(x * y for x, y in zip(firsts, seconds, strict=True))
    squares = math.fsum(x * x for x in firsts) * math.fsum(y * y for y in seconds)
    return None if squares == 0 else max(-1.0, min(1.0, products / math.sqrt(squares)))


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two judges beyond chance: 1 is perfect, 0 what chance gives; None where chance gives 1, or of none.

    (observed - expected) / (1 - expected): Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
    """
    check_pairs(first, second, "verdicts of the two judges")
    n = len(first)
    counts = Counter(first), Counter(second)
    expected = sum(count * counts[1][verdict] for verdict, count in counts[0].items())
    agreed = sum(a == b for a, b in zip(first, second, strict=True))
    return None if n * n == expected else (n * agreed - expected) / (n * n - expected)
