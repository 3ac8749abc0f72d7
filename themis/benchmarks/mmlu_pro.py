"""MMLU-Pro: 12,032 questions with up to ten choices about 14 fields, asked for reasoning first."""

from __future__ import annotations

from functools import partial

from themis.benchmarks._questions import letter, texts, with_letters
from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import example_rows, locate, shipped_rows
from themis.benchmarks.fewshot import FewShot
from themis.records import Sample
from themis.scoring import ChoiceMatch

_TEST = (
    ("mmlu_pro/test.*", "mmlu_pro/*.zip"),
    "hf://datasets/TIGER-Lab/MMLU-Pro/data/test-00000-of-00001.parquet",
)
_VALIDATION = ("mmlu_pro/validation.*", "hf://datasets/TIGER-Lab/MMLU-Pro/data/validation-00000-of-00001.parquet")
_GRADED = frozenset({"pred", "generated_text", "model_outputs"})
"""Fields of a published run of some model, which has the questions too; no part of a question."""
_STEPS = "Answer: Let's think step by step."


def mmlu_pro() -> Benchmark:
    """The benchmark; its main metric is the rule that it was published with, without a fallback."""
    return Benchmark(
        name="mmlu_pro",
        rows=partial(shipped_rows, *_TEST),
        sample=_sample,
        template=f"Question:\n{{input}}\n{_STEPS}",
        metrics=(ChoiceMatch("answer_is"),),
        fewshot=FewShot(
            partial(example_rows, *_VALIDATION),
            _reasoning,
            form="text",
            by_group=True,
            intro=_intro,
            source=locate(*_VALIDATION),
        ),
        source=locate(*_TEST),
        description='12,032 questions with up to ten choices about 14 fields; the letter of the first "answer is (X)"',
        citation="Wang et al. 2024, MMLU-Pro: A More Robust and Challenging Benchmark, arXiv:2406.01574",
        licence="MIT",
    )


def _sample(row: Row, number: int) -> Sample:
    options = [option for option in texts(row.get("options"), "'options'", number) if option != "N/A"]
    return Sample(
        id=str(row["question_id"]) if row.get("question_id") is not None else str(number - 1),
        input=with_letters(field(row, "question", number), options, "\nOptions:\n"),
        target=letter(row.get("answer_index"), options, number),
        choices=options,
        group=row.get("category"),
        metadata={name: value for name, value in row.items() if name not in _GRADED},
    )


def _reasoning(shot: Sample) -> str:
    text = str(shot.metadata.get("cot_content") or f"The answer is ({shot.target}).")
    return text.removeprefix("A: Let's think step by step.").strip()


def _intro(sample: Sample) -> str:
    return (
        f"Multiple-choice questions about {sample.group or 'various fields'}. Think step by step, and end with "
        '"The answer is (X)", where X is the letter of the right choice.\n\n'
    )
