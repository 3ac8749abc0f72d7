"""evaluate(): benchmark, model, execution and storage composed into one run.

    load -> requests -> map(ask and score) -> storage -> map(score what is left) -> aggregate -> storage

Workers return records and the driver writes them: one writer, no coordination. The report is made from what is stored,
so a run that was killed and resumed, on whatever backend, reports the same bits as one that went through.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from themis.backends import ExecutionBackend, LocalExecutionBackend, StorageBackend
from themis.backends._slots import run_coroutine
from themis.backends.storage import check_run_id
from themis.benchmarks import load_benchmark
from themis.errors import UsageError
from themis.ids import canonical_json
from themis.judging import load_judges
from themis.models import load_model
from themis.plan import Plan
from themis.run import Run
from themis.scoring import load_metric
from themis.scoring.repeats import check_repeats, most_repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from themis.benchmarks.base import Benchmark, Row, Template
    from themis.models.base import Model
    from themis.models.function import ModelFunction
    from themis.records import Kind
    from themis.result import Result
    from themis.run import Update
    from themis.scoring import MetricLike
    from themis.scoring.base import Metric

DEFAULT_STORAGE = ".themis/runs"
BACKENDS = "themis.backends has LocalExecutionBackend, RayExecutionBackend and SequentialExecutionBackend"


def evaluate(
    benchmark: str | os.PathLike[str] | Benchmark | Iterable[Row],
    model: str | Model | ModelFunction,
    *,
    execution_backend: ExecutionBackend | None = None,
    storage_backend: StorageBackend | None = None,
    storage: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | Iterable[Row] | None = None,
    prompt: Template | None = None,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    kind: Kind | None = None,
    num_samples: int = 1,
    temperature: float | None = None,
    max_tokens: int | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    params: dict[str, Any] | None = None,
    base_url: str | None = None,
    judge_model: str | Model | ModelFunction | None = None,
    judge_base_url: str | None = None,
    max_workers: int | None = None,
    timeout: float = 600.0,
    max_retries: int = 5,
    run_id: str | None = None,
    fresh: bool = False,
    allow_changed_model: bool = False,
    max_errors: int | None = None,
    max_calls: int | None = 5,
    on_result: Callable[[Update], None] | None = None,
) -> Result:
    """The result of asking a model every question of a benchmark, with every record stored.

    The same call made again resumes: what is answered is not asked again, what ended in an error of the infrastructure
    is. An error of one sample never stops the run; it is stored, shown, and never leaves the denominator. What no
    further sample can survive (a revoked key, a spent quota, a model or endpoint that is gone) interrupts the run, and
    the next call goes on from there.

    Args:
        benchmark: A name, a Benchmark, a list or iterable of dicts, a URL of a data file, or a Python file.
        model: "provider/NAME", a function prompt -> text, or a Model.
        execution_backend: Where the work runs; default threads of this process. It is not shut down.
        storage_backend: Where the records go; flushed, not closed. Or give `storage`.
        storage: A URL for the records; default $THEMIS_STORAGE, else ./.themis/runs.
        data: Other rows for the benchmark: a URL or an iterable of dicts.
        prompt: Another template: text with {fields} of the row, or a function sample -> text or messages.
        metrics: Names, Metrics or functions instead of the benchmark's own, the main one first.
        limit: Only the first so many samples.
        num_fewshot: Examples in front of each question; default the benchmark's own number.
        kind: "completion" to have prompts completed as text where the benchmark chats.
        num_samples: Answers to each sample (repeats).
        temperature: Of sampling; like the next four sent only when set.
        max_tokens: Length of an answer, in tokens.
        top_p: Of nucleus sampling.
        stop: Texts at which an answer ends.
        seed: Of sampling; repeat k gets seed + k.
        params: Further parameters, sent as they are.
        base_url: Where the model is served.
        judge_model: Whom metrics ask that ask a judge and do not say whom.
        judge_base_url: Where that one is served.
        max_workers: Requests in progress at once, over all machines; default the backend's own, 64 where it has none.
        timeout: Seconds for one attempt of a request; also for the dear metrics of one answer.
        max_retries: How often a request is sent again.
        run_id: Id of the run; default readable plus a hash of what determines the answers.
        fresh: Begin a new run instead of resuming.
        allow_changed_model: Resume although another endpoint, or another served model, gave the stored answers.
        max_errors: Interrupt the run after more errors than this.
        max_calls: Give a question up when so many calls of evaluate() for this run ended in errors of the
            infrastructure for it; None for never. An interruption (a dead endpoint, a revoked key) does not count.
        on_result: Called for each new answer, on the calling thread.

    Raises:
        UsageError: A name, a row or an option cannot be used; found before the first request.
        StorageError: The storage cannot be written; found before the first request.
        ModelError: There is no key, or no server; found before the first request.
        KeyboardInterrupt: After Ctrl-C, when what was answered is stored and the report says "interrupted".
    """
    check_counts(limit=limit, num_samples=num_samples, max_workers=max_workers, max_calls=max_calls)
    check_counts(0, max_retries=max_retries, max_errors=max_errors)
    check_timeout(timeout)
    loaded = load_benchmark(benchmark, data=data, prompt=prompt, num_fewshot=num_fewshot, kind=kind)
    wanted = load_metrics(metrics, loaded.metrics)
    check_repeats(wanted, num_samples, f"give num_samples={most_repeats(wanted)} (--num-samples), or a smaller k")
    timing: dict[str, Any] = {"timeout": timeout, "max_retries": max_retries}
    judged, judges = load_judges(wanted, judge_model, base_url=judge_base_url, **timing)
    asked_model = load_model(model, base_url=base_url, **timing)
    _check_kind(loaded, asked_model)
    plan = Plan(
        benchmark=loaded,
        model=asked_model,
        metrics=judged,
        params=_params(
            params,
            temperature=temperature,
            max_tokens=max_tokens,
            top_p=top_p,
            stop=_stop(stop, params, loaded.stop),
            seed=seed,
        ),
        limit=limit,
        num_samples=num_samples,
    )
    if execution_backend is not None:
        check_instance("execution_backend", execution_backend, ExecutionBackend, BACKENDS)
    name = _run_id(plan, run_id, fresh=fresh)
    store, owned = open_storage(storage_backend, storage)
    run = Run(
        plan=plan,
        storage=store,
        run_id=name,
        backend=execution_backend or LocalExecutionBackend(),
        max_workers=max_workers,
        timeout=timeout,
        max_errors=max_errors,
        same_model=not allow_changed_model,
        max_calls=max_calls,
        on_result=on_result,
    )
    try:
        return run.result()
    finally:
        if owned:
            store.close()
        else:
            store.flush()
        for made in [*judges, *([] if asked_model is model else [asked_model])]:
            run_coroutine(made.close())


def _run_id(plan: Plan, run_id: str | None, *, fresh: bool) -> str:
    if run_id is not None:
        check_run_id(run_id)
        return f"{run_id}-{uuid4().hex[:6]}" if fresh else run_id
    name = plan.default_run_id()
    return f"{name}-{uuid4().hex[:6]}" if fresh else name


def open_storage(backend: StorageBackend | None, url: str | os.PathLike[str] | None) -> tuple[StorageBackend, bool]:
    """Where the records go, and whether it was made here."""
    if backend is not None and url is not None:
        raise UsageError(f"storage_backend={backend!r} and storage={url!r} both say where records go: give one")
    if backend is not None:
        check_instance("storage_backend", backend, StorageBackend, "storage= takes a URL")
        return backend, False
    from themis.backends import FsspecStorageBackend

    return FsspecStorageBackend(os.fspath(url or os.environ.get("THEMIS_STORAGE") or DEFAULT_STORAGE)), True


def check_instance(name: str, value: object, kind: type, instead: str) -> None:
    """Raise UsageError for a value of another kind; `instead` says where there are some of it."""
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is no {kind.__name__}; give an instance of one ({instead})")


def check_timeout(timeout: float) -> None:
    """Raise UsageError unless it is seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise UsageError(f"timeout={timeout!r}: give seconds above 0")


