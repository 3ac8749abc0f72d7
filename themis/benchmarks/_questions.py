"""What benchmarks with choices have in common: how a question looks with its choices, and what rows must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from themis.errors import DataError
from themis.scoring.letters import LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records import Sample

CHOICE_PROMPT = (
    "Answer the following multiple-choice question. Think it through, then end with a line "
    '"Answer: X", where X is the letter of the right choice.\n\n{input}'
)


def with_letters(question: str, choices: Sequence[str], between: str = "\n\n") -> str:
    """The question with its choices below, each on a line behind its letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return question + between + "\n".join(lines)


def letter_answer(shot: Sample) -> str:
    """How the answer to an example is written where the prompt is CHOICE_PROMPT."""
    return f"Answer: {shot.target}"


def target_text(shot: Sample) -> str:
    """The target as the answer to an example."""
    return shot.target if isinstance(shot.target, str) else (shot.target or [""])[0]


def texts(value: Any, what: str, number: int) -> list[str]:
    """A row's list of texts, which is not empty.

    Raises:
        DataError: It is none, or longer than there are letters; it names the row.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= len(LETTERS):
        raise DataError(f"row {number} has {value!r:.100} as {what}; it must be a list of 1 to {len(LETTERS)} texts")
    return [str(item) for item in value]


def letter(index: Any, choices: Sequence[str], number: int) -> str:
    """The letter of a choice by its position from 0.

    Raises:
        DataError: There is no such choice; it names the row.
    """
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise DataError(f"row {number} has {index!r:.40} as the right choice's position; it has {len(choices)} choices")
    return LETTERS[index]
