"""MMLU: 14,042 questions with four choices about 57 subjects; and the 3,018 of them about science and mathematics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from themis.benchmarks._questions import CHOICE_PROMPT, letter, letter_answer, target_text, texts, with_letters
from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import example_rows, locate, shipped_rows
from themis.benchmarks.fewshot import FewShot
from themis.records import Sample
from themis.scoring import ChoiceMatch, LikeliestChoice
from themis.scoring.letters import letters

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEST = ("mmlu/test.*", "hf://datasets/cais/mmlu/all/test-00000-of-00001.parquet")
_DEV = ("mmlu/dev.*", "hf://datasets/cais/mmlu/all/dev-00000-of-00001.parquet")
_STEM_TEST = (("mmlu_stem/test.*", "mmlu/test.*"), _TEST[1])
_STEM = frozenset(
    {
        "abstract_algebra",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    }
)


def mmlu() -> Benchmark:
    """The benchmark, asked for a letter; each subject is a group, and has five examples."""
    return Benchmark(
        name="mmlu",
        rows=partial(shipped_rows, *_TEST),
        sample=_sample,
        template=CHOICE_PROMPT,
        metrics=(ChoiceMatch(),),
        fewshot=FewShot(partial(example_rows, *_DEV), letter_answer, by_group=True, source=locate(*_DEV)),
        source=locate(*_TEST),
        description="14,042 questions with four choices about 57 subjects; the letter of the right one",
        citation="Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv:2009.03300",
        licence="MIT",
    )


def mmlu_stem() -> Benchmark:
    """The 18 subjects of science, technology, engineering and mathematics."""
    return mmlu().replace(
        name="mmlu_stem",
        rows=_stem_rows,
        source=locate(*_STEM_TEST),
        description="3,018 questions of MMLU about 18 subjects of science and mathematics; the letter of the right one",
    )


def mmlu_loglikelihood() -> Benchmark:
    """The benchmark as completion: which of the letters is the likeliest to follow."""
    return mmlu().replace(
        name="mmlu_loglikelihood",
        sample=_sample_of_letters,
        template="{input}\nAnswer:",
        metrics=(LikeliestChoice(),),
        kind="loglikelihood",
        fewshot=FewShot(
            partial(example_rows, *_DEV),
            target_text,
            form="text",
            by_group=True,
            intro=_intro,
            source=locate(*_DEV),
        ),
        description="MMLU by the likelihood of each letter",
    )


def _stem_rows() -> Iterator[Row]:
    return (row for row in shipped_rows(*_STEM_TEST) if _subject(row) in _STEM)


def _subject(row: Row) -> str | None:
    return row.get("subject") or row.get("type")


def _sample(row: Row, number: int) -> Sample:
    choices = texts(row.get("choices"), "'choices'", number)
    return Sample(
        id=str(number - 1),
        input=with_letters(field(row, "question", number).strip(), choices),
        target=letter(row.get("answer"), choices, number),
        choices=choices,
        group=_subject(row),
        metadata=row,
    )


def _sample_of_letters(row: Row, number: int) -> Sample:
    choices = texts(row.get("choices"), "'choices'", number)
    return Sample(
        id=str(number - 1),
        input=with_letters(field(row, "question", number).strip(), choices, "\n"),
        target=letter(row.get("answer"), choices, number),
        choices=list(letters(choices)),
        group=_subject(row),
        metadata=row,
    )


def _intro(sample: Sample) -> str:
    subject = (sample.group or "various subjects").replace("_", " ")
    return f"Multiple-choice questions about {subject}, each with its answer.\n\n"
