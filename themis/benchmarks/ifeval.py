"""IFEval: 541 prompts with 834 instructions that a program can verify."""

from __future__ import annotations

from functools import partial
from typing import Any

from themis.benchmarks.base import INPUT, Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.errors import DataError
from themis.records import Sample
from themis.scoring.ifeval import IFEVAL_METRICS, instruction_targets

_FILE = "ifeval/input_data.jsonl"
_HUB = "hf://datasets/google/IFEval/ifeval_input_data.jsonl"


def ifeval() -> Benchmark:
    """The benchmark, its rows taken from where they are now."""
    return Benchmark(
        name="ifeval",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        template=INPUT,
        metrics=IFEVAL_METRICS,
        source=locate(_FILE, _HUB),
        description="541 prompts with 834 verifiable instructions; prompts and instructions followed",
        citation=("Zhou et al. 2023, Instruction-Following Evaluation for Large Language Models, arXiv:2311.07911"),
        licence="Apache-2.0",
    )


def _sample(row: Row, number: int) -> Sample:
    names, arguments = _listed(row, "instruction_id_list", str, number), _listed(row, "kwargs", dict, number)
    if len(names) != len(arguments):
        raise DataError(f"row {number} has {len(names)} instructions, but kwargs for {len(arguments)}")
    try:
        target = instruction_targets(names, arguments)
    except DataError as error:
        raise DataError(f"row {number}: {error}") from error
    return Sample(
        id=field(row, "key", number),
        input=field(row, "prompt", number),
        target=target,
        metadata=row,
    )


def _listed(row: Row, name: str, kind: type, number: int) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, kind) for item in value):
        raise DataError(f"row {number} needs a list of {kind.__name__} as {name!r}; it has {value!r:.100}")
    return value
