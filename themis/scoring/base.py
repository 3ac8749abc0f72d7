"""What turns a sample and a generation into a score."""

from __future__ import annotations

import copy
import math
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from themis.errors import UsageError
from themis.ids import EvaluationIds, callable_identity, canonical_json, text_hash
from themis.records import EvaluationRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from themis.records import GenerationRecord, Kind, Prompt, Sample


@dataclass(frozen=True)
class Score:
    """What a metric says of one generation. `answer` is what was extracted, None where nothing was found."""

    score: float
    answer: str | None = None
    value: Any = None
    explanation: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """Scores generations, extraction included. A value: it pickles, and equal configurations score equally.

    Raise the version whenever a response could get another score: stored scores of the old version stay what
    they are, and are computed anew under new ids.
    """

    name: str = ""
    version: str = "1"
    dear: bool = False
    """True for what takes long (code, equivalence, judges): it is never run where model calls wait."""

    def config(self) -> dict[str, Any]:
        """The settings that change scores, as JSON; part of the evaluation's id."""
        return {}

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        """Why answers to such a sample can never be scored, in words; None where they can.

        It is asked of a benchmark's first sample before any request is made.
        """
        return None

    @abstractmethod
    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        """The score of a generation that has a response.

        Raises:
            Exception: Anything: it becomes an evaluation of error_kind "scorer", never a score of 0.
        """

    def answer_key(self, answer: str) -> Hashable:
        """Equal for answers that mean the same, as this metric reads them; maj@k counts votes by it."""
        return answer

    def with_argument(self, text: str) -> Metric:
        """The metric that "NAME:text" means.

        Raises:
            UsageError: It takes no argument, or not this one.
        """
        raise UsageError(f"the metric {self.name!r} takes no argument; {text!r} was given as one")


class PooledMetric(Metric):
    """Its number over a run is a function of sums over all answers, not the mean of their scores.

    Corpus BLEU is one, and the share of instructions followed. Each Score has as its `value` the summands of one
    answer: a list of numbers, equally long for every answer. `score` is what one answer would have alone. The report
    computes the standard error by the jackknife over samples.
    """

    @abstractmethod
    def pooled(self, sums: Sequence[float]) -> float:
        """The number over answers whose values add up, element by element, to these sums."""


class RepeatsMetric(Metric):
    """One score for each sample, out of the scores of its repeats by another metric.

    Attributes:
        of: The metric that scores each repeat.
        k: So many repeats are what the score speaks of; a sample needs as many with a score.
    """

    of: Metric
    k: int

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        return self.of.unfit(sample, kind)

    def config(self) -> dict[str, Any]:
        return {"k": self.k, "of": scorer_identity(self.of)}

    def over(self, base: Metric) -> Self:
        """The same metric over the scores of another one."""
        found = copy.copy(self)
        object.__setattr__(found, "of", base)
        return found

    @abstractmethod
    def reduce(self, evaluations: Sequence[EvaluationRecord]) -> Score:
        """The score of a sample from the evaluations of its repeats by `of`: those with a score, in their order.

        There are at least `k`.
        """

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        return self.reduce([evaluate_generation(self.of, sample, generation)])


@dataclass(frozen=True)
class Question:
    """What a judge is asked: text or messages. Of the sampling `params` those that are set are sent."""

    prompt: Prompt
    params: dict[str, Any] = field(default_factory=dict)


