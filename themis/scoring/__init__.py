"""What turns responses into scores: metrics, and the functions that they are made of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from themis.errors import UnknownNameError, UsageError
from themis.registry import Registry, unknown
from themis.scoring.base import (
    FunctionMetric,
    JudgedMetric,
    Metric,
    PooledMetric,
    Question,
    RepeatsMetric,
    Score,
    evaluate_generation,
)
from themis.scoring.choice import ChoiceMatch, LikeliestChoice
from themis.scoring.exact import Contains, ExactMatch
from themis.scoring.family import Family
from themis.scoring.fields import JsonMatch, MarkerMatch, PlaceMatch, RegexMatch
from themis.scoring.ifeval import IFEVAL_METRICS
from themis.scoring.judges import PairwiseJudge, RubricJudge
from themis.scoring.overlap import CorpusOverlap, EditSimilarity, ErrorRate, Rouge, Squad
from themis.scoring.published import LmEvalMatch
from themis.scoring.repeats import BestAtK, MajAtK, MeanAtK, PassAtK, PassHatK, parse_repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "BestAtK",
    "ChoiceMatch",
    "Contains",
    "CorpusOverlap",
    "EditSimilarity",
    "ErrorRate",
    "ExactMatch",
    "Family",
    "FunctionMetric",
    "JsonMatch",
    "JudgedMetric",
    "LikeliestChoice",
    "LmEvalMatch",
    "MajAtK",
    "MarkerMatch",
    "MeanAtK",
    "Metric",
    "PairwiseJudge",
    "PassAtK",
    "PassHatK",
    "PlaceMatch",
    "PooledMetric",
    "Question",
    "RegexMatch",
    "RepeatsMetric",
    "Rouge",
    "RubricJudge",
    "Score",
    "Squad",
    "evaluate_generation",
    "load_metric",
    "metric_names",
]

MetricLike: TypeAlias = "str | Metric | type[Metric] | Callable[..., Any]"

_METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "acc": LikeliestChoice(),
        "acc_bytes": LikeliestChoice("bytes", "acc_bytes"),
        "acc_norm": LikeliestChoice("characters", "acc_norm"),
        "after": Family("MARKER", MarkerMatch, MarkerMatch, "after"),
        "bleu": CorpusOverlap(),
        "boxed_match": ExactMatch("boxed", "boxed_match"),
        "character_accuracy": ErrorRate("characters", "character_accuracy"),
        "choice_match": ChoiceMatch(),
        "chrf": CorpusOverlap("chrf", "chrf"),
        "chrf++": CorpusOverlap("chrf++", "chrf++"),
        "contains": Contains(),
        "edit_similarity": EditSimilarity(),
        "exact_match": ExactMatch(),
        "json": Family("PATH", JsonMatch, JsonMatch, "json"),
        "judge": RubricJudge(),
        "last_line": PlaceMatch(),
        "lm_eval": Family("RULE", LmEvalMatch, LmEvalMatch, "lm_eval"),
        "math_equivalence": "themis.scoring.equivalence:MathEquivalence",
        "number_match": ExactMatch("number", "number_match"),
        "pairwise": PairwiseJudge(),
        "passes": "themis.scoring.code:PassesTests",
        "regex": Family("PATTERN", RegexMatch, RegexMatch, "regex"),
        "regex_last": Family("PATTERN", RegexMatch, partial(RegexMatch, last=True), "regex_last"),
        "rouge1": Rouge("1", "rouge1"),
        "rouge2": Rouge("2", "rouge2"),
        "rougeL": Rouge(),
        "squad_match": Squad("exact", "squad_match"),
        "stated_match": PlaceMatch("stated", "stated_match"),
        "token_f1": Squad(),
        "word_accuracy": ErrorRate(),
        **{metric.name: metric for metric in IFEVAL_METRICS},
    },
)


def metric_names() -> list[str]:
    """The names that load_metric knows on any benchmark, sorted."""
    return _METRICS.names()


def load_metric(metric: MetricLike, benchmark_metrics: Sequence[Metric] = ()) -> Metric:
    """The metric meant by a name, a Metric, or a function (sample, generation) -> float, bool or Score.

    A name means the benchmark's own metric of that name before any other: "exact_match" on gsm8k compares
    numbers. "NAME:text" is the metric NAME with an argument, "pass@4" (pass^4, mean@4, maj@4, best@4) one over
    4 repeats of the benchmark's main metric, "pass@4:NAME" of the one that is named.

    Raises:
        UnknownNameError: No metric of that name.
        UsageError: It is none of these.
    """
    if isinstance(metric, str):
        return _by_name(metric, benchmark_metrics)
    if isinstance(metric, type) and issubclass(metric, Metric):
        metric = metric()
    if isinstance(metric, Metric):
        if not metric.name:
            raise UsageError(f"{type(metric).__name__} has no name; set its class attribute `name`")
        return metric
    if callable(metric):
        return FunctionMetric(metric)
    raise UsageError(
        f"{metric!r} is a {type(metric).__name__}; give a name, a Metric or a function (sample, generation)"
    )


def _by_name(name: str, benchmark_metrics: Sequence[Metric]) -> Metric:
    own = {metric.name: metric for metric in benchmark_metrics}
    if name in own:
        return own[name]
    if repeats := parse_repeats(name):
        kind, k, base = repeats
        if base is None and not benchmark_metrics:
            raise UsageError(
                f"{name!r} does not say of which metric: write {name}:NAME, for example {name}:exact_match"
            )
        return kind(k, _by_name(base, benchmark_metrics) if base else benchmark_metrics[0], name)
    known = _METRICS.names()
    base, colon, argument = name.partition(":")
    if colon and name not in known and base in {*known, *own}:
        return _by_name(base, benchmark_metrics).with_argument(argument)
    if name not in known:
        raise UnknownNameError(unknown("metric", name, {*known, *own}))
    found = _METRICS.get(name)
    return found if isinstance(found, Metric) else load_metric(found)