def load_metrics(wanted: Sequence[MetricLike] | MetricLike | None, own: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """The metrics that are meant; the benchmark's own without a word on it."""
    if wanted is None:
        return own
    several: Sequence[Any] = wanted if isinstance(wanted, list | tuple) else [wanted]
    return tuple(load_metric(metric, own) for metric in several)


def _check_kind(benchmark: Benchmark, model: Model) -> None:
    if benchmark.kind not in model.kinds:
        raise UsageError(
            f"{benchmark.name!r} makes {benchmark.kind} requests, and {model.name} answers only "
            f"{', '.join(sorted(model.kinds))}; ask another model, or another benchmark (`themis list benchmarks`)"
        )


def _stop(given: str | Sequence[str] | None, params: dict[str, Any] | None, own: Sequence[str] | None) -> Any:
    """Where an answer ends: the caller's word, by whichever way it came, before the benchmark's own."""
    stop = own if given is None and "stop" not in (params or {}) else given
    return stop if stop is None or isinstance(stop, str) else list(stop)


def _params(given: dict[str, Any] | None, **named: Any) -> dict[str, Any]:
    """The parameters that were set, by whichever way; a contradiction is an error."""
    params = dict(given or {})
    for name, value in named.items():
        if value is None:
            continue
        if name in params and params[name] != value:
            raise UsageError(f"{name}={value!r} and params[{name!r}]={params[name]!r} contradict each other: give one")
        params[name] = value
    canonical_json(params)  # anything else than JSON is found here, not in the middle of a run
    return params


def check_counts(low: int = 1, /, **counts: Any) -> None:
    """Raise UsageError for what is neither None nor a whole number from `low`."""
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise UsageError(f"{name}={value!r}: give a whole number from {low}")