class JudgedMetric(Metric):
    """Asks a model, the judge, about each answer. Its calls are generation records of the same run.

    Attributes:
        model: The judge: a name, a function or a Model; None where evaluate() or score() are to say it.
        judge_id: What determines the judge's answers, once it is loaded; part of each evaluation's id.
    """

    model: Any = None
    judge_id: dict[str, Any] | None = None

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        return "it reads answers, and a loglikelihood has none" if kind == "loglikelihood" else None

    @abstractmethod
    def questions(self, sample: Sample, generation: GenerationRecord) -> list[Question]:
        """What the judge is asked about a generation that has a response. Quick: it runs on the driver."""

    @abstractmethod
    def judge(self, sample: Sample, generation: GenerationRecord, answers: list[GenerationRecord]) -> Score:
        """The score out of the judge's answers, one for each question, in their order; each has a response.

        Raises:
            Exception: Anything, for a verdict that cannot be read too: an evaluation of error_kind "scorer".
        """

    def judged_by(self, model: Any, identity: dict[str, Any] | None) -> Self:
        """The same metric with its judge loaded; a judge whose identity cannot be told has none in common."""
        found = copy.copy(self)
        object.__setattr__(found, "model", model)
        object.__setattr__(found, "judge_id", identity or {"unknown": uuid.uuid4().hex})
        return found

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        raise UsageError(f"{self.name} asks a judge, which evaluate() and score() do; it cannot score by itself")


class FunctionMetric(Metric):
    """A function (sample, generation) -> float, bool or Score as a metric.

    A plain number scores the response as a whole, so the response is the answer. The function's code is its
    identity; where that cannot be told, no stored score is ever taken for one of this object's.

    Args:
        func: The function.
        name: What the metric is called; default the function's own name.
    """

    def __init__(self, func: Callable[[Sample, GenerationRecord], Any], name: str | None = None) -> None:
        self.func = func
        own = getattr(func, "__name__", type(func).__name__)
        self.name = name or ("custom" if own == "<lambda>" else own)
        self._identity = callable_identity(func) or f"unknown-{uuid.uuid4().hex}"

    def config(self) -> dict[str, Any]:
        return {"function": self._identity}

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        result = self.func(sample, generation)
        return result if isinstance(result, Score) else Score(result, answer=generation.response or None)


def evaluate_generation(metric: Metric, sample: Sample, generation: GenerationRecord) -> EvaluationRecord:
    """The evaluation of one generation by one metric. Pure, and it never raises: a failure is a record.

    A failure of the infrastructure or of the request is passed on unscored. An outcome of the model (a
    refusal, a prompt that is too long) is scored 0 and keeps its kind; a pooled metric counts it as an empty
    response. An exception of the metric, or a score that is not a finite number, is an error of kind "scorer".
    """
    if generation.status == "error":
        return _unanswered(metric, sample, generation)
    return evaluation_by(metric, sample, generation, lambda: metric.score(sample, generation))


def judged_evaluation(
    metric: JudgedMetric, sample: Sample, generation: GenerationRecord, answers: list[GenerationRecord]
) -> EvaluationRecord:
    """The evaluation of one generation out of a judge's answers, whose ids its metadata has as "judge_calls".

    A judge's answer that the infrastructure lost leaves the score missing for that reason, so that it is asked again;
    what the judge refused, or could not be asked, is an error of kind "scorer". Never raises.
    """
    if generation.status == "error":
        return _unanswered(metric, sample, generation)
    calls = {"judge_calls": [answer.id for answer in answers]}
    for answer in answers:
        if answer.status == "error":
            kind = "infrastructure" if answer.error_kind == "infrastructure" else "scorer"
            reason = {**_passed_on(answer), "error_kind": kind, "error_message": f"the judge: {answer.error_message}"}
            return _record(metric, sample, generation, status="error", error=reason, metadata=calls)
    found = evaluation_by(metric, sample, generation, lambda: metric.judge(sample, generation, answers))
    return replace(found, metadata={**found.metadata, **calls})


def evaluation_by(
    metric: Metric, sample: Sample, generation: GenerationRecord, score: Callable[[], Score]
) -> EvaluationRecord:
    """The evaluation of one generation by a function that a metric of a user's own may be behind. Never raises."""
    return _record(metric, sample, generation, **evaluation_fields(metric, score))


def evaluation_fields(metric: Metric, score: Callable[[], Score]) -> dict[str, Any]:
    """The fields of an evaluation that a score fills, or the error that a metric's function ends in."""
    try:
        return _checked(score(), pooled=isinstance(metric, PooledMetric))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's metric raises is data
        return _failed(error)


