"""Metrics that compare one part of a response with the target: what a pattern, a marker or a JSON path finds."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from themis.scoring.base import Score
from themis.scoring.extract import (
    after_marker,
    compiled,
    json_field,
    json_text,
    last_line,
    search_pattern,
    stated_answer,
)
from themis.scoring.needs import TextMetric, needed_targets, needed_text
from themis.scoring.text import normal_text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from themis.records import GenerationRecord, Sample


class _PartMatch(TextMetric):
    """1 where what is found in the response is one of the targets, both as normal_text, else 0."""

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        targets = needed_targets(sample)
        answer = self.extract(needed_text(generation))
        return Score(float(answer is not None and any(self.same(answer, each) for each in targets)), answer)

    @abstractmethod
    def extract(self, text: str) -> str | None:
        """The part of a response that is the answer; None where it has none."""

    def answer_key(self, answer: str) -> Hashable:
        return normal_text(answer)

    def same(self, answer: str, target: str) -> bool:
        """Whether the answer means the target."""
        return normal_text(answer) == normal_text(target)


@dataclass(frozen=True)
class RegexMatch(_PartMatch):
    """1 where what a regular expression finds is one of the targets, both as normal_text, else 0.

    The answer is the group named "answer", else the first group that matched, else the whole match. A pattern that
    backtracks for more than a second on a response is an error of the scorer for that response.

    Attributes:
        pattern: In the syntax of Python's `re`, look-around included.
        name: What the metric is called.
        last: Whether the last match counts, and not the first.
    """

    pattern: str
    name: str = "regex"
    last: bool = False

    def __post_init__(self) -> None:
        compiled(self.pattern)

    def config(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "last": self.last}

    def extract(self, text: str) -> str | None:
        return search_pattern(text, self.pattern, last=self.last)


@dataclass(frozen=True)
class JsonMatch(_PartMatch):
    """1 where a field of the response's last JSON object is one of the targets, else 0.

    Numbers are compared as exact decimals, text as normal_text, anything else as canonical JSON.

    Attributes:
        path: Names and positions with dots between them: "answer.value", "steps.0".
        name: What the metric is called.
    """

    path: str
    name: str = "json"

    def config(self) -> dict[str, Any]:
        return {"path": self.path}

    def extract(self, text: str) -> str | None:
        return json_text(json_field(text, self.path))

    def answer_key(self, answer: str) -> str | Decimal:
        try:
            number = Decimal(answer)
        except InvalidOperation:
            return normal_text(answer)
        return number if number.is_finite() else normal_text(answer)

    def same(self, answer: str, target: str) -> bool:
        if super().same(answer, target):
            return True
        try:
            return Decimal(answer) == Decimal(target)
        except InvalidOperation:
            return False


@dataclass(frozen=True)
class MarkerMatch(_PartMatch):
    """1 where what follows the last occurrence of a marker on its line is one of the targets, else 0.

    Attributes:
        marker: The text in front of the answer, as "Answer:"; its case does not matter.
        name: What the metric is called.
    """

    marker: str
    name: str = "after"

    def config(self) -> dict[str, Any]:
        return {"marker": self.marker}

    def extract(self, text: str) -> str | None:
        return after_marker(text, self.marker)


@dataclass(frozen=True)
class PlaceMatch(_PartMatch):
    """1 where what stands in a certain place of the response is one of the targets, both as normal_text, else 0.

    Attributes:
        place: "last_line": the last line that is not blank. "stated": what follows the last "answer is", else the whole
            response where it is one line.
        name: What the metric is called.
    """

    place: str = "last_line"
    name: str = "last_line"

    def config(self) -> dict[str, Any]:
        return {"place": self.place}

    def extract(self, text: str) -> str | None:
        return _PLACES[self.place](text)


_PLACES: dict[str, Callable[[str], str | None]] = {"last_line": last_line, "stated": stated_answer}
