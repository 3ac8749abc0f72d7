"""MATH: 5,000 competition problems of seven subjects and five levels."""

from __future__ import annotations

from functools import partial

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.errors import DataError
from themis.records import Sample
from themis.scoring import ExactMatch
from themis.scoring.equivalence import MathEquivalence
from themis.scoring.text import last_boxed

_FILE = "math/test.*"
_HUB = "hf://datasets/EleutherAI/hendrycks_math/*/test-00000-of-00001.parquet"

_PROMPT = r"""Solve the following problem step by step. Put the final answer, and nothing else, in \boxed{{}}.

{problem}"""


def math() -> Benchmark:
    """The benchmark, its rows taken from where they are now."""
    return Benchmark(
        name="math",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        template=_PROMPT,
        metrics=(MathEquivalence(), ExactMatch("boxed", "boxed_match")),
        source=locate(_FILE, _HUB),
        description="5,000 competition problems; the boxed answer, mathematically equal",
        citation=(
            "Hendrycks et al. 2021, Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874"
        ),
        licence="MIT",
    )


def _sample(row: Row, number: int) -> Sample:
    target = last_boxed(field(row, "solution", number))
    if target is None:
        raise DataError(f"row {number}: there is no \\boxed{{}} in the solution")
    return Sample(
        id=str(row.get("unique_id") or number - 1),
        input=field(row, "problem", number),
        target=target,
        group=row.get("type"),
        metadata=row,
    )
