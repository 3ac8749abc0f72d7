"""`themis eval`: ask a model the questions of benchmarks, score the answers, print the report."""

from __future__ import annotations

import json
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
    open_storage,
    several,
    write_json,
)
from themis.errors import UsageError
from themis.gates import check_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.backends import ExecutionBackend
    from themis.benchmarks import Benchmark
    from themis.models import Model
    from themis.result import Result


def _parameter(_context: Any, _option: Any, values: tuple[str, ...]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, for example top_k=40")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


@click.command("eval")
@click.argument("benchmark")
@click.option("--model", required=True, metavar="M", help="provider/NAME, NAME (of openai), demo, replay/PATH.")
@click.option("--base-url", metavar="U", help="Address of an OpenAI-compatible server, up to /v1.")
@several(*WHERE)
@STORAGE
@click.option("--data", metavar="URL", help="Other rows for the benchmark: jsonl, json, csv, tsv or Parquet.")
@click.option("--prompt", metavar="T", help="Template with {fields} of the row.")
@click.option("--metric", "metrics", multiple=True, metavar="M", help="Instead of the benchmark's own; repeatable.")
@several(*JUDGE)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N samples.")
@click.option("--num-fewshot", type=click.IntRange(0), metavar="N", help="Examples in front of each question.")
@click.option("--kind", type=click.Choice(["chat", "completion"]), help="Default: what the benchmark says.")
@click.option("--num-samples", type=click.IntRange(1), default=1, metavar="K", help="Answers to each sample.")
@click.option("--temperature", type=float, metavar="T")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N")
@click.option("--top-p", type=float, metavar="P")
@click.option("--seed", type=int, metavar="N")
@click.option("--param", "params", multiple=True, metavar="K=V", callback=_parameter, help="Sent as it is; repeatable.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, metavar="S", help="Of one attempt.")
@click.option("--max-retries", type=click.IntRange(0), default=5, metavar="N", help="Of one request.")
@click.option("--run-id", metavar="ID", help="Default: readable, with a hash of what determines the answers.")
@click.option("--fresh", is_flag=True, help="Begin a new run instead of resuming.")
@click.option("--allow-changed-model", is_flag=True, help="Resume although the endpoint or served model differs.")
@click.option("--max-errors", type=click.IntRange(0), metavar="N", help="Interrupt the run after more errors.")
@click.option("--max-calls", type=click.IntRange(1), default=5, metavar="N", help="Of this command, for one question.")
@GROUPS
@FAIL_UNDER
@click.option("--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report there.")
def evaluate_command(benchmark: str, model: str, base_url: str | None, *, groups: bool, **options: Any) -> int:
    """Ask MODEL every question of BENCHMARK, score the answers, print the report.

    BENCHMARK is a name (`themis list benchmarks`), several with commas between them, the URL of a data file, or a
    Python file that defines one. The same command again resumes: only what has no answer is asked.
    """
    from themis.models import load_model

    json_file = options.pop("json_file")
    if json_file is not None:
        check_writable(Path(json_file))
    thresholds = options.pop("thresholds")
    benchmarks = _benchmarks(benchmark, options)
    check_metrics(thresholds, _metric_names(benchmarks, options["metrics"]))
    backend = open_backend(options.pop("backend"), options.pop("address"))
    timing = {name: options[name] for name in ("timeout", "max_retries")}
    asked = load_model(model, base_url=base_url, **timing)
    options["storage_backend"] = store = open_storage(options.pop("storage"))
    with backend, store:
        try:
            results = [_evaluate(each, asked, backend, options) for each in benchmarks]
        finally:
            _close(asked)
    _print_results(results, groups=groups)
    if json_file is not None:
        write_json(Path(json_file), [result.report for result in results])
    return exit_code([result.report for result in results], thresholds)


def _metric_names(benchmarks: Sequence[Benchmark], wanted: Sequence[str]) -> set[str]:
    """The metrics that there will be: a threshold for another one is found before anything is asked."""
    from themis.scoring import load_metric

    own = [benchmark.metrics for benchmark in benchmarks]
    asked = {load_metric(name, metrics).name for name in wanted for metrics in own}
    return asked or {metric.name for metrics in own for metric in metrics}


def _benchmarks(text: str, options: dict[str, Any]) -> list[Benchmark]:
    """The benchmarks that are meant; a mistake in the last one is found before the first one is asked."""
    from themis.benchmarks import load_benchmark

    names = [text] if "," not in text or Path(text).exists() else [name for name in text.split(",") if name]
    if not names:
        raise UsageError(f"{text!r} names no benchmark; `themis list benchmarks` shows what there is")
    data, prompt = options.pop("data"), options.pop("prompt")
    if len(names) > 1:
        for option, value in (("--data", data), ("--prompt", prompt), ("--run-id", options["run_id"])):
            if value is not None:
                raise UsageError(f"{option} {value} is for one benchmark, not for the {len(names)} of {text!r}")
    asking = {name: options.pop(name) for name in ("num_fewshot", "kind")}
    loaded = [load_benchmark(name, data=data, prompt=prompt, **asking) for name in names]
    called = [benchmark.name for benchmark in loaded]
    if len(set(called)) < len(called):
        raise UsageError(
            f"{text!r} are benchmarks of one name ({', '.join(called)}), which would share a run: rename one"
        )
    return loaded


def _evaluate(benchmark: Benchmark, model: Model, backend: ExecutionBackend, options: dict[str, Any]) -> Result:
    from themis.evaluate import evaluate
    from themis.progress import Progress

    options = {**options, "metrics": list(options["metrics"]) or None}
    with Progress(benchmark.name, console(err=True)) as progress:
        return evaluate(benchmark, model, execution_backend=backend, on_result=progress, **options)


def _close(model: Model) -> None:
    from themis.backends._slots import run_coroutine

    run_coroutine(model.close())


def _print_results(results: Sequence[Result], *, groups: bool) -> None:
    from themis.formats import report_table

    terminal = console()
    terminal.print(report_table([result.report for result in results], groups=groups))
    for result in results:
        terminal.print(escape(result.summary()), soft_wrap=True)
