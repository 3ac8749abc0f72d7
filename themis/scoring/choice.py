"""Metrics of multiple choice: by the letter that an answer names, and by the likelihood of each choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from themis.errors import UsageError
from themis.registry import unknown
from themis.scoring.base import Metric, Score
from themis.scoring.choices import RULES, choice_index
from themis.scoring.letters import LETTERS
from themis.scoring.needs import needed_text

if TYPE_CHECKING:
    from themis.records import GenerationRecord, Kind, Sample


@dataclass(frozen=True)
class ChoiceMatch(Metric):
    """1 where the letter that the response picks is the right choice's, else 0.

    The target is a letter, or a choice's text, or its number from 0. Each rule is a metric of its own; docs/metrics.md
    says what each takes for the answer.

    Attributes:
        rule: The name of a rule.
        name: What the metric is called.
    """

    rule: str = "chat"
    name: str = "choice_match"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(unknown("rule of choice_match", self.rule, RULES))

    def config(self) -> dict[str, Any]:
        return {"rule": self.rule}

    def with_argument(self, text: str) -> ChoiceMatch:
        return ChoiceMatch(text, f"{self.name}:{text}")

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        return "it reads answers, and a loglikelihood has none" if kind == "loglikelihood" else _no_choices(sample)

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        choices, right = _choices(sample)
        answer = RULES[self.rule](needed_text(generation), choices)
        return Score(float(answer is not None and answer in {LETTERS[index] for index in right}), answer)


@dataclass(frozen=True)
class LikeliestChoice(Metric):
    """1 where the right choice is the likeliest continuation, else 0; the first of equals counts as the likeliest.

    As lm-evaluation-harness does: `acc` compares the log-likelihoods as they are, `acc_norm` divides each by the number
    of characters of its choice, `acc_bytes` by the number of its bytes in UTF-8.

    Attributes:
        length: What a log-likelihood is divided by.
        name: What the metric is called.
    """

    length: Literal["none", "characters", "bytes"] = "none"
    name: str = "acc"

    def config(self) -> dict[str, Any]:
        return {"length": self.length}

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        if kind != "loglikelihood":
            return f"it compares log-likelihoods, and a {kind} request brings none"
        return _no_choices(sample)

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        choices, right = _choices(sample)
        found = generation.choice_logprobs
        if found is None or len(found) != len(choices):
            count = "no" if found is None else str(len(found))
            raise ValueError(f"the generation has {count} choice_logprobs for {len(choices)} choices")
        if not all(math.isfinite(value) for value in found):
            raise ValueError(f"choice_logprobs are {found}; they must be finite")
        ratios = [value / _size(choice, self.length) for value, choice in zip(found, choices, strict=True)]
        best = ratios.index(max(ratios))
        return Score(float(best in right), LETTERS[best])


def _size(choice: str, length: str) -> int:
    size = {"none": 1, "characters": len(choice), "bytes": len(choice.encode("utf-8", "surrogatepass"))}[length]
    if not size:
        raise ValueError("a choice is empty, so that its log-likelihood cannot be divided by its length")
    return size


def _choices(sample: Sample) -> tuple[list[str], set[int]]:
    """The choices of a sample, and which of them are right."""
    if reason := _no_choices(sample):
        raise ValueError(reason)
    targets = [sample.target] if isinstance(sample.target, str) else sample.target or []
    choices = sample.choices or []
    return choices, {index for target in targets if (index := choice_index(target, choices)) is not None}


def _no_choices(sample: Sample) -> str | None:
    """Why a sample is no question with choices; None where it is one."""
    if not sample.choices:
        return f"sample {sample.id!r} has no choices"
    if len(sample.choices) > len(LETTERS):
        return f"sample {sample.id!r} has {len(sample.choices)} choices, more than there are letters"
    if not sample.target:
        return f"sample {sample.id!r} has no target"
    targets = [sample.target] if isinstance(sample.target, str) else sample.target
    strange = [target for target in targets if choice_index(target, sample.choices) is None]
    return f"the target {strange[0]!r:.80} of sample {sample.id!r} is none of its choices" if strange else None
