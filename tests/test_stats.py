"""Standard errors, intervals and bounds against values computed by hand or printed in tables."""

from __future__ import annotations

import itertools
import math
import random
from statistics import stdev

import pytest
import scipy.stats

from themis import stats
from themis.errors import UsageError


def test_mean():
    """The mean is exact whatever the order: 0.1 ten times is 0.1."""
    values = [1e16, 1.0, -1e16]

    assert stats.mean(values) == 1 / 3
    assert stats.mean([0.1] * 10) == 0.1
    assert stats.mean([]) is None


def test_standard_error():
    """The plain standard error is the sample standard deviation over the root of n."""
    values = [0.0, 1.0, 1.0, 0.5]

    assert stdev(values) / 2 == pytest.approx(stats.standard_error(values), rel=1e-14)
    assert stats.standard_error([1.0]) is None
    assert stats.standard_error([1.0, 1.0]) == 0.0


def test_clustered_standard_error():
    """Clusters [1, 1], [0, 0], [1, 0] give sqrt(3/2 * (1 + 1 + 0)) / 6 = sqrt(3) / 6."""
    found = stats.clustered_standard_error([1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "c"])

    assert math.sqrt(3) / 6 == pytest.approx(found, rel=1e-14)
    assert stats.clustered_standard_error([1, 0], ["a", "a"]) is None


def test_copies_add_nothing():
    """Four copies of every score leave the clustered standard error as it was; the plain one would halve."""
    scores = [1.0, 0.0, 1.0, 1.0, 0.0]
    copies = [score for score in scores for _ in range(4)]
    clusters = [number for number in range(5) for _ in range(4)]

    assert stats.standard_error(scores) == pytest.approx(stats.clustered_standard_error(copies, clusters), rel=1e-14)


def test_wilson_interval():
    """Wilson's interval for 8 of 10 is 0.4902 to 0.9433, and it is not empty at 0 and at n."""
    assert tuple(round(end, 4) for end in stats.wilson_interval(8, 10)) == (0.4902, 0.9433)
    low, high = stats.wilson_interval(0, 10)

    assert (low, round(high, 4)) == (0.0, 0.2775)
    assert tuple(round(end, 4) for end in stats.wilson_interval(10, 10)) == (0.7225, 1.0)
    assert stats.wilson_interval(0, 0) is None


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 499, 500, 501, 1318, 10**6])
def test_t_quantile(degrees):
    """Quantiles of Student's t are scipy's, on both sides of where they are computed in another way."""
    for probability in (0.005, 0.025, 0.5, 0.9, 0.975, 0.9995):
        expected = scipy.stats.t.ppf(probability, degrees)

        assert expected == pytest.approx(stats.t_quantile(probability, degrees), rel=1e-11, abs=1e-12)


def test_t_interval():
    """Student's interval is the quantile times the standard error on both sides, None where nothing varied."""
    low, high = stats.t_interval(0.5, 0.1, 100)

    assert (round(low, 4), round(high, 4)) == (0.3016, 0.6984)
    assert stats.t_interval(1.0, 0.0, 9) is None
    assert stats.t_interval(1.0, None, 0) is None


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
def test_equal_values_vary_by_nothing(value):
    """Equal values that floats cannot hold have a standard error of 0, not of 1e-17, and claim no certainty."""
    for count in range(2, 40):
        values, sizes = [value] * count, [n // 5 for n in range(count)]
        assert stats.standard_error(values) == 0
        assert stats.clustered_standard_error(values, sizes) in {0, None}
        assert stats.jackknife_standard_error(values) == 0
        assert stats.correlation(values, list(range(count))) is None
        assert stats.bootstrap_interval(values, sizes, resamples=50) is None
    shifted = stats.paired_difference([0.2, 0.3, 0.8], [0.3, 0.4, 0.9])
    assert (shifted.stderr, shifted.ci_low) == (0, None)
    assert stats.standard_error([1e-9, 2e-9]) == pytest.approx(5e-10)


def test_missing_bounds():
    """80 right of 90 scored and 100 attempted lie between 0.80 and 0.90."""
    assert stats.missing_bounds([1.0] * 80 + [0.0] * 10, 100) == (0.8, 0.9)
    assert stats.missing_bounds([7.0], 2) is None
    assert stats.missing_bounds([], 0) is None


def test_order_does_not_matter():
    """Shuffled values give the same bits."""
    r = random.Random(7)
    pairs = [(r.random() * 10 ** r.randint(-8, 8), r.randint(0, 40)) for _ in range(300)]
    expected = None
    for _ in range(5):
        r.shuffle(pairs)
        values, clusters = zip(*pairs, strict=True)
        found = stats.mean(values), stats.standard_error(values), stats.clustered_standard_error(values, clusters)
        expected = expected or found

        assert expected == found


def all_draws(scores, k):
    """Every way to draw k of the answers."""
    return list(itertools.combinations(scores, k))


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 2), (7, 7), (8, 0), (10, 3)])
def test_pass_at_k_and_pass_hat_k(n, c):
    """For every k they are the shares of all draws in which one answer, and every answer, is right."""
    answers = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        draws = all_draws(answers, k)

        assert stats.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), rel=1e-15)
        assert stats.pass_hat_k(n, c, k) == pytest.approx(sum(map(all, draws)) / len(draws), rel=1e-15)


