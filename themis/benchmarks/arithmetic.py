"""Arithmetic: 300 one-line word problems that ship with the package, so that a first run needs no network."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from themis.benchmarks.base import Benchmark, Row, field
from themis.records import Sample
from themis.scoring import ExactMatch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROMPT = """\
Solve the following problem. End with a line "#### N", where N is the answer as a number without units.

{question}"""


def arithmetic() -> Benchmark:
    """The benchmark."""
    return Benchmark(
        name="arithmetic",
        rows=_rows,
        sample=_sample,
        template=_PROMPT,
        metrics=(ExactMatch("number"),),
        source="the package themis",
        description="300 one-line word problems, made from templates; the final number, exactly",
        citation="themis",
        licence="MIT",
    )


def _rows() -> Iterator[Row]:
    text = files("themis").joinpath("data/arithmetic.jsonl").read_text("utf-8")
    return map(json.loads, text.splitlines())


def _sample(row: Row, number: int) -> Sample:
    return Sample(
        id=str(number - 1),
        input=field(row, "question", number),
        target=field(row, "answer", number),
        group=row.get("kind"),
        metadata=row,
    )
