"""`themis runs`: what a storage holds, and what can be done with it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from themis.cli._shared import ERROR, FORMAT, GROUPS, OK, PARTIAL, STORAGE, console, one_of, open_storage, print_table
from themis.errors import ReportNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.backends import FsspecStorageBackend, RunInfo, Verification
    from themis.records import RecordKind, Report

KINDS = ("samples", "generations", "evaluations")
EXPORTS = ("csv", "jsonl", "parquet")
FORMATS = ("parquet", "jsonl")

_JSON = click.option("--json", "as_json", is_flag=True, help="For a machine: JSON on stdout, times in epoch seconds.")


def locate(run: str, storage: str | None, **options: Any) -> tuple[FsspecStorageBackend, str]:
    """The storage and the id that are meant by a run's id, or by the URL of its folder."""
    from themis.backends.storage import check_run_id, run_place

    url, run_id = run_place(run)
    return open_storage(url or storage, **options), check_run_id(run_id)


@click.group("runs")
def runs_group() -> None:
    """List, show, verify, compact, delete and export stored runs.

    RUN is an id in the storage, or the URL of the run's own folder.
    """


@runs_group.command("list")
@click.argument("url", required=False)
@STORAGE
@_JSON
def list_runs(url: str | None, storage: str | None, *, as_json: bool) -> None:
    """The runs at URL (or --storage): state, size, age and scores of each.

    A run is going while a process writes it, interrupted when the last one ended without a report on all that was
    asked, partial when the report lacks answers, else complete.
    """
    with open_storage(url or storage) as store:
        infos = store.run_infos()
    if as_json:
        return _print_json([asdict(info) for info in infos])
    headings = ("run", "benchmark", "model", "state", "answers", "size", "files", "changed", "scores")
    now = time.time()
    print_table(headings, [_row(info, now) for info in infos])
    if not infos:
        click.echo(f"no runs in {store!r}", err=True)
    return None


def _row(info: RunInfo, now: float) -> tuple[str, ...]:
    return (
        info.run_id,
        info.benchmark,
        info.model,
        info.state,
        str(info.records.get("generations", 0)),
        size(info.n_bytes),
        str(info.n_files),
        age(info.changed_at, now),
        ", ".join(f"{name} {'-' if mean is None else f'{mean:.4f}'}" for name, mean in info.metrics.items()),
    )


@runs_group.command("show")
@click.argument("run")
@STORAGE
@GROUPS
@FORMAT
@_JSON
def show_run(run: str, storage: str | None, form: str, *, groups: bool, as_json: bool) -> int:
    """State, size and report of RUN: scores, what was asked, what it cost, where it was made.

    In Markdown, CSV and LaTeX it is the report's table alone; --format json is --json.
    """
    from themis.formats import TEXTS, to_json

    store, run_id = locate(run, storage)
    with store:
        info = store.run_info(run_id)
        report = _report(store, run_id)
    if as_json or form == "json":
        _print_json({**asdict(info), "report": None if report is None else to_json(report)})
    elif form in TEXTS:
        click.echo(TEXTS[form]([] if report is None else [report], groups=groups).rstrip("\n"))
    else:
        _print_run(info, report, groups=groups)
    return OK if report is not None and report.status == "complete" else PARTIAL


def _report(store: FsspecStorageBackend, run_id: str) -> Report | None:
    try:
        return store.load_report(run_id)
    except ReportNotFoundError:
        return None


def _print_run(info: RunInfo, report: Report | None, *, groups: bool) -> None:
    from themis.formats import report_table

    terminal, now = console(), time.time()
    if report is None:
        terminal.print("no report yet", soft_wrap=True)
    else:
        terminal.print(report_table(report, groups=groups))
    rows = ", ".join(f"{count} {kind}" for kind, count in info.records.items())
    writers = f"{info.n_launches} writer{'s' * (info.n_launches != 1)}"
    lines = {
        "state": f"{info.state}, begun {age(info.created_at, now)}, changed {age(info.changed_at, now)}",
        "stored": f"{rows} by {writers}, {size(info.n_bytes)} in {info.n_files} files",
    }
    if report is not None:
        facts = ("selection", "usage", "errors", "config", "provenance")
        lines |= {name: json.dumps(getattr(report, name)) for name in facts}
    for name, value in lines.items():
        terminal.print(escape(f"{name}: {value}"), soft_wrap=True)