def test_pass_at_k_of_arrays():
    """Sequences give an array over their pairs, exact also where factorials leave the range of floats."""
    n, c = [10, 10, 2000, 200], [3, 0, 1, 200]
    found = stats.pass_at_k(n, c, 10), stats.pass_hat_k(n, c, 10)

    assert found[0].tolist() == [stats.pass_at_k(*pair, 10) for pair in zip(n, c, strict=True)]
    assert found[0].tolist() == [1.0, 0.0, pytest.approx(10 / 2000, rel=1e-12), 1.0]
    assert found[1].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_best_of_k():
    """It is the mean over all draws of their highest score, in whatever order the scores come."""
    scores = [0.2, 0.9, 0.5, 0.5, 0.1]
    for k in range(1, 6):
        draws = all_draws(scores, k)

        assert stats.best_of_k(scores, k) == pytest.approx(sum(map(max, draws)) / len(draws), rel=1e-14)
    assert stats.best_of_k([1, 0, 0, 1, 0], 2) == pytest.approx(stats.pass_at_k(5, 2, 2), rel=1e-15)


@pytest.mark.parametrize("call", [(4, 2, 5), (4, 2, 0), ([4, 8], [2, 2], 5)])
def test_k_beyond_the_answers(call):
    """A k above the number of answers, or 0, is refused with what k can be."""
    with pytest.raises(UsageError, match="k can be 1 to 4"):
        stats.pass_at_k(*call)
    with pytest.raises(UsageError, match="5 right answers among 4: give 0 to 4"):
        stats.pass_hat_k(4, 5, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.wilson_interval(11, 10), "11 successes in 10 trials: give 0 to 10"),
        (lambda: stats.wilson_interval(1, 10, level=95), "level=95: give a probability between 0 and 1"),
        (lambda: stats.t_interval(0.5, 0.1, 9, level=1), "level=1: give a probability"),
        (lambda: stats.t_quantile(1.2, 3), "probability=1.2: give a probability"),
        (lambda: stats.bootstrap_interval([1, 0], level=2), "level=2: give a probability"),
        (lambda: stats.bootstrap_interval([1, 0], resamples=0), "resamples=0: give 1 or more"),
        (lambda: stats.bootstrap_interval([1, 0], ["a"]), "2 and 1 values and clusters: give one for each"),
        (lambda: stats.clustered_standard_error([1, 2], ["a"]), "2 and 1 values and clusters"),
        (lambda: stats.macro_average([1, 2], [0.1]), "2 and 1 means and standard errors"),
        (lambda: stats.missing_bounds([1, 1], 1), "2 scores of 1 samples"),
        (lambda: stats.paired_difference([1], [1, 2]), "1 and 2 scores of the two"),
        (lambda: stats.permutation_test([1, 0], [1]), "2 and 1 values and clusters"),
        (lambda: stats.permutation_test([1, 0], draws=0), "draws=0: give 1 or more"),
        (lambda: stats.mcnemar_exact(-1, 2), "only_first=-1: give 0 or more"),
        (lambda: stats.holm([0.1, 2.0]), "2.0 among the p-values"),
        (lambda: stats.benjamini_hochberg([float("nan")]), "nan among the p-values"),
        (lambda: stats.correlation([1, 2], [1]), "2 and 1 values of the two"),
        (lambda: stats.cohens_kappa(["a"], []), "1 and 0 verdicts of the two judges"),
        (lambda: stats.minimum_detectable_effect(0.1, level=2), "level=2: give a probability"),
        (lambda: stats.samples_needed(0.1, 0.2, power=1), r"power=1: give a probability between 0 and 1, 0\.8 for one"),
        (lambda: stats.samples_needed(0.1, -1), "variance=-1: give 0 or more"),
    ],
)
def test_what_no_statistic_is_of_is_said(call, says):
    """Impossible counts, levels and lengths are a UsageError that says what was given and what can be."""
    with pytest.raises(UsageError, match=says):
        call()