def failed_evaluation(
    metric: Metric, sample: Sample, generation: GenerationRecord, error: BaseException
) -> EvaluationRecord:
    """The evaluation of a generation that a metric could not score, for the reason that is given."""
    return _record(metric, sample, generation, **_failed(error))


def _failed(error: BaseException) -> dict[str, Any]:
    return {
        "status": "error",
        "error_kind": "scorer",
        "error_type": type(error).__name__,
        "error_message": str(error),
    }


def metric_evaluation_id(metric: Metric, generation_ids: Sequence[str], target: str | Sequence[str] | None) -> str:
    """Id of the evaluation of these generations by a metric: themis.ids.evaluation_id with what the metric is."""
    known = _ids.get(id(metric))
    if known is None or known[0] is not metric:
        if len(_ids) >= _METRICS_KEPT:
            _ids.clear()
        known = _ids[id(metric)] = (metric, _evaluation_ids(metric))
    return known[1].id(generation_ids, target)


_METRICS_KEPT = 100
_ids: dict[int, tuple[Metric, EvaluationIds]] = {}
"""What the ids of a metric's scores begin with, by the metric's own id(): a metric is a value, and does not change."""


def _evaluation_ids(metric: Metric) -> EvaluationIds:
    judge = metric.judge_id if isinstance(metric, JudgedMetric) else None
    return EvaluationIds(metric=metric.name, version=metric.version, config=metric.config(), judge=judge)


def scorer_identity(metric: Metric) -> dict[str, Any]:
    """What determines a metric's scores, as JSON."""
    judge = {"judge": metric.judge_id} if isinstance(metric, JudgedMetric) else {}
    return {"metric": metric.name, "version": metric.version, "config": metric.config(), **judge}


def _unanswered(metric: Metric, sample: Sample, generation: GenerationRecord) -> EvaluationRecord:
    """The evaluation of a generation without a response."""
    error = _passed_on(generation)
    if generation.error_kind != "model":
        return _record(metric, sample, generation, status="error", error=error)
    if not isinstance(metric, PooledMetric):
        return _record(metric, sample, generation, score=0.0, error=error)
    empty = replace(generation, response="", status="ok")
    found = evaluation_by(metric, sample, generation, lambda: metric.score(sample, empty))
    if found.status == "error":
        return found
    return replace(found, score=0.0, answer=None, **error)


def _passed_on(generation: GenerationRecord) -> dict[str, Any]:
    return {
        "error_kind": generation.error_kind or "infrastructure",
        "error_type": generation.error_type,
        "error_message": generation.error_message,
    }


def _checked(found: Score, *, pooled: bool = False) -> dict[str, Any]:
    """The fields of a score that an evaluation takes over, once they are sure to be JSON."""
    score = float(found.score)
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}; return a finite number")
    answer: object = found.answer  # a user's Score may hold anything
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"the answer {answer!r:.100} is a {type(answer).__name__}; return text or None")
    if found.value is not None or found.metadata:
        canonical_json([found.value, found.metadata])
    if pooled and not _are_summands(found.value):
        raise TypeError(f"the value {found.value!r:.100} cannot be summed; a pooled metric needs a list of numbers")
    return {
        "score": score,
        "answer": found.answer,
        "value": found.value,
        "explanation": found.explanation,
        "metadata": found.metadata,
    }


def _are_summands(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, int | float) for part in value)


def _record(
    metric: Metric,
    sample: Sample,
    generation: GenerationRecord,
    *,
    error: dict[str, Any] | None = None,
    **fields: Any,
) -> EvaluationRecord:
    response = generation.response
    return EvaluationRecord(
        id=metric_evaluation_id(metric, (generation.id,), sample.target),
        generation_id=generation.id,
        metric=metric.name,
        sample_id=generation.sample_id or sample.id,
        repeat=generation.repeat,
        group=sample.group,
        benchmark=generation.benchmark,
        model=generation.model,
        scorer=f"{metric.name}@{metric.version}",
        target=sample.target,
        response_hash=None if response is None else text_hash(response),
        **(error or {}),
        **fields,
    )
