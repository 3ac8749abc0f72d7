"""Thresholds for CI: what a report must reach, and how much worse than its baseline a run may be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from themis.errors import UsageError
from themis.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from themis.compare import Comparison, MetricDifference
    from themis.records import Report

FIELDS = {
    "mean": "mean",
    "ci_low": "lower end of the interval",
    "bound_low": "mean with every unscored sample wrong",
}
"""What of a metric may be held against a threshold, in words."""


class Threshold(NamedTuple):
    """A number that a metric must reach: its mean, or another of FIELDS."""

    metric: str
    field: str
    least: float

    def __str__(self) -> str:
        return f"{self.metric}{'' if self.field == 'mean' else f'.{self.field}'}={self.least:.10g}"


def parse_threshold(text: str) -> Threshold:
    """The threshold that METRIC=VALUE means (the mean), or METRIC.ci_low=VALUE, METRIC.bound_low=VALUE.

    Raises:
        UsageError: It means none.
    """
    name, value = parse_limit(text)
    metric, dot, field = name.rpartition(".")
    return Threshold(metric, field, value) if dot and field in FIELDS else Threshold(name, "mean", value)


def parse_limit(text: str) -> tuple[str, float]:
    """Name and number of METRIC=NUMBER.

    Raises:
        UsageError: It is not of that form.
    """
    name, equals, value = text.rpartition("=")
    try:
        if name and equals and abs(number := float(value)) < float("inf"):
            return name, number
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not METRIC=NUMBER, for example exact_match=0.8")


def check_metrics(thresholds: Iterable[Threshold], metrics: Collection[str]) -> None:
    """Raise UsageError where a threshold is for a metric that there is not."""
    for threshold in thresholds:
        if threshold.metric not in metrics:
            raise UsageError(unknown("metric of a threshold", threshold.metric, metrics))


def failures(thresholds: Iterable[Threshold], reports: Sequence[Report]) -> list[str]:
    """Every report that is below a threshold, in words; one for which nothing was scored is.

    Raises:
        UsageError: No report has the metric.
    """
    thresholds = list(thresholds)
    check_metrics(thresholds, {name for report in reports for name in report.metrics})
    return [
        _failure(threshold, report)
        for threshold in thresholds
        for report in reports
        if threshold.metric in report.metrics and not _reaches(threshold, report)
    ]


def _reaches(threshold: Threshold, report: Report) -> bool:
    value = report.metrics[threshold.metric][threshold.field]
    return value is not None and (value >= threshold.least or math.isclose(value, threshold.least, rel_tol=1e-12))


def _failure(threshold: Threshold, report: Report) -> str:
    result = report.metrics[threshold.metric]
    value, what = result[threshold.field], FIELDS[threshold.field]
    found = "is not known" if value is None else f"{_beside(value, threshold.least)} is below {threshold.least:.10g}"
    return (
        f"--fail-under {threshold}: {threshold.metric} of {report.benchmark} by {report.model}: {what} {found} "
        f"({result.n_scored} of {result.n_attempted} scored)"
    )


def regressions(comparison: Comparison, limits: Mapping[str, float], *, strict: bool = False) -> list[str]:
    """Every regression beyond its limit, in words; see Comparison.regressions."""
    return [
        f"--max-regression {each.metric}={limits[each.metric]:.10g}: {_worse(each, limits[each.metric])}"
        for each in comparison.regressions(limits, strict=strict)
    ]


def _worse(each: MetricDifference, limit: float) -> str:
    if each.difference is None and not each.n_paired:
        return f"no sample has a score in both {each.run} and {each.baseline}"
    if each.difference is None:
        return f"the difference of {each.run} and {each.baseline} cannot be computed"
    how_sure = f"p = {each.p_adjusted:.2g}, {each.n_paired} samples"
    return f"{each.run} is {_beside(-each.difference, limit)} below {each.baseline} ({how_sure})"


def _beside(value: float, limit: float) -> str:
    """The value to four places; in full where these would read like the limit."""
    short = f"{value:.4f}"
    return short if float(short) != limit else repr(value)


def cautions(comparison: Comparison, limits: Mapping[str, float]) -> list[str]:
    """What a gate that passes cannot promise: regressions that may be chance, and limits too fine to be seen."""
    certain = comparison.regressions(limits)
    lower = [each for each in comparison.regressions(limits, strict=True) if each not in certain]
    told = [
        f"{each.metric}: {each.run} is {-(each.difference or 0):.4f} below {each.baseline}, which may be chance "
        f"(p = {each.p_adjusted:.2g}) and passes; --strict counts it"
        for each in lower
    ]
    for each in comparison.differences:
        limit, low = limits.get(each.metric), each.ci_low
        if limit and low is not None and low < -limit and each not in (*certain, *lower):
            needed = round(each.n_paired * ((each.minimum_detectable_effect or 0) / limit) ** 2)
            told.append(
                f"{each.metric}: {each.run} may still be {-low:.4f} below {each.baseline} ({each.n_paired} samples): "
                f"to find a regression of {limit:g} four times in five takes some {needed} samples"
            )
    return told
