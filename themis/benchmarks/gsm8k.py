"""GSM8K: 1,319 word problems of grade-school arithmetic."""

from __future__ import annotations

from functools import partial

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import example_rows, locate, shipped_rows
from themis.benchmarks.fewshot import FewShot
from themis.errors import DataError
from themis.records import Sample
from themis.scoring import ExactMatch
from themis.scoring.numbers import final_number

_FILE = "gsm8k/test.jsonl"
_HUB = "hf://datasets/openai/gsm8k/main/test-00000-of-00001.parquet"
_TRAIN = ("gsm8k/train.*", "hf://datasets/openai/gsm8k/main/train-00000-of-00001.parquet")

_PROMPT = """\
Solve the following problem step by step. End with a line "#### N", where N is the answer as a number without
units.

{question}"""


def gsm8k() -> Benchmark:
    """The benchmark, its rows taken from where they are now."""
    return Benchmark(
        name="gsm8k",
        rows=partial(shipped_rows, _FILE, _HUB),
        sample=_sample,
        template=_PROMPT,
        metrics=(ExactMatch("number"),),
        fewshot=FewShot(
            partial(example_rows, *_TRAIN), lambda shot: str(shot.metadata["answer"]), source=locate(*_TRAIN)
        ),
        source=locate(_FILE, _HUB),
        description="1,319 word problems of grade-school arithmetic; the final number, exactly",
        citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168",
        licence="MIT",
    )


def _sample(row: Row, number: int) -> Sample:
    answer = field(row, "answer", number)
    gold = answer.rpartition("####")[2].strip()
    if final_number(gold) is None:
        raise DataError(f"row {number}: there is no number in the answer {gold[-100:]!r}")
    return Sample(id=str(number - 1), input=field(row, "question", number), target=gold, metadata=row)
