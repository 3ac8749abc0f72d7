"""Metrics whose name needs an argument: "regex:PATTERN"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.scoring.base import Metric, Score

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.records import GenerationRecord, Kind, Sample


@dataclass(frozen=True)
class Family(Metric):
    """Stands for the metrics of one name with an argument behind a colon; it scores nothing by itself.

    Attributes:
        argument: What the argument is, in one word of capitals.
        made: What its metrics are.
        make: The metric of an argument and a name.
        name: Of the family.
    """

    argument: str
    made: type[Metric]
    make: Callable[[str, str], Metric]
    name: str = ""

    def config(self) -> dict[str, Any]:
        return {"argument": self.argument}

    def with_argument(self, text: str) -> Metric:
        if not text:
            raise UsageError(self._advice())
        return self.make(text, f"{self.name}:{text}")

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        return self._advice()

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        raise UsageError(self._advice())

    def _advice(self) -> str:
        return f"{self.name!r} takes its {self.argument.lower()} behind a colon: {self.name}:{self.argument}"
