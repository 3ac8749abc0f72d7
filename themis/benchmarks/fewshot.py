"""Few-shot examples: answered questions in front of the one that is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from themis.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from themis.records import Message, Prompt, Sample


@dataclass(frozen=True)
class FewShot:
    """Where a benchmark's examples come from, and how they stand in front of a question.

    Attributes:
        rows: Opens the rows of the examples anew, each as the benchmark's own rows are.
        answer: What stands as the answer to an example.
        form: "turns": each example is a question of the user's and an answer of the assistant's. "text": all is one
            text, as for models that complete it.
        by_group: Whether a question gets the examples of its own group; else all questions get the same ones.
        intro: What the text begins with, without examples too, from the sample that is asked; only of form "text".
        between: What stands between two examples of a text.
        after_prompt: What stands between an example's question and its answer in a text.
        source: Where the rows come from, in words or as a URL.

    The first examples in the order of the rows are taken, so that every run of a benchmark shows the same ones; but no
    question is an example in front of itself: the next one takes its place, where there is a next one.
    """

    rows: Callable[[], Iterable[dict[str, Any]]] = field(repr=False)
    answer: Callable[[Sample], str] = field(repr=False)
    form: Literal["turns", "text"] = "turns"
    by_group: bool = False
    intro: Callable[[Sample], str] | None = field(default=None, repr=False)
    between: str = "\n\n"
    after_prompt: str = " "
    source: str = ""

    def prompt(self, shots: list[tuple[Prompt, str]], sample: Sample, prompt: Prompt) -> Prompt:
        """The prompt with its examples in front; a prompt of messages gets them as turns.

        Raises:
            DataError: The examples are to be one text, and a prompt is a list of messages.
        """
        if self.form == "turns":
            return [message for shot in shots for message in _turns(*shot)] + _messages(prompt)
        if not isinstance(prompt, str) or not all(isinstance(asked, str) for asked, _ in shots):
            raise DataError('examples of form "text" need prompts that are text, and not messages')
        parts = [f"{asked}{self.after_prompt}{answer}" for asked, answer in shots]
        intro = self.intro(sample) if self.intro else ""
        return intro + self.between.join([*parts, prompt])


def _turns(asked: Prompt, answer: str) -> Iterator[Message]:
    yield from _messages(asked)
    yield {"role": "assistant", "content": answer}


def _messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class Shots:
    """The examples that a benchmark's questions get, read once.

    Args:
        fewshot: Where they come from.
        count: How many a question gets.
        samples: Reads the samples of the examples' rows.
    """

    def __init__(self, fewshot: FewShot, count: int, samples: Callable[[], Iterable[Sample]]) -> None:
        self._fewshot = fewshot
        self._count = count
        self._samples = samples

    @cached_property
    def _by_group(self) -> dict[str | None, list[Sample]]:
        found: dict[str | None, list[Sample]] = {}
        for sample in self._samples():
            group = found.setdefault(sample.group if self._fewshot.by_group else None, [])
            if len(group) <= self._count:  # one to spare
                group.append(sample)
            elif not self._fewshot.by_group:
                break  # nothing that is still to come is shown
        return found

    def of(self, sample: Sample) -> list[Sample]:
        """The examples that this sample's question gets.

        Raises:
            DataError: There are fewer than asked for.
        """
        group = sample.group if self._fewshot.by_group else None
        found = self._by_group.get(group, [])
        if len(found) < self._count:
            where = f" for the group {group!r}" if group is not None else ""
            raise DataError(
                f"num_fewshot={self._count}, but {self._fewshot.source or 'their source'} has {len(found)} "
                f"examples{where}; ask for at most as many"
            )
        return [shot for shot in found if shot.input != sample.input][: self._count]
