"""What the functions here refuse, in the words of whoever gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from themis.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sized


def check_probability(name: str, value: float, example: float = 0.95) -> None:
    """Raise unless it is inside 0 and 1, neither of them."""
    if not 0 < value < 1:
        raise UsageError(f"{name}={value!r}: give a probability between 0 and 1, {example} for one")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise where it is less, or NaN."""
    if not value >= least:
        raise UsageError(f"{name}={value!r}: give {least} or more")


def check_pairs(first: Sized, second: Sized, what: str) -> None:
    """Raise unless there are as many of one as of the other."""
    if len(first) != len(second):
        raise UsageError(f"{len(first)} and {len(second)} {what}: give one for each")
