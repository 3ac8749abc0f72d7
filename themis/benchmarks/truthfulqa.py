"""TruthfulQA: 817 questions that invite a common falsehood, as multiple choice with one true answer (MC1)."""

from __future__ import annotations

from functools import partial

from themis.benchmarks._questions import CHOICE_PROMPT, letter, texts, with_letters
from themis.benchmarks.base import Benchmark, Row, field
from themis.benchmarks.data import locate, shipped_rows
from themis.errors import DataError
from themis.ids import text_hash
from themis.records import Sample
from themis.scoring import ChoiceMatch, LikeliestChoice

_VALIDATION = (
    "truthfulqa/mc_task.*",
    "hf://datasets/truthfulqa/truthful_qa/multiple_choice/validation-00000-of-00001.parquet",
)


def truthfulqa() -> Benchmark:
    """The benchmark, asked for a letter. The data has the true choice first; here a hash of the texts orders them."""
    return Benchmark(
        name="truthfulqa",
        rows=partial(shipped_rows, *_VALIDATION),
        sample=_sample,
        template=CHOICE_PROMPT,
        metrics=(ChoiceMatch(),),
        source=locate(*_VALIDATION),
        description="817 questions that invite a falsehood (MC1); the letter of the one true choice",
        citation="Lin et al. 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods, arXiv:2109.07958",
        licence="Apache-2.0",
    )


def truthfulqa_loglikelihood() -> Benchmark:
    """The benchmark as completion: which choice is the likeliest to follow."""
    return truthfulqa().replace(
        name="truthfulqa_loglikelihood",
        template="Q: {question}\nA:",
        metrics=(LikeliestChoice(),),
        kind="loglikelihood",
        description="TruthfulQA (MC1) by the likelihood of each choice",
    )


def _sample(row: Row, number: int) -> Sample:
    question = field(row, "question", number)
    labelled = sorted(_labelled(row, number), key=lambda pair: text_hash(f"{question}\n{pair[0]}"))
    choices = texts([choice for choice, _ in labelled], "'mc1_targets'", number)
    right = [position for position, (_, label) in enumerate(labelled) if label == 1]
    if len(right) != 1:
        raise DataError(f"row {number} has {len(right)} true choices in 'mc1_targets'; MC1 has one")
    return Sample(
        id=str(number - 1),
        input=with_letters(question, choices),
        target=letter(right[0], choices, number),
        choices=choices,
        metadata=row,
    )


def _labelled(row: Row, number: int) -> list[tuple[str, int]]:
    """Choices with 1 for true and 0 for false: two lists on the hub, an object in the authors' own file."""
    found = row.get("mc1_targets")
    if not isinstance(found, dict) or not found:
        raise DataError(f"row {number} has no 'mc1_targets'; its fields are {', '.join(map(str, row))}")
    choices, labels = found.get("choices"), found.get("labels")
    if isinstance(choices, list) and isinstance(labels, list):
        return list(zip(map(str, choices), labels, strict=False))
    return list(found.items())
