"""What a comparison found: frozen values, as a table, Markdown, HTML, CSV, LaTeX and JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from themis.errors import UsageError
from themis.formats import NONE, interval
from themis.registry import unknown
from themis.tables import csv_table, html_table, latex_table, markdown_table, markdown_text, terminal_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

ROUNDING = 1e-12
"""A difference beyond a limit by no more than this is at the limit: 0.78 - 0.8 is below -0.02 in floats."""

SHOWN = 160
"""Characters of a prompt, an answer or a target that are shown beside each other; JSON has all."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs; `label` is its id, with its place where two runs have one id."""

    label: str
    run_id: str
    benchmark: str
    model: str
    status: str | None
    n_samples: int


@dataclass(frozen=True)
class SetupDifference:
    """Something besides the model in which a run differs from its baseline, in words."""

    baseline: str
    run: str
    aspect: str
    text: str


@dataclass(frozen=True)
class Flip:
    """A sample that the two runs scored differently.

    `answers` are those of its repeats, None where no answer was found. `prompt` is what the baseline was asked,
    `run_prompt` what the run was asked where that is something else.
    """

    sample_id: str
    baseline_score: float
    run_score: float
    baseline_answers: list[str | None]
    run_answers: list[str | None]
    target: str | list[str] | None
    prompt: str | None
    run_prompt: str | None = None


