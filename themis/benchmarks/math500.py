"""MATH-500: 500 competition problems out of MATH."""

from __future__ import annotations

from functools import partial

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.benchmarks.math import math
from themis.records import Sample

_FILE = "math500/test.jsonl"
_HUB = "hf://datasets/HuggingFaceH4/MATH-500/test.jsonl"


def math500() -> Benchmark:
    """The benchmark, its rows taken from where they are now; asked and scored as MATH is."""
    whole = math()
    return whole.replace(
        name="math500",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        version="2",
        source=locate(_FILE, _HUB),
        description="500 competition problems out of MATH; the boxed answer, mathematically equal",
        citation=f"{whole.citation}; the 500 are of Lightman et al. 2023, Let's Verify Step by Step, arXiv:2305.20050",
    )


def _sample(row: Row, number: int) -> Sample:
    return Sample(
        id=str(row.get("unique_id") or number - 1),
        input=field(row, "problem", number),
        target=field(row, "answer", number),
        group=row.get("subject"),
        metadata=row,
    )
