"""A benchmark is a value: where its rows are, what a row means, how it is asked, how it is scored."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from themis.benchmarks.fewshot import FewShot, Shots
from themis.errors import DataError, UsageError
from themis.ids import callable_identity
from themis.records import Kind, Message, Prompt, Sample

if TYPE_CHECKING:
    from themis.scoring.base import Metric

Row: TypeAlias = dict[str, Any]
Template: TypeAlias = str | Callable[[Sample], Prompt]

INPUT = "{input}"
"""The template that asks a sample's input as it stands, be it text or messages."""

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class Benchmark:
    """Questions, the way they are asked, and the metrics that score the answers.

    Attributes:
        name: How it is called; part of every generation's id.
        rows: Opens the rows anew, lazily, each a dict, in a fixed order.
        sample: A row and its number (from 1) -> Sample. Raises DataError for a row that it cannot use.
        template: Text with {input}, {id} and the {fields} of `Sample.metadata`, where rows are kept ({{ and }} for
            braces), or a function sample -> text or messages.
        metrics: What scores it, the main metric first.
        version: Raised when a question, its template or its scoring changes meaning.
        kind: The kind of request that it makes.
        system: System prompt of chat requests, None for none.
        stop: Texts at which the answer ends, None for none.
        fewshot: Where few-shot examples come from, None where there are none.
        num_fewshot: How many of them stand in front of each question.
        clustered: Whether samples of one group depend on each other, as questions on one passage do: standard errors
            then cluster by group. Subjects are not clusters but strata: results are broken down by them.
        source: Where the rows come from, in words or as a URL; not part of any id.
        description, citation, licence: Of the data, for `themis list benchmarks`.
    """

    name: str
    rows: Callable[[], Iterable[Row]] = dataclasses.field(repr=False)
    sample: Callable[[Row, int], Sample] = dataclasses.field(repr=False)
    template: Template
    metrics: tuple[Metric, ...]
    version: str = "1"
    kind: Kind = "chat"
    system: str | None = None
    stop: tuple[str, ...] | None = None
    fewshot: FewShot | None = None
    num_fewshot: int = 0
    clustered: bool = False
    source: str = ""
    description: str = ""
    citation: str = ""
    licence: str = ""

    def samples(self) -> Iterator[Sample]:
        """The samples in the order of the rows, lazily.

        Raises:
            DataError: There are no rows, a row cannot be used, or two rows have one id; it names the row.
        """
        seen: dict[str, int] = {}
        for number, row in enumerate(self.rows(), 1):
            sample = self._sample(row, number)
            first = seen.setdefault(sample.id, number)
            if first != number:
                raise DataError(
                    f"{self.name}: rows {first} and {number} have one id, {sample.id!r}; ids must be unique"
                )
            yield sample
        if not seen:
            raise DataError(f"{self.name}: there are no rows in {self.source or 'the data'}")

    def prompts(self) -> Iterator[tuple[Sample, Prompt]]:
        """Each sample with what the model is asked about it, in the order of the rows, lazily.

        Raises:
            DataError: As samples(), or a row lacks a field of the template; it names the row.
        """
        for number, sample in enumerate(self.samples(), 1):
            yield sample, self._prompt(sample, f"row {number}")

    def prompt(self, sample: Sample) -> Prompt:
        """What the model is asked about a sample: text, or messages where there is a system prompt.

        Raises:
            DataError: The template needs what the sample lacks.
        """
        return self._prompt(sample, f"sample {sample.id!r}")

    def template_identity(self) -> Any:
        """JSON that is equal for equal templates; None for a function whose code cannot be told."""
        template = callable_identity(self.template) if callable(self.template) else self.template
        if template is None:
            return None
        identity = {"template": template, "system": self.system, "kind": self.kind}
        return identity | ({"num_fewshot": self.num_fewshot} if self.num_fewshot else {})

    def continuations(self, sample: Sample) -> list[str] | None:
        """What a loglikelihood request asks the likelihood of: each choice behind a space; None for other kinds.

        Raises:
            DataError: The sample has no choices.
        """
        if self.kind != "loglikelihood":
            return None
        if not sample.choices:
            raise DataError(f"{self.name}: sample {sample.id!r} has no choices, which a loglikelihood request needs")
        return [f" {choice}" for choice in sample.choices]

    def replace(self, **changes: Any) -> Benchmark:
        """The same benchmark with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def _sample(self, row: Row, number: int) -> Sample:
        if not isinstance(row, dict):
            raise DataError(f"{self.name}: row {number} is a {type(row).__name__}; every row must be a dict")
        try:
            return self.sample(row, number)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error

    def _prompt(self, sample: Sample, where: str) -> Prompt:
        try:
            prompt = self._with_shots(sample, _asked(self.template, sample))
        except Exception as error:
            own = isinstance(error, DataError)
            reason = str(error) if own else f"the prompt function raised {type(error).__name__}: {error}"
            raise DataError(f"{self.name}: {where}: {reason}") from error
        if self.kind != "chat" and (self.system is not None or not isinstance(prompt, str)):
            what = "a system prompt" if self.system is not None else "a prompt of messages"
            raise DataError(f"{self.name}: {where}: {what} is for chat requests; a {self.kind} request takes one text")
        if self.system is None:
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return [{"role": "system", "content": self.system}, *messages]

    def _with_shots(self, sample: Sample, prompt: Prompt) -> Prompt:
        fewshot = self.fewshot
        if fewshot is None or not (self.num_fewshot or fewshot.intro):
            return prompt
        shots = [(_asked(self.template, shot), fewshot.answer(shot)) for shot in self._shots(sample)]
        return fewshot.prompt(shots, sample, prompt)

    def _shots(self, sample: Sample) -> list[Sample]:
        return self._shot_source.of(sample) if self._shot_source else []

    @cached_property
    def _shot_source(self) -> Shots | None:
        if self.fewshot is None or not self.num_fewshot:
            return None
        named = {"name": f"{self.name} (few-shot)", "source": self.fewshot.source}
        return Shots(self.fewshot, self.num_fewshot, self.replace(rows=self.fewshot.rows, **named).samples)


def _asked(template: Template, sample: Sample) -> Prompt:
    if isinstance(template, str):
        return sample.input if template == INPUT else render(template, sample)
    prompt = template(sample)
    if isinstance(prompt, str) or is_messages(prompt):
        return prompt
    raise DataError(f"the prompt function returned {prompt!r:.100}; let it return text or messages")


def is_messages(value: object) -> TypeGuard[list[Message]]:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)


def render(template: str, sample: Sample) -> str:
    """The template with every {field} replaced: {input}, {id}, or a field of the row (`sample.metadata`).

    Raises:
        DataError: The sample has no such field; it names the field and those there are.
    """
    fields = {"input": sample.input, "id": sample.id, **sample.metadata}

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return match.group()[0]
        if name not in fields:
            raise DataError(
                f"the prompt asks for {{{name}}}, which it lacks; it has {', '.join(sorted(fields))}. "
                "Write {{ and }} for braces that are text."
            )
        return str(fields[name])

    return _FIELD.sub(value, template)


def literal_text(template: str) -> str:
    """The first line of a template, as far as no {field} stands in it; "" where there is none of two characters."""
    lines = (line.strip() for line in re.split(r"[\0\n]", _FIELD.sub("\0", template)))
    return next((line for line in lines if len(line) > 1), "")


def field(row: Row, name: str, number: int) -> str:
    """The text of a field that a row must have.

    Raises:
        DataError: It has none, or an empty one; it names the row's number and the fields there are.
    """
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    what = "no" if value is None else f"no text but {value!r:.100} as"
    raise DataError(f"row {number} has {what} {name!r}; its fields are {', '.join(map(str, row))}")


def check_template(template: object) -> None:
    """Raise UsageError unless the template is text or a function."""
    if not isinstance(template, str) and not callable(template):
        kind = type(template).__name__
        raise UsageError(f"prompt={template!r} is a {kind}; give text with {{fields}} or a function")
