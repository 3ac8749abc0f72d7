"""Reports as a table for a terminal, Markdown, HTML, CSV, LaTeX and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from themis.records import MetricResult, Report
from themis.tables import csv_table, html_table, latex_table, markdown_table, terminal_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.table import Table

HEADINGS = (
    "benchmark",
    "model",
    "metric",
    "mean",
    "95% interval",
    "scored",
    "no answer",
    "errors",
    "status",
)
_OF_REPORT = ("run_id", "benchmark", "benchmark_version", "model", "status")
_OF_METRIC = (
    *("metric", "group", "mean", "stderr", "stderr_method", "ci_low", "ci_high", "ci_level"),
    *("n_attempted", "n_scored", "n_unanswered", "bound_low", "bound_high", "n_groups", "macro_mean", "macro_stderr"),
)
NONE = "-"
"""What stands for a number that there is none of."""


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON, under the names of Report's fields and in their order."""
    metrics = {name: dict(result) for name, result in report.metrics.items()}
    groups = {name: {group: dict(one) for group, one in found.items()} for name, found in report.groups.items()}
    return {**vars(report), "metrics": metrics, "groups": groups}


def report_table(reports: Report | Iterable[Report], *, groups: bool = False) -> Table:
    """One row for each metric of each report, for a terminal (rich prints it).

    Args:
        reports: What is shown.
        groups: Below each metric its mean over the means of the groups, and one row for each group.
    """
    return terminal_table(HEADINGS, _rows(reports, groups=groups))


def to_markdown(reports: Report | Iterable[Report], *, groups: bool = False) -> str:
    """The rows of report_table as a Markdown table."""
    return markdown_table(HEADINGS, _rows(reports, groups=groups))


def to_html(reports: Report | Iterable[Report]) -> str:
    """The rows of report_table as an HTML table, for notebooks."""
    return html_table(HEADINGS, _rows(reports))


def to_latex(reports: Report | Iterable[Report], *, groups: bool = False) -> str:
    """The rows of report_table as a LaTeX table, for the package booktabs."""
    return latex_table(HEADINGS, _rows(reports, groups=groups))


def to_csv(reports: Report | Iterable[Report], *, groups: bool = False) -> str:
    """One row for each metric of each report in CSV, with the fields of MetricResult as numbers in full.

    Args:
        reports: What is written.
        groups: Below each metric one row for each group.
    """
    rows = (
        [*(getattr(report, name) for name in _OF_REPORT), *(one[name] for name in _OF_METRIC), counted(one.errors)]
        for report in _each(reports)
        for name, result in report.metrics.items()
        for one in [result, *(report.groups.get(name, {}).values() if groups else [])]
    )
    return csv_table([*_OF_REPORT, *_OF_METRIC, "errors"], rows)


TEXTS = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
"""What a report is as text, by the name of the form."""


def counted(counts: dict[str, int]) -> str:
    """Counts in words: "2 infrastructure, 1 scorer"; "" for none."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval to four places."""
    return NONE if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def _each(reports: Report | Iterable[Report]) -> Iterable[Report]:
    return [reports] if isinstance(reports, Report) else reports


def _rows(reports: Report | Iterable[Report], *, groups: bool = False) -> Iterator[list[str]]:
    for report in _each(reports):
        for name, result in report.metrics.items():
            for row in [result, *(_breakdown(result, report.groups.get(name, {})) if groups else [])]:
                yield [report.benchmark, report.model, *_cells(row), report.status]


def _breakdown(result: MetricResult, groups: Mapping[str, MetricResult]) -> Iterator[MetricResult]:
    """The macro average as a row like the others, then each group's."""
    if groups:
        numbers = {name: result[name] for name in ("metric", "n_attempted", "n_scored", "n_unanswered")}
        label = f"mean of {result.n_groups} groups"
        yield MetricResult(numbers, group=label, mean=result.macro_mean, stderr=result.macro_stderr)
    yield from groups.values()


def _cells(result: MetricResult) -> list[str]:
    mean = NONE if result.mean is None else f"{result.mean:.4f}"
    if result.stderr:  # 0 means that no variation was seen, not that there is none
        mean += f" ± {result.stderr:.4f}"
    share = f" ({result.n_scored / result.n_attempted:.1%})" if result.n_attempted else ""
    errors = counted(result.errors) or NONE
    if result.errors and result.bound_low is not None:
        errors += f": mean within {interval(result.bound_low, result.bound_high)}"
    return [
        result.metric if result.group is None else f"{result.metric} ({result.group})",
        mean,
        interval(result.ci_low, result.ci_high),
        f"{result.n_scored}/{result.n_attempted}{share}",
        str(result.n_unanswered),
        errors,
    ]
