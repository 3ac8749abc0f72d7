"""`themis score`: more metrics for a stored run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from themis.cli._shared import (
    FAIL_UNDER,
    GROUPS,
    JUDGE,
    STORAGE,
    WHERE,
    check_writable,
    console,
    exit_code,
    open_backend,
    several,
    write_json,
)
from themis.cli.runs import locate

if TYPE_CHECKING:
    from themis.gates import Threshold


@click.command("score")
@click.argument("run")
@click.option("--metric", "metrics", multiple=True, metavar="M", help="Default: the benchmark's own; repeatable.")
@click.option("--benchmark", metavar="B", help="Whose metrics names mean; default the run's own.")
@several(*WHERE, STORAGE, *JUDGE, GROUPS)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, metavar="S", help="Of one answer.")
@FAIL_UNDER
@click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report there.")
def score_command(
    run: str, storage: str | None, *, groups: bool, json_file: str | None, thresholds: list[Threshold], **options: Any
) -> int:
    """Score the stored answers of RUN by other metrics: no model is asked, and no benchmark's data is opened.

    RUN is an id in the storage, or the URL of the run's own folder. Only scores that are missing are computed.
    """
    from themis.formats import report_table
    from themis.score import score

    if json_file is not None:
        check_writable(Path(json_file))
    backend = open_backend(options.pop("backend"), options.pop("address"))
    store, run_id = locate(run, storage)
    with backend, store:
        names = list(options.pop("metrics")) or None
        result = score(run_id, names, execution_backend=backend, storage_backend=store, **options)
    terminal = console()
    terminal.print(report_table(result.report, groups=groups))
    terminal.print(escape(result.summary()), soft_wrap=True)
    if json_file is not None:
        write_json(Path(json_file), [result.report])
    return exit_code([result.report], thresholds)
