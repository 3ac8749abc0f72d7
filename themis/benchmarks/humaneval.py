"""HumanEval: 164 functions to be written from their docstrings."""

from __future__ import annotations

from functools import partial

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.records import Sample
from themis.scoring.code import PassesTests

_FILE = "humaneval/HumanEval.*"
_HUB = "hf://datasets/openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet"

_PROMPT = """\
Complete the following Python function. Answer with the whole function, its imports included, in one block of code.

```python
{prompt}```"""

_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""Where a completion leaves the function."""


def humaneval() -> Benchmark:
    """The benchmark as chat models are asked, its rows taken from where they are now."""
    return Benchmark(
        name="humaneval",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        template=_PROMPT,
        metrics=(PassesTests(start="prompt", entry_point="entry_point"),),
        source=locate(_FILE, _HUB),
        description="164 functions to be written from their docstrings; the hidden tests pass",
        citation="Chen et al. 2021, Evaluating Large Language Models Trained on Code, arXiv:2107.03374",
        licence="MIT",
    )


def humaneval_completion() -> Benchmark:
    """The benchmark as base models are asked: they go on where the prompt ends."""
    return humaneval().replace(
        name="humaneval_completion",
        template="{prompt}",
        kind="completion",
        stop=_STOP,
        description="HumanEval for base models: the text goes on after the docstring",
    )


def _sample(row: Row, number: int) -> Sample:
    entry_point = field(row, "entry_point", number)
    return Sample(
        id=field(row, "task_id", number),
        input=field(row, "prompt", number),
        target=f"{field(row, 'test', number).strip()}\n\n\ncheck({entry_point})",
        metadata=row,
    )
