"""`themis compare`: runs beside a baseline, and a gate for CI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from themis.cli._shared import FAIL_UNDER, FORMAT, GATE, OK, PARTIAL, STORAGE, console, parsed
from themis.errors import UsageError
from themis.gates import cautions, failures, parse_limit, regressions

if TYPE_CHECKING:
    from themis.compare import Comparison
    from themis.gates import Threshold
    from themis.records import Report

SHOWN_FLIPS = 5


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="BASELINE RUN...")
@STORAGE
@click.option("--metric", "metrics", multiple=True, metavar="M", help="Only this one; repeatable.")
@click.option(
    "--allow-different",
    multiple=True,
    is_flag=False,
    flag_value="all",
    metavar="WHAT",
    help="benchmark, version, data, prompt, params, scorer or all may differ; repeatable.",
)
@click.option("--all-pairs", is_flag=True, help="Each run beside each, not only beside the first.")
@click.option("--cluster", metavar="C", help="Cluster errors by sample or group.  [default: as the reports did]")
@click.option("--level", type=float, default=0.95, metavar="P", help="Of intervals and findings.  [default: 0.95]")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the permutation test's draws.")
@click.option("--flips", type=click.IntRange(0), metavar="N", help="Samples that flipped.  [default: 5, in JSON all]")
@FORMAT
@FAIL_UNDER
@click.option(
    "--max-regression",
    "limits",
    multiple=True,
    metavar="METRIC=POINTS",
    callback=parsed(parse_limit),
    help="Exit code 4 when a run's mean is more than this below the baseline's, and significantly; repeatable.",
)
@click.option("--strict", is_flag=True, help="Count a regression that may be chance as well.")
def compare_command(
    runs: tuple[str, ...],
    *,
    flips: int | None,
    form: str,
    thresholds: list[Threshold],
    limits: list[tuple[str, float]],
    strict: bool,
    **options: Any,
) -> int:
    """Each RUN beside BASELINE, paired on the samples that they share.

    A run is an id in the storage, or the URL of its folder. Exit code 4: a gate failed. 3: a run is not complete, or a
    sample has no score on one side. Both only after the comparison is printed.
    """
    from themis.compare import compare

    allowed = dict(limits)
    if len(allowed) < len(limits):
        raise UsageError("--max-regression is given twice for one metric: give each metric one limit")
    given = {**options, "metrics": list(options["metrics"]) or None}
    shown = (None if form == "json" else SHOWN_FLIPS) if flips is None else flips
    comparison = compare(*runs, flips=shown, **given)
    below = failures(thresholds, _reports(runs[1:], options["storage"])) if thresholds else []
    failed = below + regressions(comparison, allowed, strict=strict)
    _print(comparison, form)
    for line in (*failed, *([] if strict else cautions(comparison, allowed))):
        click.echo(f"themis: {line}", err=True)
    return GATE if failed else OK if comparison.complete else PARTIAL


def _reports(runs: tuple[str, ...], storage: str | None) -> list[Report]:
    """The reports of the runs but the baseline."""
    from themis.cli.runs import locate

    reports = []
    for run in runs:
        store, run_id = locate(run, storage)
        with store:
            reports.append(store.load_report(run_id))
    return reports


def _print(comparison: Comparison, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(comparison.to_json(), indent=2, ensure_ascii=False))
    elif form == "table":
        terminal = console()
        terminal.print(comparison.table())
        for line in (*comparison.notes(), *comparison.flip_lines()):
            terminal.print(escape(line), soft_wrap=True)
    else:
        text = {"markdown": comparison.to_markdown, "csv": comparison.to_csv, "latex": comparison.to_latex}[form]()
        click.echo(text.rstrip("\n"))