@dataclass(frozen=True)
class MetricDifference:
    """One metric of a run beside its baseline, over the samples that both have a score for; None is undefined.

    Attributes:
        metric: Name.
        baseline, run: Labels of the runs.
        baseline_mean, run_mean: Over the paired samples.
        difference: Run minus baseline: above 0 the run scores higher.
        stderr: Standard error of the difference, computed as `stderr_method` says.
        ci_low, ci_high: Interval that covers the true difference with probability `ci_level`.
        test, p_value: The test that there is none, and its p-value.
        p_adjusted: The p-value corrected for all tests of the comparison (Holm).
        wins, losses, ties: Samples on which the run scores higher, lower, the same.
        correlation: Of the two runs' scores.
        minimum_detectable_effect: True difference that this comparison would find with probability 0.8.
        n_paired: Samples in all of these.
        n_only_baseline, n_only_run: Samples that the other run was not asked.
        n_unscored_baseline, n_unscored_run: Samples of both for which that run has no score.
        bound_low, bound_high: The difference over all samples of both, if unscored answers had the worst and the best
            score for the run; None where scores leave [0, 1].
        flips: The largest differences, losses first.
        n_flips: How many there are.
    """

    metric: str
    baseline: str
    run: str
    baseline_mean: float | None
    run_mean: float | None
    difference: float | None
    stderr: float | None
    stderr_method: str | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    test: str | None
    p_value: float | None
    p_adjusted: float | None
    wins: int
    losses: int
    ties: int
    correlation: float | None
    minimum_detectable_effect: float | None
    n_paired: int
    n_only_baseline: int
    n_only_run: int
    n_unscored_baseline: int
    n_unscored_run: int
    bound_low: float | None
    bound_high: float | None
    n_flips: int = 0
    flips: list[Flip] = field(default_factory=list)

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below one minus the level."""
        return self.p_adjusted is not None and self.p_adjusted < 1 - self.ci_level

    def falls_by_more_than(self, limit: float, *, strict: bool = False) -> bool:
        """Whether the run is that much worse, and significantly or `strict`; True where the difference is not known."""
        if self.difference is None:
            return True
        return -self.difference > limit + ROUNDING and (strict or self.significant)


_HEADINGS = (
    *("metric", "run", "baseline", "mean", "difference", "95% interval", "p", "p adjusted", "won/lost/tied"),
    *("paired", "detectable"),
)
_NUMBERS = tuple(name for name in MetricDifference.__dataclass_fields__ if name != "flips")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs beside each other on the samples that they share. Shows as a table, in a terminal and in a notebook.

    Attributes:
        runs: The baseline first.
        differences: For each pair of runs and each metric that both have.
        setup: In what the runs differ besides their models; [] unless it was allowed.
        correction: How the p-values were corrected, and for how many tests.
    """

    runs: list[ComparedRun]
    differences: list[MetricDifference]
    setup: list[SetupDifference]
    correction: str

    def regressions(self, limits: Mapping[str, float], *, strict: bool = False) -> list[MetricDifference]:
        """The differences in which a run is worse than its baseline by more than its metric's limit, and significantly.

        One that could not be computed, because no sample has both scores, is among them.

        Args:
            limits: Metric -> how much lower the run's mean may be, in the metric's own unit: 0.02 is two points of
                accuracy.
            strict: Also those that could be chance.

        Raises:
            UsageError: A metric was not compared.
        """
        compared = {each.metric for each in self.differences}
        for name in limits:
            if name not in compared:
                raise UsageError(unknown("compared metric", name, compared))
            if not limits[name] >= 0:  # nan too
                raise UsageError(f"a limit of {limits[name]:g} on {name}: give how much worse it may be, from 0")
            if limits[name] >= 1 and self._within_one(name):
                raise UsageError(
                    f"a limit of {limits[name]:g} on {name}, whose scores lie between 0 and 1, means nothing: points "
                    "are in the metric's own unit, 0.02 for two points of accuracy"
                )
        return [
            each
            for each in self.differences
            if each.metric in limits and each.falls_by_more_than(limits[each.metric], strict=strict)
        ]

    def _within_one(self, metric: str) -> bool:
        return all(each.bound_low is not None for each in self.differences if each.metric == metric)

    @property
    def complete(self) -> bool:
        """Whether every run has a complete report and every sample of both runs a score on both sides."""
        unscored = any(each.n_unscored_baseline or each.n_unscored_run for each in self.differences)
        return not unscored and all(run.status == "complete" for run in self.runs)

    def table(self) -> Table:
        """One row for each difference, for a terminal (rich prints it)."""
        return terminal_table(self._headings(), self._rows())

    def notes(self) -> list[str]:
        """What the table has no room for: models, what else differs, samples without a pair, the correction."""
        runs = [f"{self._role(n)} {run.label}: {_described(run)}" for n, run in enumerate(self.runs)]
        setup = [f"{each.baseline} and {each.run} differ in {each.aspect}: {each.text}" for each in self.setup]
        missing = [text for each in self.differences if (text := _missing(each))]
        tests = ", ".join(dict.fromkeys(each.test for each in self.differences if each.test))
        return [*runs, *setup, *missing, *([f"p: {tests}; {self.correction}"] if tests else [])]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON, under the names of the fields."""
        return asdict(self)

    def to_csv(self) -> str:
        """One row for each difference, with every number in full."""
        rows = ([getattr(each, name) for name in _NUMBERS] for each in self.differences)
        return csv_table(_NUMBERS, rows)

    def to_markdown(self) -> str:
        """The table in Markdown, the notes as a list below it, then the flips."""
        notes = "\n".join(f"- {markdown_text(note)}" for note in self.notes())
        parts = [markdown_table(self._headings(), self._rows()), notes]
        flips = [_flip_row(each, flip) for each in self.differences for flip in each.flips]
        return "\n\n".join([*parts, *([markdown_table(_FLIP_HEADINGS, flips)] if flips else [])])

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        return latex_table(self._headings(), self._rows())

    def flip_lines(self) -> list[str]:
        """The flips as text, a few lines each."""
        return [line for each in self.differences if each.flips for line in _flip_lines(each)]

    def _headings(self) -> tuple[str, ...]:
        level = self.differences[0].ci_level if self.differences else 0.95
        return tuple(f"{100 * level:.10g}% interval" if name == "95% interval" else name for name in _HEADINGS)

    def _rows(self) -> Iterator[list[str]]:
        return map(_cells, self.differences)

    def _role(self, number: int) -> str:
        return "run" if number else "baseline"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=160, force_jupyter=False, force_terminal=False).print(self.table())
        return text.getvalue() + "\n".join([*self.notes(), *self.flip_lines()])

    def _repr_html_(self) -> str:
        from html import escape

        notes = "<br>".join(map(escape, [*self.notes(), *self.flip_lines()]))
        return f"{html_table(self._headings(), self._rows())}<p>{notes}</p>"


def _cells(each: MetricDifference) -> list[str]:
    stderr = f" ± {each.stderr:.4f}" if each.stderr else ""
    return [
        each.metric,
        each.run,
        f"{each.baseline} {_number(each.baseline_mean)}",
        _number(each.run_mean),
        NONE if each.difference is None else f"{each.difference:+.4f}{stderr}",
        interval(each.ci_low, each.ci_high),
        _p(each.p_value),
        _p(each.p_adjusted),
        f"{each.wins}/{each.losses}/{each.ties}",
        str(each.n_paired),
        _number(each.minimum_detectable_effect),
    ]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1e}" if value < 0.0001 else f"{value:.4f}"


def _described(run: ComparedRun) -> str:
    status = "without a report" if run.status is None else run.status
    return f"{run.benchmark or 'a benchmark'} by {run.model or 'a model'}, {run.n_samples} samples, {status}"


def _missing(each: MetricDifference) -> str | None:
    """Samples without a pair, and what the unscored among them could change."""
    counts = {
        f"only in {each.baseline}": each.n_only_baseline,
        f"only in {each.run}": each.n_only_run,
        f"without a score in {each.baseline}": each.n_unscored_baseline,
        f"without a score in {each.run}": each.n_unscored_run,
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    unscored = bool(each.n_unscored_baseline or each.n_unscored_run)
    open_ended = each.bound_low is not None and each.bound_low != each.bound_high
    if open_ended and not unscored:
        told.append("some repeats without a score")
    if each.difference is None and each.n_paired:
        told.append(
            "its number is no mean of scores, and how it is made is not known here, so that there is no difference: "
            "give the metric itself, compare(..., metrics=[METRIC])"
        )
    if not told:
        return None
    bounds = ""
    if unscored or open_ended:
        bounds = f": difference within {interval(each.bound_low, each.bound_high)}"
    return f"{each.metric}, {each.run} beside {each.baseline}: {', '.join(told)}{bounds}"


_FLIP_HEADINGS = ("metric", "sample", "target", "baseline", "its answer", "run", "its answer", "prompt")


def _flip_row(each: MetricDifference, flip: Flip) -> list[str]:
    return [
        each.metric,
        flip.sample_id,
        _text(flip.target),
        f"{each.baseline} {flip.baseline_score:g}",
        _answers(flip.baseline_answers),
        f"{each.run} {flip.run_score:g}",
        _answers(flip.run_answers),
        _prompt(flip.prompt),
    ]


def _flip_lines(each: MetricDifference) -> Iterator[str]:
    shown = f"{len(each.flips)} of {each.n_flips}" if len(each.flips) < each.n_flips else str(each.n_flips)
    yield f"\nsamples on which {each.metric} differs between {each.baseline} and {each.run}: {shown}"
    for flip in each.flips:
        yield f"  {flip.sample_id}: target {_text(flip.target)}"
        yield f"    {each.baseline} {flip.baseline_score:g}: {_answers(flip.baseline_answers)}"
        yield f"    {each.run} {flip.run_score:g}: {_answers(flip.run_answers)}"
        yield f"    asked: {_prompt(flip.prompt)}"
        if flip.run_prompt is not None:
            yield f"    asked by {each.run}: {_prompt(flip.run_prompt)}"


def _answers(answers: list[str | None]) -> str:
    return " | ".join("no answer" if answer is None else _text(answer) for answer in answers) or NONE


def _text(value: Any) -> str:
    if value is None:
        return NONE
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _prompt(prompt: str | None) -> str:
    """The last message of a chat, else the text; its end, where the question is, when it is long."""
    if prompt is None:
        return NONE
    text = " ".join(_last_message(prompt).split())
    return text if len(text) <= SHOWN else f"... {text[4 - SHOWN :]}"


def _last_message(prompt: str) -> str:
    try:
        messages = json.loads(prompt) if prompt.startswith("[{") else None
        content = messages[-1]["content"] if messages else prompt
    except (ValueError, LookupError, TypeError):
        return prompt
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
