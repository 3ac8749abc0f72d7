"""The letters that name choices."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letters(choices: Sequence[str]) -> str:
    """The letters that name the choices: "ABCD" for four."""
    return LETTERS[: len(choices)]


@lru_cache(maxsize=64)
def letter_pattern(template: str, names: str) -> re.Pattern[str]:
    """A pattern in which LETTERS stands for any of these letters."""
    return re.compile(template.replace("LETTERS", f"[{names}]"))


def only_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter where the response is nothing else but white space, brackets and punctuation, in either case."""
    bare = text.strip(" \t\r\n()[]{}*_.,:;'\"`").upper()
    return bare if len(bare) == 1 and bare in letters(choices) else None
