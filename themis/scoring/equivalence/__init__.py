"""Whether an answer is the same mathematics as the target, however it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from themis.errors import UndecidedError
from themis.scoring.base import Score
from themis.scoring.equivalence._children import CHILDREN, SECONDS
from themis.scoring.needs import TextMetric, needed_targets, needed_text
from themis.scoring.text import last_boxed, normal_latex

if TYPE_CHECKING:
    from themis.records import GenerationRecord, Sample

__all__ = ["MathEquivalence"]

REACH = 4000
"""Characters at the end of an answer without a box in which an expression is looked for."""


@dataclass(frozen=True)
class MathEquivalence(TextMetric):
    r"""1 where the answer is mathematically one of the targets, else 0.

    The answer is what stands in the last \boxed{...}; without one the expression that "the answer is", or the last one.
    Two forms that normal_latex makes one are equal, and two plain numbers only if they are equal as exact decimals; all
    else math-verify decides, in a process beside this one that may take so many seconds of CPU for each answer. An
    answer that is not decided by then, and a target that is no mathematics, are errors of the scorer.

    Attributes:
        name: What the metric is called.
    """

    name: str = "math_equivalence"
    dear = True

    def config(self) -> dict[str, Any]:
        return {"math_verify": _library(), "seconds": SECONDS}

    def answer_key(self, answer: str) -> str:
        return normal_latex(answer)

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        response = needed_text(generation)
        answer = boxed = last_boxed(response)
        for target in needed_targets(sample):
            equal, answer = _equal(target, boxed, response)
            if equal:
                return Score(1.0, answer)
        return Score(0.0, answer)


@cache
def _library() -> str:
    return version("math-verify")


def _equal(target: str, boxed: str | None, response: str) -> tuple[bool, str | None]:
    """Whether they are equal, and the answer that was found."""
    if boxed is not None and (known := _plainly(target, boxed)) is not None:
        return known, boxed
    asked = {"text": response[-REACH:]} if boxed is None else {"boxed": boxed}
    try:
        reply = CHILDREN.ask({"target": target, **asked})
    except UndecidedError as error:
        words = boxed if boxed is not None else response[-REACH:].strip()
        raise UndecidedError(f"whether {words!r:.200} is {target!r:.200} is undecided: {error}") from error
    if "target" in reply:
        raise ValueError(f"the target {target!r} does not fit math_equivalence: {reply['target']}")
    return reply["equal"], reply["answer"]


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?\Z")
_DIGITS_OF_BASE = re.compile(r"(\d+)_\{?(\d+)\}?\Z")
_BRACES = re.compile(r"\\\{[^:|]*\\\}\Z")


def _plainly(target: str, answer: str) -> bool | None:
    """Whether they are equal where that needs no calculation; None where it does."""
    both_assign = "=" in target and "=" in answer  # x = 5 is 5, but it is not y = 5
    percent = "%" in target or "%" in answer  # 50% is 50, but also 0.5
    target, answer = normal_latex(target), normal_latex(answer)
    if target == answer and not both_assign:
        return True
    if _NUMBER.match(target) and _NUMBER.match(answer) and not (percent or both_assign):
        return Decimal(target) == Decimal(answer)
    numerals = [_DIGITS_OF_BASE.match(one) for one in (target, answer)]
    if numerals[0] and numerals[1]:  # the library does not see bases
        return numerals[0].groups() == numerals[1].groups()
    if any(_BRACES.match(one) and other.startswith(("(", "[")) for one, other in ((target, answer), (answer, target))):
        return False  # a set has no order
    return None
