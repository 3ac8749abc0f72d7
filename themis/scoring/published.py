"""Rules of other tools for free text, kept as they were published, comparison included: to reproduce their numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.registry import unknown
from themis.scoring.base import Score
from themis.scoring.needs import TextMetric, needed_targets, needed_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.records import GenerationRecord, Sample

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_STRICT_COT = re.compile(r"The answer is (-?[0-9.,]+).")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_BBH = re.compile(r"(?<=the answer is )(.*)(?=.)")


def _first(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    def extract(text: str) -> str | None:
        match = pattern.search(text)
        return match.group(1).strip() if match else None

    return extract


def _last_number(text: str) -> str | None:
    found = None
    for found in _FLEXIBLE.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    return found.group().strip() if found else None


def _gsm8k_form(text: str) -> str:
    """Without commas, dollar signs, what precedes "#### ", and a final dot; in lower case."""
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return (text.removesuffix("\n").removesuffix(".")).lower()


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True)
class _Rule:
    extract: Callable[[str], str | None]
    form: Callable[[str], str]


RULES = {
    "strict-match": _Rule(_first(_STRICT), _gsm8k_form),
    "strict-match-cot": _Rule(_first(_STRICT_COT), _gsm8k_form),
    "flexible-extract": _Rule(_last_number, _gsm8k_form),
    "bbh": _Rule(_first(_BBH), _as_it_is),
}


@dataclass(frozen=True)
class LmEvalMatch(TextMetric):
    """1 where lm-evaluation-harness would find the target, by one of its rules, else 0.

    Attributes:
        rule: "strict-match" or "flexible-extract" of its gsm8k, "strict-match-cot" of its gsm8k_cot, "bbh" of its
            bbh_cot_fewshot.
        name: What the metric is called.
    """

    rule: str = "flexible-extract"
    name: str = "lm_eval:flexible-extract"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(unknown("rule of lm_eval", self.rule, RULES))

    def config(self) -> dict[str, Any]:
        return {"rule": self.rule}

    def answer_key(self, answer: str) -> str:
        return RULES[self.rule].form(answer)

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        rule, targets = RULES[self.rule], needed_targets(sample)
        answer = rule.extract(needed_text(generation))
        if answer is None:
            return Score(0.0)
        return Score(float(rule.form(answer) in {rule.form(target) for target in targets}), answer)
