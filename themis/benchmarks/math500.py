"""MATH-500: 500 competition problems out of MATH."""

from __future__ import annotations

from functools import partial

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.records import Sample
from themis.scoring import ExactMatch
from themis.scoring.equivalence import MathEquivalence

_FILE = "math500/test.jsonl"
_HUB = "hf://datasets/HuggingFaceH4/MATH-500/test.jsonl"

_PROMPT = r"""Solve the following problem step by step. Put the final answer, and nothing else, in \boxed{{}}.

{problem}"""


def math500() -> Benchmark:
    """The benchmark, its rows taken from where they are now."""
    return Benchmark(
        name="math500",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        template=_PROMPT,
        metrics=(MathEquivalence(), ExactMatch("boxed", "boxed_match")),
        version="2",
        source=locate(_FILE, _HUB),
        description="500 competition problems out of MATH; the boxed answer, mathematically equal",
        citation=(
            "Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset, "
            "arXiv:2103.03874; the 500 are of Lightman et al. 2023, Let's Verify Step by Step, arXiv:2305.20050"
        ),
        licence="MIT",
    )


def _sample(row: Row, number: int) -> Sample:
    return Sample(
        id=str(row.get("unique_id") or number - 1),
        input=field(row, "problem", number),
        target=field(row, "answer", number),
        group=row.get("subject"),
        metadata=row,
    )
