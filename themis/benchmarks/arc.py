"""ARC: questions of American science exams for schools, the easy ones and the challenging ones."""

from __future__ import annotations

from functools import partial
from typing import Any

from themis.benchmarks._questions import CHOICE_PROMPT, letter, letter_answer, texts, with_letters
from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import example_rows, locate, shipped_rows
from themis.benchmarks.fewshot import FewShot
from themis.errors import DataError
from themis.records import Sample
from themis.scoring import ChoiceMatch, LikeliestChoice
from themis.scoring.letters import LETTERS

_HUB = "hf://datasets/allenai/ai2_arc"
_SETS = {"arc_easy": ("ARC-Easy", 2376), "arc_challenge": ("ARC-Challenge", 1172)}


def arc_easy() -> Benchmark:
    """The questions that simple methods answer, asked for a letter."""
    return _by_letter("arc_easy")


def arc_challenge() -> Benchmark:
    """The questions that simple methods get wrong, asked for a letter."""
    return _by_letter("arc_challenge")


def arc_easy_loglikelihood() -> Benchmark:
    """ARC-Easy as completion: which choice is the likeliest to follow."""
    return _by_likelihood("arc_easy")


def arc_challenge_loglikelihood() -> Benchmark:
    """ARC-Challenge as completion: which choice is the likeliest to follow."""
    return _by_likelihood("arc_challenge")


def _by_letter(name: str) -> Benchmark:
    part, count = _SETS[name]
    test = (f"{name}/test.*", f"{_HUB}/{part}/test-00000-of-00001.parquet")
    train = (f"{name}/train.*", f"{_HUB}/{part}/train-00000-of-00001.parquet")
    return Benchmark(
        name=name,
        rows=partial(shipped_rows, *test),
        sample=_sample,
        template=CHOICE_PROMPT,
        metrics=(ChoiceMatch(),),
        fewshot=FewShot(partial(example_rows, *train), letter_answer, source=locate(*train)),
        source=locate(*test),
        description=f"{count:,} questions of school science ({part}); the letter of the right choice",
        citation="Clark et al. 2018, Think you have Solved Question Answering? Try ARC, arXiv:1803.05457",
        licence="CC-BY-SA-4.0",
    )


def _by_likelihood(name: str) -> Benchmark:
    asked = _by_letter(name)
    assert asked.fewshot is not None  # noqa: S101 - written above
    return asked.replace(
        name=f"{name}_loglikelihood",
        template="Question: {question}\nAnswer:",
        metrics=(LikeliestChoice(), LikeliestChoice("characters", "acc_norm")),
        kind="loglikelihood",
        fewshot=FewShot(asked.fewshot.rows, _right_choice, form="text", source=asked.fewshot.source),
        description=f"{_SETS[name][0]} by the likelihood of each choice",
    )


def _sample(row: Row, number: int) -> Sample:
    row = _flat(row)
    question, choices, labels = field(row, "question", number), *_choices(row, number)
    key = field(row, "answerKey", number)
    if key not in labels:
        raise DataError(f"row {number} has {key!r} as 'answerKey'; its choices are {', '.join(labels)}")
    return Sample(
        id=str(row.get("id") or number - 1),
        input=with_letters(question, choices),
        target=letter(labels.index(key), choices, number),
        choices=choices,
        metadata=row,
    )


def _flat(row: Row) -> Row:
    """The row in the hub's form; the authors' own files have the choices, one by one, inside the question."""
    inner = row.get("question")
    if not isinstance(inner, dict):
        return row
    listed = [each for each in inner.get("choices") or [] if isinstance(each, dict)]
    choices = {name: [each.get(name) for each in listed] for name in ("text", "label")}
    return {**row, "question": inner.get("stem"), "choices": choices}


def _choices(row: Row, number: int) -> tuple[list[str], list[str]]:
    """Texts and labels; labels are letters in most rows, and digits in some."""
    found: Any = row.get("choices")
    if not isinstance(found, dict):
        raise DataError(f"row {number} has no 'choices' with a list of 'text' and one of 'label'")
    choices, labels = (texts(found.get(name), f"'choices.{name}'", number) for name in ("text", "label"))
    if len(choices) != len(labels):
        raise DataError(f"row {number} has {len(choices)} texts of choices and {len(labels)} labels")
    return choices, labels


def _right_choice(shot: Sample) -> str:
    return (shot.choices or [])[LETTERS.index(str(shot.target))]
