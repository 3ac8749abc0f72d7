"""`themis import`: logs of other tools become runs."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape

from themis.cli._shared import OK, PARTIAL, STORAGE, console, one_of, open_storage
from themis.errors import UsageError

FORMATS = ("inspect", "lm-eval")


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", callback=one_of(FORMATS), help="inspect or lm-eval; default: by FILE's name.")
@STORAGE
@click.option("--run-id", metavar="ID", help="Of the one run; default readable, and another one for every log.")
@click.option("--benchmark", metavar="B", help="What the benchmark is called; default the task's name.")
@click.option("--id-field", metavar="F", help="Of lm-eval's documents, what is the sample's id; default its number.")
def import_command(files: tuple[str, ...], form: str | None, storage: str | None, **options: Any) -> int:
    """Take over answers and scores from each FILE, a log of lm-eval's samples or of Inspect, as a run of its own.

    The run can then be scored by other metrics (`themis score`), compared, exported and kept as any other.
    """
    from themis.formats import report_table
    from themis.importing import import_log

    if len(files) > 1 and options["run_id"] is not None:
        raise UsageError(f"--run-id {options['run_id']} is for one log, and {len(files)} are given: leave it out")
    with open_storage(storage) as store:
        runs = [import_log(file, form, storage_backend=store, **options) for file in files]
    terminal = console()
    terminal.print(report_table([run.report for run in runs]))
    for run in runs:
        terminal.print(escape(run.summary()), soft_wrap=True)
    return OK if all(run.report.status == "complete" for run in runs) else PARTIAL
