"""What a worker does with one item: ask the model, score the answer. Failures are records, never exceptions."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from themis.backends._chunk import executions, plain
from themis.backends._slots import run_coroutine
from themis.errors import FatalModelError, ModelError
from themis.models.base import Response
from themis.records import GenerationRecord
from themis.scoring.base import evaluate_generation, failed_evaluation
from themis.scoring.pace import LoopScorer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from themis.models.base import Model
    from themis.records import EvaluationRecord, Request, Sample
    from themis.scoring.base import Metric


@plain
class Item(NamedTuple):
    """What is sent to a worker: a question, and the sample that its answer is scored against."""

    request: Request
    sample: Sample


@plain
class Done(NamedTuple):
    """What comes back. `fatal` says that no further request can succeed.

    `unscored` is the sample where metrics were found too slow to score it beside model calls; else None.
    """

    generation: GenerationRecord
    evaluations: list[EvaluationRecord]
    fatal: bool = False
    unscored: Sample | None = None


Scoring: TypeAlias = "tuple[Sample, GenerationRecord, Sequence[int]]"
"""A stored answer, and the places of the metrics that have not scored it. A bare tuple: it is pickled the fastest."""


@plain
class ScoringBlock(NamedTuple):
    """Stored answers that are scored together: a message for each would cost more than many a score."""

    answers: list[Scoring]


@plain
class ScoredBlock(NamedTuple):
    """What comes back of scoring stored answers, after so many seconds of work."""

    evaluations: list[EvaluationRecord]
    seconds: float


@dataclass(frozen=True)
class ScoreStored:
    """ScoringBlock -> ScoredBlock. It carries the metrics, so that items are only values."""

    metrics: tuple[Metric, ...]

    def __call__(self, block: ScoringBlock) -> ScoredBlock:
        began = time.perf_counter()
        evaluations = [
            evaluate_generation(self.metrics[place], sample, generation)
            for sample, generation, places in block.answers
            for place in places
        ]
        return ScoredBlock(evaluations, time.perf_counter() - began)

    def failed(self, answer: Scoring, error: BaseException) -> list[EvaluationRecord]:
        """What comes of scoring that a backend gave up: errors of the scorers."""
        sample, generation, places = answer
        return [failed_evaluation(self.metrics[place], sample, generation, error) for place in places]


@dataclass(frozen=True)
class AsyncWork:
    """Item -> Done, on an event loop, where many wait at once. Metrics that turn out slow are left for later."""

    model: Model
    metrics: tuple[Metric, ...]
    scorer: LoopScorer = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", LoopScorer(self.metrics))

    async def __call__(self, item: Item) -> Done:
        generation, fatal = await generate(self.model, item)
        evaluations = await self.scorer.score(item.sample, generation)
        return Done(generation, evaluations, fatal, item.sample if len(evaluations) < len(self.metrics) else None)


@dataclass(frozen=True)
class BlockingWork:
    """Item -> Done, on the calling thread: for models that hold it, and for backends without coroutines."""

    model: Model
    metrics: tuple[Metric, ...]

    def __call__(self, item: Item) -> Done:
        asking = generate(self.model, item)
        generation, fatal = _drive(asking) if self.model.blocking else run_coroutine(asking)
        return Done(generation, score(self.metrics, item.sample, generation), fatal)


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits; a loop for each call would cost more than the call."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise TypeError("a model with blocking=True waits for something in generate(); leave `blocking` False")


async def generate(model: Model, item: Item) -> tuple[GenerationRecord, bool]:
    """The model's answer as a record, and whether its error is fatal. Never raises, except when cancelled."""
    started_at, clock = round(time.time(), 6), time.perf_counter()
    fatal = False
    try:
        outcome = _answered(await model.generate(item.request))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an error of one sample must not stop the run
        outcome, fatal = failure(error), isinstance(error, FatalModelError)
    outcome["attempts"] += executions() - 1  # the worker of an earlier time died: the request may have been sent
    outcome |= {"started_at": started_at, "latency": time.perf_counter() - clock, "worker": _worker(os.getpid())}
    return record(item, outcome), fatal


def _answered(response: object) -> dict[str, Any]:
    """The fields of a record that an answer fills; a user's model may return anything."""
    if not isinstance(response, Response):
        raise ModelError(f"the model returned a {type(response).__name__}; generate() has to return a Response")
    fields = dict(vars(response))
    text = fields.pop("text")
    if text is None and response.choice_logprobs is None:
        raise ModelError("the model returned a Response without text")
    if text is not None and not isinstance(text, str):
        raise ModelError(f"the model returned a Response whose text is {text!r:.100}")
    return {"response": text, **_storable(fields)}


def _storable(fields: dict[str, Any]) -> dict[str, Any]:
    """The side fields, those without the value that no storage keeps: an odd token count must not cost the answer."""
    odd = {name: f"{value!r:.100}" for name, value in fields.items() if not _fits(name, value)}
    if not odd:
        return fields
    metadata = fields["metadata"] if "metadata" not in odd else {}
    kept = {name: None if name in odd else value for name, value in fields.items()}
    return {**kept, "attempts": kept["attempts"] or 1, "metadata": {**metadata, "not_stored": odd}}


_COUNTS = frozenset({"input_tokens", "output_tokens", "reasoning_tokens", "cached_input_tokens", "attempts"})
_LISTS = frozenset({"choice_logprobs", "choice_is_greedy", "token_logprobs"})


def _fits(name: str, value: Any) -> bool:
    """Whether a storage can keep the value as this field: found here, it costs one answer and not the run."""
    if value is None:
        return name not in {"attempts", "metadata"}
    if name in _COUNTS:
        return type(value) is int and -(2**63) <= value < 2**63
    if name in _LISTS or name == "metadata":
        return isinstance(value, list if name in _LISTS else dict) and (not value or _is_json(value))
    return isinstance(value, str)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def failure(error: BaseException) -> dict[str, Any]:
    """The fields of a record that say what went wrong; a ModelError knows whose fault it was."""
    return {
        "response": None,
        "status": "error",
        "error_kind": error.kind if isinstance(error, ModelError) else "infrastructure",
        "error_type": type(error).__name__,
        "error_message": str(error),
        "attempts": error.attempts if isinstance(error, ModelError) else 1,
    }


def record(item: Item, outcome: dict[str, Any]) -> GenerationRecord:
    """The record of one request: what was asked, and what came of it."""
    request = item.request
    return GenerationRecord(
        id=request.id,
        prompt=request.prompt,
        sample_id=request.sample_id,
        repeat=request.repeat,
        benchmark=request.benchmark,
        group=item.sample.group,
        kind=request.kind,
        model=request.model,
        params=request.params,
        messages=request.messages,
        **outcome,
    )


def lost(item: Item, error: BaseException, metrics: Sequence[Metric]) -> Done:
    """What comes of an item that a backend gave up: an error of the infrastructure, unscored."""
    generation = record(item, failure(error))
    return Done(generation, score(metrics, item.sample, generation))


def score(metrics: Sequence[Metric], sample: Sample, generation: GenerationRecord) -> list[EvaluationRecord]:
    """One evaluation by each metric."""
    return [evaluate_generation(metric, sample, generation) for metric in metrics]


@cache
def _worker(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"
