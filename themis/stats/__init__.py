"""The statistics of evaluations: pure functions, each of which names its source.

What is undefined is None, never NaN. What a report uses does not depend on the order of the values, to the bit.
"""

from __future__ import annotations

from themis.stats.intervals import (
    clustered_standard_error,
    mean,
    missing_bounds,
    standard_error,
    t_interval,
    t_quantile,
    wilson_interval,
)
from themis.stats.repeats import best_of_k, pass_at_k, pass_hat_k

__all__ = [
    "best_of_k",
    "clustered_standard_error",
    "mean",
    "missing_bounds",
    "pass_at_k",
    "pass_hat_k",
    "standard_error",
    "t_interval",
    "t_quantile",
    "wilson_interval",
]
