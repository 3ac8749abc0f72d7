"""The statistics of evaluations: pure functions, each of which names its source.

What is undefined is None, never NaN. What a report uses does not depend on the order of the values, to the bit.
"""

from __future__ import annotations

from themis.stats.intervals import (
    clustered_standard_error,
    macro_average,
    mean,
    missing_bounds,
    standard_error,
    t_interval,
    t_quantile,
    wilson_interval,
)
from themis.stats.paired import (
    PairedDifference,
    benjamini_hochberg,
    cohens_kappa,
    correlation,
    holm,
    mcnemar_exact,
    paired_difference,
    permutation_test,
    signed_sums,
)
from themis.stats.power import (
    minimum_detectable_effect,
    paired_variance,
    repeated_variance,
    samples_needed,
    unpaired_variance,
)
from themis.stats.repeats import best_of_k, pass_at_k, pass_hat_k
from themis.stats.resampling import bootstrap_interval, jackknife_standard_error

__all__ = [
    "PairedDifference",
    "benjamini_hochberg",
    "best_of_k",
    "bootstrap_interval",
    "clustered_standard_error",
    "cohens_kappa",
    "correlation",
    "holm",
    "jackknife_standard_error",
    "macro_average",
    "mcnemar_exact",
    "mean",
    "minimum_detectable_effect",
    "missing_bounds",
    "paired_difference",
    "paired_variance",
    "pass_at_k",
    "pass_hat_k",
    "permutation_test",
    "repeated_variance",
    "samples_needed",
    "signed_sums",
    "standard_error",
    "t_interval",
    "t_quantile",
    "unpaired_variance",
    "wilson_interval",
]
