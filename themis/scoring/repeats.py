"""Metrics over several answers to one sample: pass@k, pass^k, mean@k, maj@k, best@k.

Each is an expected value over k answers drawn without replacement from the n that were scored, so that all of the n
count, and n may be larger than k. With n = k nothing is drawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import comb, fsum, lcm
from typing import TYPE_CHECKING, Any, ClassVar

from themis import stats
from themis.errors import UsageError
from themis.ids import content_hash
from themis.records import EvaluationRecord
from themis.scoring.base import Metric, RepeatsMetric, Score, evaluation_fields, metric_evaluation_id

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


@dataclass(frozen=True)
class _AtK(RepeatsMetric):
    """A metric over k repeats, called by its kind and k where it has no name of its own."""

    k: int
    of: Metric
    name: str = ""

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise UsageError(f"{self.kind}{self.k}: give a whole number of repeats from 1, for example {self.kind}4")
        if not isinstance(self.of, Metric) or isinstance(self.of, RepeatsMetric):
            raise UsageError(f"{self.kind}{self.k} of {self.of!r}: give a metric that scores one answer")
        if not self.name:
            object.__setattr__(self, "name", f"{self.kind}{self.k}")


class PassAtK(_AtK):
    """The probability that one of k answers at least is right: 1 - C(n - c, k) / C(n, k) for c of n that are.

    Unbiased: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1.
    """

    kind = "pass@"

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        n, right = len(evaluations), _right(self.name, evaluations)
        return _score(stats.pass_at_k(n, right, self.k), evaluations, f"{right} of {n} right")


class PassHatK(_AtK):
    """The probability that all of k answers are right: C(c, k) / C(n, k) for c of n that are.

    Yao et al. 2024, "tau-bench", arXiv:2406.12045, section 5.
    """

    kind = "pass^"

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        n, right = len(evaluations), _right(self.name, evaluations)
        return _score(stats.pass_hat_k(n, right, self.k), evaluations, f"{right} of {n} right")


class MeanAtK(_AtK):
    """The mean score of k answers. It is expected to be the mean of all n, whatever k is."""

    kind = "mean@"

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        return _score(fsum(_scores(evaluations)) / len(evaluations), evaluations, f"mean of {len(evaluations)}")


class BestAtK(_AtK):
    """The expected best score of k answers: an upper bound for whatever picks one of them.

    With scores in ascending order, the i-th of n is the best of C(i - 1, k - 1) of the C(n, k) choices.
    """

    kind = "best@"

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        scores, n = sorted(_scores(evaluations)), len(evaluations)
        expected = stats.best_of_k(scores, self.k)
        best = max(evaluations, key=lambda evaluation: evaluation.score or 0.0)
        return Score(expected, best.answer, explanation=f"the best of {n} has {scores[-1]:g}")


class MajAtK(_AtK):
    """The score of the answer that most of k have: Wang et al. 2022, "Self-Consistency", arXiv:2203.11171.

    Answers are counted by the metric's `answer_key`; a repeat without an answer has no vote. Where several answers have
    the most votes, each is as likely to be taken, so that the score is the mean of theirs. Without any vote it is 0.
    """

    kind = "maj@"

    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        votes = _votes(self.of, evaluations)
        silent = len(evaluations) - sum(count for count, _ in votes)
        if len(evaluations) == self.k:
            most = max((count for count, _ in votes), default=0)
            tied = [score for count, score in votes if count == most]
            score = fsum(tied) / len(tied) if tied else 0.0
        else:
            score = _expected_majority(votes, silent, self.k)
        return _score(score, evaluations, f"{len(votes)} different answers of {len(evaluations)}", self.of)


REPEATS: dict[str, type[_AtK]] = {kind.kind: kind for kind in (PassAtK, PassHatK, MeanAtK, MajAtK, BestAtK)}
"""What the names of metrics over repeats begin with."""

_NAME = re.compile(rf"({'|'.join(map(re.escape, REPEATS))})(-?\d+)(?::(.+))?")


def parse_repeats(name: str) -> tuple[type[_AtK], int, str | None] | None:
    """Kind, k and the base metric's name of "pass@4" or "pass@4:contains"; None for a name of another form.

    Raises:
        UsageError: It begins like one, and goes on in another way.
    """
    match = _NAME.fullmatch(name)
    if match:
        return REPEATS[match[1]], int(match[2]), match[3]
    kind = next((kind for kind in REPEATS if name.startswith(kind)), None)
    if kind is None:
        return None
    raise UsageError(
        f"metric {name!r}: write {kind}K for K repeats of the benchmark's main metric, or {kind}K:NAME for those of "
        f"another, for example {kind}4 or {kind}4:contains"
    )


def check_repeats(metrics: Sequence[Metric], num_samples: int, remedy: str) -> None:
    """Raise UsageError for a metric that speaks of more repeats than there are; `remedy` says what to do instead."""
    for metric in metrics:
        if isinstance(metric, RepeatsMetric) and metric.k > num_samples:
            have = "is 1 answer" if num_samples == 1 else f"are {num_samples} answers"
            raise UsageError(f"{metric.name} needs {metric.k} repeats, and there {have} to each sample: {remedy}")


def most_repeats(metrics: Sequence[Metric]) -> int:
    """So many repeats the metrics speak of, 1 at least."""
    return max([1, *(metric.k for metric in metrics if isinstance(metric, RepeatsMetric))])


def evaluate_repeats(
    metric: RepeatsMetric, generation_ids: Sequence[str], evaluations: Sequence[EvaluationRecord]
) -> EvaluationRecord:
    """The evaluation of a sample by a metric over its repeats. Pure, and it never raises: a failure is a record.

    Args:
        metric: What scores the sample.
        generation_ids: Of all its repeats, those without a score too.
        evaluations: By the metric's base metric, one at least, in the order of the repeats; those that are missing
            are left out.
    """
    scored = [evaluation for evaluation in evaluations if evaluation.score is not None]
    if len(scored) < metric.k:
        fields = _too_few(metric, len(generation_ids), evaluations, len(scored))
    else:
        fields = evaluation_fields(metric, lambda: metric.reduce(scored))
    first = evaluations[0]
    return EvaluationRecord(
        id=metric_evaluation_id(metric, generation_ids, first.target),
        generation_id=generation_ids[0],
        generation_ids=list(generation_ids),
        metric=metric.name,
        sample_id=first.sample_id,
        group=first.group,
        benchmark=first.benchmark,
        model=first.model,
        scorer=f"{metric.name}@{metric.version}",
        target=first.target,
        response_hash=repeats_hash(evaluations),
        **fields,
    )


def repeats_hash(evaluations: Sequence[EvaluationRecord]) -> str:
    """Equal for equal scores of the repeats: what a score over them was made of."""
    return content_hash([[each.id, each.score, each.answer, each.value, each.error_kind] for each in evaluations])


def _too_few(
    metric: RepeatsMetric, n_repeats: int, evaluations: Sequence[EvaluationRecord], n_scored: int
) -> dict[str, Any]:
    """Why there is no score: the kind of the first error, and how many of each there are."""
    kinds = [each.error_kind or "scorer" for each in evaluations if each.score is None]
    kinds += ["infrastructure"] * (n_repeats - len(evaluations))  # never asked, or not yet scored
    reasons = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return {
        "status": "error",
        "error_kind": "infrastructure" if "infrastructure" in kinds else kinds[0] if kinds else "scorer",
        "error_type": "TooFewRepeats",
        "error_message": f"{n_scored} of {n_repeats} repeats have a score, {metric.name} needs {metric.k}"
        + (f" (without one: {reasons})" if reasons else ""),
    }


def _scores(evaluations: Sequence[EvaluationRecord]) -> list[float]:
    return [evaluation.score for evaluation in evaluations if evaluation.score is not None]


def _right(name: str, evaluations: Sequence[EvaluationRecord]) -> int:
    scores = _scores(evaluations)
    if not set(scores) <= {0, 1}:
        partial = next(score for score in scores if score not in {0, 1})
        raise ValueError(
            f"{name} counts right answers, and one is scored {partial:g}; mean@k and best@k take any score"
        )
    return int(sum(scores))


def _score(score: float, evaluations: Sequence[EvaluationRecord], why: str, of: Metric | None = None) -> Score:
    """A score with the answer that most repeats have, the first of several."""
    counts: dict[Hashable, list[str]] = {}
    for evaluation in evaluations:
        if evaluation.answer is not None:
            key = of.answer_key(evaluation.answer) if of else evaluation.answer
            counts.setdefault(key, []).append(evaluation.answer)
    answer = max(counts.values(), key=len)[0] if counts else None
    return Score(score, answer, explanation=why)


def _votes(of: Metric, evaluations: Sequence[EvaluationRecord]) -> list[tuple[int, float]]:
    """How many have each answer, and its mean score: one answer may be scored in several ways."""
    scores: dict[Hashable, list[float]] = {}
    for evaluation in evaluations:
        if evaluation.answer is not None and evaluation.score is not None:
            scores.setdefault(of.answer_key(evaluation.answer), []).append(evaluation.score)
    return [(len(found), fsum(found) / len(found)) for found in scores.values()]


def _expected_majority(votes: Sequence[tuple[int, float]], silent: int, k: int) -> float:
    """The mean score of the majority over all choices of k out of n, ties as in MajAtK."""
    n = silent + sum(count for count, _ in votes)
    most = range(1, min(k, max((count for count, _ in votes), default=0)) + 1)
    exact = [(count, Fraction(score)) for count, score in votes]
    scale = lcm(*(score.denominator for _, score in exact))
    whole = [(count, int(score * scale)) for count, score in exact]
    return float(sum((_majorities(whole, silent, k, top) for top in most), Fraction(0)) / (comb(n, k) * scale))


def _majorities(votes: Sequence[tuple[int, int]], silent: int, k: int, top: int) -> Fraction:
    """The sum of scores over the choices of k in which the most votes of an answer are `top`.

    Answer by answer, `ways` has for (size, number of answers with `top` votes) how many choices there are so far, and
    the sum over them of the scores of those answers. Whole numbers: of some 1,000 answers there are more choices than
    floats reach.
    """
    ways: dict[tuple[int, int], tuple[int, int]] = {(i, 0): (comb(silent, i), 0) for i in range(min(silent, k) + 1)}
    for count, score in votes:
        longer: dict[tuple[int, int], tuple[int, int]] = {}
        for (size, tied), (number, total) in ways.items():
            for taken in range(min(count, top, k - size) + 1):
                factor, is_top = comb(count, taken), taken == top
                place = size + taken, tied + is_top
                before = longer.get(place, (0, 0))
                gained = total + score * number if is_top else total
                longer[place] = before[0] + number * factor, before[1] + gained * factor
        ways = longer
    sums = (Fraction(total, tied) for (size, tied), (_, total) in ways.items() if size == k and tied)
    return sum(sums, Fraction(0))
