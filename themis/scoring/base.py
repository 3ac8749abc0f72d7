"""What turns a sample and a generation into a score."""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from themis.ids import callable_identity, canonical_json, evaluation_id, text_hash
from themis.records import EvaluationRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.records import GenerationRecord, Sample


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

    @abstractmethod
    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        """The score of a generation that has a response.

        Raises:
            Exception: Anything: it becomes an evaluation of error_kind "scorer", never a score of 0.
        """


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
    refusal, a prompt that is too long) is scored 0 and keeps its kind. An exception of the metric, or a score
    that is not a finite number, is an error of kind "scorer".
    """
    if generation.status == "error" and generation.error_kind == "model":
        return _record(metric, sample, generation, score=0.0, error=_passed_on(generation))
    if generation.status == "error":
        return _record(metric, sample, generation, status="error", error=_passed_on(generation))
    try:
        found = metric.score(sample, generation)
        fields = _checked(found)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's metric raises is data
        return failed_evaluation(metric, sample, generation, error)
    return _record(metric, sample, generation, **fields)


def failed_evaluation(
    metric: Metric, sample: Sample, generation: GenerationRecord, error: BaseException
) -> EvaluationRecord:
    """The evaluation of a generation that a metric could not score, for the reason that is given."""
    reason = {"error_kind": "scorer", "error_type": type(error).__name__, "error_message": str(error)}
    return _record(metric, sample, generation, status="error", error=reason)


def _passed_on(generation: GenerationRecord) -> dict[str, Any]:
    return {
        "error_kind": generation.error_kind or "infrastructure",
        "error_type": generation.error_type,
        "error_message": generation.error_message,
    }


def _checked(found: Score) -> dict[str, Any]:
    """The fields of a score that an evaluation takes over, once they are sure to be JSON."""
    score = float(found.score)
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}; return a finite number")
    answer: object = found.answer  # a user's Score may hold anything
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"the answer {answer!r:.100} is a {type(answer).__name__}; return text or None")
    if found.value is not None or found.metadata:
        canonical_json([found.value, found.metadata])
    return {
        "score": score,
        "answer": found.answer,
        "value": found.value,
        "explanation": found.explanation,
        "metadata": found.metadata,
    }


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
        id=evaluation_id(
            generation_ids=(generation.id,),
            metric=metric.name,
            version=metric.version,
            config=metric.config(),
            target=sample.target,
        ),
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
