"""Metrics that compare what an answer says with the target."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from themis.scoring.base import Metric, Score
from themis.scoring.needs import TextMetric, needed_targets, needed_text, needs_text
from themis.scoring.numbers import final_number, same_number
from themis.scoring.text import contains_words, last_boxed, normal_latex, normal_text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from themis.records import GenerationRecord, Kind, Sample


@dataclass(frozen=True)
class ExactMatch(Metric):
    r"""1 where the answer is one of the targets, else 0.

    Attributes:
        compare: "text": the whole response, as normal_text. "number": the number after the last "####", else
            the last number, as an exact decimal. "boxed": what stands in the last \boxed{...}, as normal_latex.
        name: What the metric is called.
    """

    compare: Literal["text", "number", "boxed"] = "text"
    name: str = "exact_match"

    def config(self) -> dict[str, Any]:
        return {"compare": self.compare}

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        reason = needs_text(sample, kind)
        if reason is not None or self.compare != "number":
            return reason
        strange = [target for target in needed_targets(sample) if final_number(target) is None]
        return f"the target {strange[0]!r:.80} of sample {sample.id!r} has no number in it" if strange else None

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        extract, same = _COMPARISONS[self.compare]
        targets = needed_targets(sample)
        answer = extract(needed_text(generation))
        if answer is None:
            return Score(0.0)
        return Score(float(any(same(answer, target) for target in targets)), answer)

    def answer_key(self, answer: str) -> Hashable:
        return _KEYS[self.compare](answer)


@dataclass(frozen=True)
class Contains(TextMetric):
    """1 where one of the targets stands in the response as whole words (both as normal_text), else 0."""

    name: str = "contains"

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        text = needed_text(generation)
        normal = normal_text(text)
        found = any(contains_words(normal, normal_text(target)) for target in needed_targets(sample))
        return Score(float(found), _whole(text))


def _whole(text: str) -> str | None:
    return text.strip() or None


def _same_text(answer: str, target: str) -> bool:
    return normal_text(answer) == _normal_text(target)


def _same_latex(answer: str, target: str) -> bool:
    return normal_latex(answer) == _normal_latex(target)


# Targets come back once for every repeat and metric; responses hardly ever do.
_normal_text = lru_cache(maxsize=1024)(normal_text)
_normal_latex = lru_cache(maxsize=1024)(normal_latex)

_COMPARISONS: dict[str, tuple[Callable[[str], str | None], Callable[[str, str], bool]]] = {
    "text": (_whole, _same_text),
    "number": (final_number, same_number),
    "boxed": (last_boxed, _same_latex),
}
_KEYS: dict[str, Callable[[str], Hashable]] = {"text": normal_text, "number": Decimal, "boxed": normal_latex}