@runs_group.command("verify")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@STORAGE
@click.option("--repair", is_flag=True, help="Set damaged files aside and remove orphans; a resume asks what is lost.")
@_JSON
def verify_runs(runs: tuple[str, ...], storage: str | None, *, repair: bool, as_json: bool) -> int:
    """Read every file of each RUN (of all, without one) and say what is damaged, missing or left over.

    Exit code 0 when there is nothing wrong, or --repair has dealt with all of it; else 1.
    """
    found = []
    for store, run_id in _each(runs, storage):
        with store:
            found.append(store.verify(run_id, repair=repair))
            if not as_json:
                _print_verification(found[-1])
    if as_json:
        _print_json([{**asdict(verification), "clean": verification.clean} for verification in found])
    left = [problem for verification in found for problem in verification.problems if problem.repaired is None]
    return ERROR if left else OK


def _each(runs: Sequence[str], storage: str | None) -> list[tuple[FsspecStorageBackend, str]]:
    """The named runs, or all of the storage."""
    if runs:
        return [locate(run, storage) for run in runs]
    store = open_storage(storage)
    return [(store, run_id) for run_id in store.list_runs()]


def _print_verification(verification: Verification) -> None:
    terminal = console()
    rows = ", ".join(f"{count} {kind}" for kind, count in verification.n_rows.items())
    problems = verification.problems
    outcome = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "clean"
    terminal.print(escape(f"{verification.run_id}: {outcome}, {rows} in {verification.n_parts} parts"), soft_wrap=True)
    for problem in problems:
        lost = "" if problem.n_rows is None else f" ({problem.n_rows} rows)"
        done = "" if problem.repaired is None else f"; {problem.repaired}"
        terminal.print(escape(f"  {problem.what} {problem.path}: {problem.message}{lost}{done}"), soft_wrap=True)
    for name in verification.foreign:
        terminal.print(escape(f"  passed over {name}: it is no file of a run"), soft_wrap=True)


@runs_group.command("compact")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@STORAGE
@click.option("--format", "form", default="parquet", callback=one_of(FORMATS), help="What is written: parquet, jsonl.")
@_JSON
def compact_runs(runs: tuple[str, ...], storage: str | None, form: str, *, as_json: bool) -> None:
    """Merge the small parts of each RUN into large ones, also while it is read and written."""
    done = []
    for run in runs:
        store, run_id = locate(run, storage, format=form)
        with store:
            done.append(store.compact(run_id))
    if as_json:
        return _print_json([asdict(compaction) for compaction in done])
    for each in done:
        parts = f"{each.n_parts_before} parts ({size(each.n_bytes_before)})"
        now = f"{each.n_parts_after} ({size(each.n_bytes_after)})"
        click.echo(f"{each.run_id}: {parts} became {now}, {each.n_rows_dropped} superseded rows dropped")
    return None


@runs_group.command("delete")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@STORAGE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also a run that a process is writing.")
def delete_runs(runs: tuple[str, ...], storage: str | None, *, yes: bool, force: bool) -> None:
    """Delete each RUN with all that is in it. Asks first; other runs are not touched."""
    found = [(store, store.run_info(run_id)) for store, run_id in _each(runs, storage)]
    going = [info.run_id for _, info in found if info.state == "going"]
    if going and not force:
        raise UsageError(f"{', '.join(going)}: a process is writing there; stop it first, or add --force")
    for _, info in found:
        click.echo(f"{info.run_id}: {info.state}, {size(info.n_bytes)} in {info.n_files} files", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal on which to confirm this: add --yes")
        click.confirm(f"Delete {len(found)} run{'s' * (len(found) != 1)}?", abort=True, err=True)
    for store, info in found:
        with store:
            store.delete_run(info.run_id)
        click.echo(f"deleted {info.run_id}")


@runs_group.command("export")
@click.argument("run")
@click.argument("target")
@STORAGE
@click.option("--kind", default="generations", callback=one_of(KINDS), help="generations, evaluations or samples.")
@click.option("--format", "form", callback=one_of(EXPORTS), help="csv, jsonl or parquet; default: by TARGET's ending.")
def export_run(run: str, target: str, storage: str | None, kind: RecordKind, form: str | None) -> None:
    """Write the records of RUN, each once, into one file TARGET (a path or URL), replacing it."""
    from themis.backends._place import shown

    store, run_id = locate(run, storage)
    with store:
        count = store.export(run_id, kind, target, format=form)
    click.echo(f"{count} {kind} of {run_id} are in {shown(target)}")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def size(n_bytes: int) -> str:
    """Bytes for people, by powers of 1,000: "1.2 MB"."""
    amount, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"


def age(moment: float | None, now: float) -> str:
    """How long ago, in the largest unit that fits: "3 min ago"; "-" where it is not known."""
    if moment is None:
        return "-"
    seconds = max(0.0, now - moment)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
