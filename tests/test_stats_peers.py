"""The statistics beside scipy's and statsmodels': equal to 1e-9 on fixed cases, and as promised on random ones."""

from __future__ import annotations

import itertools
import random
import resource
import time
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa, to_table
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

from themis import stats
from themis.errors import UsageError
from themis.stats import resampling
from themis.stats.paired import ENUMERATED

EXACT = {"rel": 1e-9, "abs": 1e-12}


def scores(count, seed):
    """Scores between 0 and 1, many of them at the ends."""
    drawn = np.random.default_rng(seed).beta(0.4, 0.3, count)
    return [round(float(value), 2) for value in drawn]


def groups(count, seed):
    """Clusters of unequal sizes."""
    return [f"g{number}" for number in np.random.default_rng(seed).integers(0, count // 4, count)]


@pytest.mark.parametrize("n", [1, 5, 20, 164, 1319])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_interval(n, level):
    """Wilson's interval is statsmodels' for every number of successes."""
    for successes in range(0, n + 1, max(1, n // 50)):
        expected = proportion_confint(successes, n, 1 - level, "wilson")

        assert expected == pytest.approx(stats.wilson_interval(successes, n, level), **EXACT)


@pytest.mark.parametrize(
    ("n", "p", "rounded"), [(20, 0.05, 0.925), (100, 0.9, 0.936), (500, 0.5, None), (1319, 0.9, None)]
)
def test_wilson_coverage(n, p, rounded):
    """Its chance to cover the truth, summed over all outcomes, is that of the exact binomial over the covering ones."""
    covering = [k for k in range(n + 1) if stats.wilson_interval(k, n)[0] <= p <= stats.wilson_interval(k, n)[1]]
    coverage = sum(scipy.stats.binom.pmf(covering, n, p))
    z = NormalDist().inv_cdf(0.975)
    inside = [k for k in range(n + 1) if abs(k / n - p) <= z * (p * (1 - p) / n) ** 0.5]  # the test that it inverts

    assert covering == inside
    assert coverage == pytest.approx(
        scipy.stats.binom.cdf(inside[-1], n, p) - scipy.stats.binom.cdf(inside[0] - 1, n, p), **EXACT
    )
    assert abs(coverage - 0.95) < 0.01 if rounded is None else round(coverage, 3) == rounded


@pytest.mark.parametrize("count", [8, 60, 500])
def test_clustered_standard_error(count):
    """The clustered standard error is that of a regression on a constant; each value its own cluster, scipy's."""
    values, clusters = scores(count, 1), groups(count, 2)
    codes = np.unique(clusters, return_inverse=True)[1]
    fit = sm.OLS(values, np.ones(count)).fit(cov_type="cluster", cov_kwds={"groups": codes})

    assert fit.bse[0] == pytest.approx(stats.clustered_standard_error(values, clusters), **EXACT)
    assert scipy.stats.sem(values) == pytest.approx(stats.standard_error(values), **EXACT)


def test_paired_difference():
    """Difference, standard error and interval of pairs are those of scipy's paired t test."""
    first, second = scores(200, 3), scores(200, 4)
    found = stats.paired_difference(first, second, level=0.9)
    test = scipy.stats.ttest_rel(second, first)
    interval = test.confidence_interval(0.9)

    assert found == pytest.approx(
        (np.mean(second) - np.mean(first), test.statistic**-1 * found.difference, interval.low, interval.high), **EXACT
    )


def test_paired_difference_of_clusters():
    """With clusters it is a regression of the differences with clustered errors, and Student's G - 1 degrees."""
    first, second, clusters = scores(200, 3), scores(200, 4), groups(200, 5)
    found = stats.paired_difference(first, second, clusters)
    codes = np.unique(clusters, return_inverse=True)[1]
    options = {"cov_type": "cluster", "cov_kwds": {"groups": codes, "df_correction": True}, "use_t": True}
    fit = sm.OLS(np.subtract(second, first), np.ones(200)).fit(**options)

    assert found == pytest.approx((fit.params[0], fit.bse[0], *fit.conf_int()[0]), **EXACT)


def test_a_difference_that_cannot_be_known_is_none():
    """Of no pairs nothing is known; of one, or of equal differences, the difference and no interval."""
    assert stats.paired_difference([], []) == (None, None, None, None)
    assert stats.paired_difference([0.5], [1.0]) == (0.5, None, None, None)
    assert stats.paired_difference([0, 1], [0, 1]) == (0, 0, None, None)
    assert stats.correlation([1, 1], [0, 1]) is None


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 5), (3, 12), (0, 40), (169, 625), (40_000, 41_000)])
def test_mcnemar(b, c):
    """McNemar's exact p-value is statsmodels' and that of scipy's binomial test."""
    found = stats.mcnemar_exact(b, c)

    assert mcnemar([[7, b], [c, 7]], exact=True).pvalue == pytest.approx(found, **EXACT) if b + c else found == 1
    assert b + c == 0 or scipy.stats.binomtest(b, b + c).pvalue == pytest.approx(found, **EXACT)


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_permutation_test_over_all_signs(n):
    """Up to ENUMERATED differences the p-value is scipy's over all permutations; zeros and order do not matter."""
    differences = [b - a for a, b in zip(scores(n, 6), scores(n, 7), strict=True)]
    if n > 1:
        zero = np.zeros(n)
        test = scipy.stats.permutation_test(
            (differences, zero), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
        )
        assert test.pvalue == pytest.approx(stats.permutation_test(differences), **EXACT)
    assert stats.permutation_test(differences) == stats.permutation_test([0.0, *reversed(differences), 0.0])
    assert stats.permutation_test([0.0] * n) == 1.0


def test_permutation_test_is_mcnemars_on_binary_scores():
    """Differences of 1 and -1 give McNemar's exact p-value: both count the same sign patterns."""
    for b, c in itertools.product(range(9), repeat=2):
        differences = [-1] * b + [1] * c

        assert stats.mcnemar_exact(b, c) == pytest.approx(stats.permutation_test(differences), **EXACT)


def test_permutation_test_by_draws():
    """Beyond, random signs come within four standard errors of the exact p-value, never at 0, the same for one seed."""
    n, seed = ENUMERATED + 2, 8
    for shift in (0.0, 0.2):
        differences = list(np.random.default_rng(9).normal(shift, 0.5, n))
        sums = np.array([0.0])
        for value in differences:
            sums = np.concatenate([sums + value, sums - value])
        exact = float(np.mean(np.abs(sums) >= abs(sum(differences)) - 1e-9))
        found = stats.permutation_test(differences, seed=seed)

        assert abs(found - exact) < 4 * (exact * (1 - exact) / 10_000) ** 0.5 + 1e-4
        assert found == stats.permutation_test(differences[::-1], seed=seed)
    assert stats.permutation_test([1.0] * 500, draws=999) == 1 / 1000


def test_permutation_test_of_clusters():
    """Clusters turn as a whole: copies of every difference leave the p-value as it was."""
    differences = scores(12, 10)
    copies = [value for value in differences for _ in range(3)]
    clusters = [number for number in range(12) for _ in range(3)]

    assert stats.permutation_test(differences) == stats.permutation_test(copies, clusters)


def test_corrections():
    """Holm's and Benjamini and Hochberg's adjusted p-values are statsmodels'; None is no test and stays."""
    r = random.Random(11)
    for count in (1, 2, 5, 40):
        p_values = [round(r.random() ** 3, 3) for _ in range(count)]
        with_gap = [p_values[0], None, *p_values[1:]]
        for ours, name in ((stats.holm, "holm"), (stats.benjamini_hochberg, "fdr_bh")):
            expected = multipletests(p_values, method=name)[1]

            assert list(expected) == pytest.approx(ours(p_values), **EXACT)
            assert [*ours(p_values)[:1], None, *ours(p_values)[1:]] == ours(with_gap)
    assert stats.holm([]) == stats.benjamini_hochberg([None, None])[:0]


@pytest.mark.parametrize(("effect", "variance", "power"), [(0.03, 1 / 9, 0.8), (0.01, 0.25, 0.9), (-0.2, 0.5, 0.5)])
def test_power(effect, variance, power):
    """The samples needed are statsmodels', and with these many the effect is just detectable."""
    n = stats.samples_needed(effect, variance, power=power)
    exact = normal_sample_size_one_tail(abs(effect), power, 0.025, variance**0.5)

    assert n - 1 < exact <= n
    assert stats.minimum_detectable_effect((variance / exact) ** 0.5, power=power) == pytest.approx(
        abs(effect), **EXACT
    )
    assert stats.minimum_detectable_effect((variance / n) ** 0.5, power=power) <= abs(effect)


def test_variances_of_a_difference():
    """Pairing takes the correlation out of the variance, repeats divide what varies within a sample."""
    first, second = scores(400, 12), [a * b for a, b in zip(scores(400, 12), scores(400, 13), strict=True)]
    paired = stats.paired_variance(np.var(first), np.var(second), stats.correlation(first, second))

    assert np.var(np.subtract(second, first)) == pytest.approx(paired, **EXACT)
    assert scipy.stats.pearsonr(first, second).statistic == pytest.approx(stats.correlation(first, second), **EXACT)
    assert stats.paired_variance(0.2, 0.3, 0.0) == stats.unpaired_variance(0.2, 0.3) == 0.5
    assert stats.repeated_variance(0.1, (0.2, 0.3), (2, 3)) == pytest.approx(0.3)
    assert stats.minimum_detectable_effect(0.0) is stats.minimum_detectable_effect(None) is None
    with pytest.raises(UsageError, match="smallest that matters"):
        stats.samples_needed(0.0, 1.0)


def test_cohens_kappa():
    """Kappa is statsmodels' on verdicts of several kinds, 1 for equal ones, and None where chance leaves nothing."""
    r = random.Random(14)
    first = [r.choice("AABC") for _ in range(200)]
    second = [a if r.random() < 0.6 else r.choice("ABC") for a in first]
    table = to_table(np.array([first, second]).T)[0]

    assert cohens_kappa(table).kappa == pytest.approx(stats.cohens_kappa(first, second), **EXACT)
    assert stats.cohens_kappa(first, first) == 1.0
    assert stats.cohens_kappa(["A"], ["A"]) is stats.cohens_kappa([], []) is None
    with pytest.raises(UsageError, match="1 and 2 verdicts of the two judges: give one for each"):
        stats.cohens_kappa("A", "AB")


def test_macro_average():
    """Groups count the same whatever their size; the error is that of strata, unknown where one group's is."""
    means, errors = [0.5, 1.0, 0.0], [0.1, 0.2, 0.2]

    assert stats.macro_average(means, errors) == (0.5, pytest.approx(0.1))
    assert stats.macro_average(means, [0.1, None, 0.2]) == (0.5, None)
    assert stats.macro_average([], []) is None


def test_jackknife():
    """Of the mean the jackknife gives the plain standard error; one value has none."""
    values = scores(100, 15)
    left_out = [(sum(values) - value) / 99 for value in values]

    assert scipy.stats.sem(values) == pytest.approx(stats.jackknife_standard_error(left_out), **EXACT)
    assert stats.jackknife_standard_error([0.5]) is None


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("values", [[round(8 * v) / 8 for v in scores(300, 16)], [0.0] * 280 + [1.0] * 20])
def test_bootstrap_interval_of_given_resamples(method, values):
    """Out of the same resampled means the interval is scipy's, where no rounding tells equal means apart."""
    array = np.sort(values)
    means = resampling.bootstrap_means(array, np.ones(len(array)), 2000, seed=1)
    name = {"bca": "BCa", "percentile": "percentile"}[method]
    given = scipy.stats.bootstrap((array,), np.mean, n_resamples=2, method="percentile")
    given.bootstrap_distribution = means
    expected = scipy.stats.bootstrap((array,), np.mean, n_resamples=0, bootstrap_result=given, method=name)
    found = stats.bootstrap_interval(values, resamples=2000, seed=1, method=method)

    assert tuple(expected.confidence_interval) == pytest.approx(found, **EXACT)


def test_bootstrap_means_have_the_right_spread():
    """The resampled means vary as the standard error says: plain, of few values, and clustered."""
    values, clusters = scores(400, 17), groups(400, 18)
    binary = [float(value > 0.5) for value in values]
    for given, of in ((values, None), (binary, None), (values, clusters), (binary, clusters)):
        means = resampling.bootstrap_means(*resampling._sorted_clusters(given, of), 4000, seed=2)
        expected = stats.clustered_standard_error(given, of or range(400))

        assert np.std(means) == pytest.approx(expected, rel=0.06)
        assert np.mean(means) == pytest.approx(np.mean(given), abs=5 * expected / 4000**0.5)


def test_bootstrap_interval_is_the_same_for_one_seed():
    """Shuffled values give the same bits, another seed others; without variation there is no interval."""
    values, clusters = scores(90, 19), groups(90, 20)
    pairs = list(zip(values, clusters, strict=True))
    expected = stats.bootstrap_interval(values, clusters)
    random.Random(0).shuffle(pairs)

    assert expected == stats.bootstrap_interval(*zip(*pairs, strict=True))
    assert expected != stats.bootstrap_interval(values, clusters, seed=1)
    assert stats.bootstrap_interval([1.0] * 9) is stats.bootstrap_interval([0.5]) is None
    assert stats.bootstrap_interval([0.2, 0.7], ["a", "a"]) is None
    with pytest.raises(UsageError, match="'bca' or 'percentile'"):
        stats.bootstrap_interval(values, method="normal")


@pytest.mark.soak
@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize(
    ("name", "truth"), [("binary 0.2", 0.2), ("binary 0.9", 0.9), ("graded", 0.4 / 0.7), ("clustered", 0.5)]
)
def test_bootstrap_coverage(name, truth, method):
    """At n = 500 with 1,000 resamples the interval covers the truth in 95% of 2,000 draws, within 2 points."""
    r = np.random.default_rng(0)
    covered = 0
    for seed in range(2000):
        clusters = None
        if name == "clustered":  # 500 samples of 3 answers, each sample with its own chance
            chance = r.beta(1, 1, 500).repeat(3)
            values, clusters = (r.random(1500) < chance).astype(float), np.arange(500).repeat(3).tolist()
        else:
            values = r.beta(0.4, 0.3, 500) if name == "graded" else (r.random(500) < truth).astype(float)
        low, high = stats.bootstrap_interval(values.tolist(), clusters, resamples=1000, seed=seed, method=method)
        covered += low <= truth <= high

    assert abs(covered / 2000 - 0.95) <= 0.02


@pytest.mark.soak
def test_bootstrap_time_and_memory():
    """10,000 resamples of 10,000 items take less than 2 s of one core and less than 64 MB."""
    values = np.random.default_rng(0).random(10_000).tolist()
    stats.bootstrap_interval(values[:100])  # imports
    began = time.process_time()
    stats.bootstrap_interval(values)
    seconds = time.process_time() - began
    tracemalloc.start()
    stats.bootstrap_interval(values, resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert seconds < 2, resource.getrusage(resource.RUSAGE_SELF)
    assert peak < 64e6
