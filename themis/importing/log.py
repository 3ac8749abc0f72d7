"""What a log of another tool says, in themis's words."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.benchmarks.custom import GROUP_FIELDS
from themis.errors import DataError
from themis.ids import canonical_json, evaluation_id, generation_id, readable_run_id, text_hash
from themis.records import EvaluationRecord, GenerationRecord, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Answer(NamedTuple):
    """The answers to one sample that stand together in a log, and their scores by the other tool."""

    sample: Sample
    generations: list[GenerationRecord]
    evaluations: list[EvaluationRecord]


@dataclass(frozen=True)
class Log:
    """One log, read as far as its head.

    Attributes:
        tool: The tool that wrote it: the prefix of the names of its metrics.
        tool_version: Of the tool, "" where the log does not say.
        name: The log's file name.
        benchmark: What the tool calls what was asked.
        version: Its version, by which the scores are of one kind.
        model: The name of the model.
        identity: What the log says of what determined the model's answers.
        params: Sampling parameters.
        answers: Reads the answers, lazily. Call it once.
        facts: What else is kept, as JSON: the tool's own numbers over all answers above all.
        complete: Whether the tool came to its end.
        left_out: What could not be taken over, in words, and how often; counted while the answers are read.
        over_repeats: Metrics whose scores are over all repeats of a sample; known when the answers are read.
    """

    tool: str
    tool_version: str
    name: str
    benchmark: str
    version: str
    model: str
    identity: dict[str, Any]
    params: dict[str, Any]
    answers: Callable[[Log], Iterator[Answer]] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    left_out: Counter[str] = field(default_factory=Counter)
    over_repeats: set[str] = field(default_factory=set)

    def config(self) -> dict[str, Any]:
        """What determined the answers, as a run has it. The template is not known, only the prompts are."""
        return {"benchmark": self.benchmark, "model": self.identity, "prompt": None, "params": self.params}

    def run_id(self) -> str:
        """Readable, and another one for every log."""
        return readable_run_id(self.benchmark, self.model, [self.config(), self.name])

    def generation(self, sample: Sample, repeat: int, prompt: str | list[Any], **fields: Any) -> GenerationRecord:
        """The record of one answer."""
        messages = None if isinstance(prompt, str) else prompt
        kind = fields.setdefault("kind", "completion" if messages is None else "chat")
        params = fields.setdefault("params", self.params)
        name = generation_id(
            benchmark=self.benchmark,
            sample_id=sample.id,
            prompt=prompt,
            model=self.identity,
            params=params,
            kind=kind,
            continuations=sample.choices if kind == "loglikelihood" else None,
            repeat=repeat,
        )
        return GenerationRecord(
            id=name,
            prompt=prompt if isinstance(prompt, str) else canonical_json(prompt),
            sample_id=sample.id,
            repeat=repeat,
            benchmark=self.benchmark,
            group=sample.group,
            model=self.model,
            messages=messages,
            attempts=1,
            **fields,
        )

    def evaluation(
        self, metric: str, value: Any, sample: Sample, generations: list[GenerationRecord], **fields: Any
    ) -> EvaluationRecord | None:
        """The record of one score, None where the value is no number; then it is counted as left out.

        Of several generations it is the score over these repeats.
        """
        first, name = generations[0], f"{self.tool}:{metric}"
        score = _number(value)
        if score is None:
            self.left_out[f"scores by {name}: {_kind(value)} is no number for one answer"] += 1
            return None
        if len(generations) > 1:
            self.over_repeats.add(name)
        ids = [generation.id for generation in generations]
        return EvaluationRecord(
            id=evaluation_id(
                generation_ids=ids,
                metric=name,
                version=self.version,
                config={"imported": self.tool},
                target=sample.target,
            ),
            generation_id=first.id,
            metric=name,
            sample_id=sample.id,
            repeat=first.repeat,
            group=sample.group,
            benchmark=self.benchmark,
            model=self.model,
            scorer=f"{name}@{self.version}",
            target=sample.target,
            score=score,
            generation_ids=ids if len(ids) > 1 else None,
            response_hash=None if first.response is None else text_hash(first.response),
            **fields,
        )


@contextmanager
def reading(where: str, tool: str) -> Iterator[None]:
    """Turns what goes wrong with a value of an unforeseen kind into a DataError that says where it stands."""
    try:
        yield
    except DataError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is not as {tool} writes it ({type(error).__name__}: {error})") from error


def group_of(fields: dict[str, Any]) -> str | None:
    """The subject that a row names, as own rows may."""
    found = map(fields.get, GROUP_FIELDS)
    return next((value for value in found if isinstance(value, str)), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def _kind(value: Any) -> str:
    names = {str: "text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), repr(value))
