"""MBPP: short Python functions to be written from a sentence and three tests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.errors import DataError
from themis.records import Sample
from themis.scoring.code import PassesTests

if TYPE_CHECKING:
    from collections.abc import Iterator

_HUB = "hf://datasets/google-research-datasets/mbpp/{}/test-00000-of-00001.parquet"

_PROMPT = """\
Write Python code for this task: {input}

The code has to pass these tests:

```python
{tests}
```

Answer with the code, its imports included, in one block."""

_TEST_SPLIT = range(11, 511)
"""The task ids that are asked: 1 to 10 are for few-shot prompts, those from 511 on for validation and training."""


def mbpp() -> Benchmark:
    """The 500 tasks of the test split, as they were collected."""
    return _benchmark("mbpp", "mbpp/mbpp.*", _HUB.format("full"), "500 short Python functions; their three tests pass")


def mbpp_sanitized() -> Benchmark:
    """The 257 tasks of the test split whose words and tests were checked by hand."""
    return _benchmark(
        "mbpp_sanitized",
        "mbpp/sanitized-mbpp.*",
        _HUB.format("sanitized"),
        "257 short Python functions, the part of MBPP that was checked by hand; their tests pass",
    )


def _benchmark(name: str, file: str, hub: str, description: str) -> Benchmark:
    return Benchmark(
        name=name,
        rows=partial(_test_rows, file, hub),
        sample=_sample,
        template=_PROMPT,
        metrics=(PassesTests(),),
        source=locate(file, hub),
        description=description,
        citation="Austin et al. 2021, Program Synthesis with Large Language Models, arXiv:2108.07732",
        licence="CC-BY-4.0",
    )


def _test_rows(file: str, hub: str) -> Iterator[Row]:
    """The rows of the test split: the files of the authors have the other splits too."""
    return (row for row in shipped_rows(file, hub) if row.get("task_id") in _TEST_SPLIT)


def _sample(row: Row, number: int) -> Sample:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests:
        raise DataError(f"row {number} has no list of tests in 'test_list'; its fields are {', '.join(row)}")
    setup = row.get("test_imports") or [row.get("test_setup_code") or ""]
    return Sample(
        id=field(row, "task_id", number),
        input=field(row, "prompt" if "prompt" in row else "text", number),
        target="\n".join([*filter(None, setup), *tests]),
        metadata={**row, "tests": "\n".join(tests)},
    )
