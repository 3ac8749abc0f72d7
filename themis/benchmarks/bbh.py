"""BIG-Bench Hard: 6,511 questions of 27 tasks, answered in free text after reasoning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, read_text, shipped_rows
from themis.benchmarks.fewshot import FewShot
from themis.errors import DataError
from themis.records import Sample
from themis.scoring import PlaceMatch

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)

_HUB = "hf://datasets/SaylorTwift/bbh"
_PROMPTS = "https://raw.githubusercontent.com/suzgunmirac/BIG-Bench-Hard/main/cot-prompts"

_PROMPT = (
    '{input}\n\nThink step by step, then end with "So the answer is X.", where X is nothing but the answer. '
    "If there are options, X is the letter of one, in parentheses."
)


def bbh() -> Benchmark:
    """The benchmark, all tasks in one; each task is a group, and has three examples with their reasoning."""
    return Benchmark(
        name="bbh",
        rows=_rows,
        sample=_sample,
        template=_PROMPT,
        metrics=(PlaceMatch("stated", "exact_match"),),
        fewshot=FewShot(_examples, _reasoning, by_group=True, source=_PROMPTS),
        source=_HUB,
        description='6,511 questions of 27 tasks; what follows the last "answer is", exactly',
        citation="Suzgun et al. 2022, Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them, "
        "arXiv:2210.09261",
        licence="MIT",
    )


def _rows() -> Iterator[Row]:
    for task in TASKS:
        place = shipped_rows(f"bbh/{task}.*", f"{_HUB}/{task}/test-00000-of-00001.parquet")
        for number, row in enumerate(place):
            yield {"id": f"{task}-{number}", **row, "task": task}


def _sample(row: Row, number: int) -> Sample:
    task = str(row.get("task") or row.get("subject") or "") or None
    return Sample(
        id=str(number - 1) if row.get("id") is None else str(row["id"]),
        input=field(row, "input", number).strip(),
        target=field(row, "target", number).strip(),
        group=task,
        metadata=row,
    )


def _examples() -> Iterator[Row]:
    """The examples of the authors' chain-of-thought prompts, task by task."""
    for task in TASKS:
        place = locate(f"bbh/cot-prompts/{task}.txt", f"{_PROMPTS}/{task}.txt")
        found = list(_examples_in(read_text(place), task))
        if not found:
            raise DataError(f"{place}: there is no example in it; each has a line 'Q: ...' and then a line 'A: ...'")
        yield from found


def _examples_in(text: str, task: str) -> Iterator[Row]:
    for part in f"\n\n{text}".replace("\r\n", "\n").split("\n\nQ: ")[1:]:
        question, found, answer = part.partition("\nA: ")
        if found:
            steps = answer.strip().removeprefix("Let's think step by step.").strip()
            target = steps.rpartition("answer is ")[2].removesuffix(".")
            yield {"task": task, "input": question, "target": target, "reasoning": steps}


def _reasoning(shot: Sample) -> str:
    return str(shot.metadata["reasoning"])
