"""IFEval's four numbers: prompts and instructions followed, strictly and loosely."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from themis.errors import DataError
from themis.ids import canonical_json
from themis.scoring.base import Metric, PooledMetric, Score
from themis.scoring.instructions import checked, follows, loosened
from themis.scoring.needs import needed_text, needs_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from themis.records import GenerationRecord, Kind, Sample


@dataclass(frozen=True)
class _Followed(Metric):
    """Judges a response by the instructions of its sample."""

    loose: bool = False
    name: str = ""
    dear: bool = field(default=True, init=False)  # it loads models of languages, and reads a response up to eight times

    def config(self) -> dict[str, Any]:
        return {"loose": self.loose}

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        if reason := needs_text(sample, kind):
            return reason
        try:
            for instruction in _targets(sample):
                _read(instruction)
        except DataError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class PromptFollowed(_Followed):
    """1 where a response follows every instruction of its prompt, else 0.

    The instructions are the sample's target, as `instruction_targets` writes them. The answer names those that are
    followed, the explanation those that are not; the metadata has a truth value for each, in the order of the prompt.

    Attributes:
        loose: Whether it is enough that an instruction is followed by what is left of the response without its
            asterisks, its first line, its last line, or several of these.
        name: What the metric is called.
    """

    name: str = "prompt_level_strict"

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        names, followed = _judged(sample, generation, loose=self.loose)
        return _score(float(all(followed)), names, followed, generation)


@dataclass(frozen=True)
class InstructionsFollowed(_Followed, PooledMetric):
    """The share of all instructions that responses follow. See PromptFollowed; a value is [followed, instructions]."""

    name: str = "inst_level_strict"

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        names, followed = _judged(sample, generation, loose=self.loose)
        counts = [sum(followed), len(followed)]
        return _score(counts[0] / counts[1], names, followed, generation, counts)

    def pooled(self, sums: Sequence[float]) -> float:
        followed, instructions = sums
        return followed / instructions


IFEVAL_METRICS: tuple[Metric, ...] = (
    PromptFollowed(),
    InstructionsFollowed(),
    PromptFollowed(loose=True, name="prompt_level_loose"),
    InstructionsFollowed(loose=True, name="inst_level_loose"),
)


def instruction_targets(names: Sequence[str], arguments: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """A sample's target: each instruction with its arguments, as JSON text.

    Raises:
        DataError: There is no such instruction, or its arguments are wrong.
    """
    given = [(name, checked(name, each or {})) for name, each in zip(names, arguments, strict=True)]
    return [canonical_json({"instruction": name, **each}) for name, each in given]


def _judged(sample: Sample, generation: GenerationRecord, *, loose: bool) -> tuple[list[str], list[bool]]:
    """The names of a sample's instructions, and which of them the response follows."""
    response, target = needed_text(generation), _targets(sample)
    names = [_read(text)[0] for text in target]
    return names, list(_followed(tuple(target), response, loose))


def _targets(sample: Sample) -> list[str]:
    """The sample's instructions: its target, or the fields of the data where another tool kept the row."""
    if isinstance(sample.target, list) and sample.target:
        return sample.target
    names, arguments = (sample.metadata.get(name) for name in ("instruction_id_list", "kwargs"))
    if isinstance(names, list) and isinstance(arguments, list) and len(names) == len(arguments) > 0:
        return instruction_targets(names, arguments)
    raise DataError(f"sample {sample.id!r} has no instructions; this metric is for the rows of ifeval")


@lru_cache(maxsize=64)
def _followed(instructions: tuple[str, ...], response: str, loose: bool) -> tuple[bool, ...]:
    """Kept for a moment: the metrics of one response are computed one after the other."""
    responses = loosened(response) if loose else [response]
    return tuple(follows(*_read(instruction), responses) for instruction in instructions)


@lru_cache(maxsize=1024)
def _read(instruction: str) -> tuple[str, dict[str, Any]]:
    try:
        arguments = dict(json.loads(instruction))
        name = arguments.pop("instruction")
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"the target {instruction!r:.100} is no instruction; this metric is for ifeval's rows"
        ) from None
    return name, checked(name, arguments)


def _score(
    score: float, names: list[str], followed: list[bool], generation: GenerationRecord, value: Any = None
) -> Score:
    kept = [name for name, yes in zip(names, followed, strict=True) if yes]
    lost = [name for name, yes in zip(names, followed, strict=True) if not yes]
    answered = bool((generation.response or "").strip())
    return Score(
        score,
        answer=f"follows {', '.join(kept) or 'nothing'}" if answered else None,
        value=value,
        explanation=f"does not follow {', '.join(lost)}" if lost else None,
        metadata={"followed": followed},
    )
