"""What is asked: shipped benchmarks by name, and a user's own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from themis.benchmarks.base import Benchmark, Template, check_template, literal_text
from themis.benchmarks.fewshot import FewShot
from themis.errors import UnknownNameError, UsageError
from themis.registry import Registry, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from themis.benchmarks.base import Row
    from themis.records import Kind

__all__ = ["Benchmark", "FewShot", "benchmark_names", "load_benchmark"]

_BENCHMARKS: Registry[Callable[[], Benchmark] | Benchmark] = Registry(
    "benchmark",
    {
        "arc_challenge": "themis.benchmarks.arc:arc_challenge",
        "arc_challenge_loglikelihood": "themis.benchmarks.arc:arc_challenge_loglikelihood",
        "arc_easy": "themis.benchmarks.arc:arc_easy",
        "arc_easy_loglikelihood": "themis.benchmarks.arc:arc_easy_loglikelihood",
        "arithmetic": "themis.benchmarks.arithmetic:arithmetic",
        "bbh": "themis.benchmarks.bbh:bbh",
        "gsm8k": "themis.benchmarks.gsm8k:gsm8k",
        "humaneval": "themis.benchmarks.humaneval:humaneval",
        "humaneval_completion": "themis.benchmarks.humaneval:humaneval_completion",
        "ifeval": "themis.benchmarks.ifeval:ifeval",
        "math": "themis.benchmarks.math:math",
        "math500": "themis.benchmarks.math500:math500",
        "mbpp": "themis.benchmarks.mbpp:mbpp",
        "mbpp_sanitized": "themis.benchmarks.mbpp:mbpp_sanitized",
        "mmlu": "themis.benchmarks.mmlu:mmlu",
        "mmlu_loglikelihood": "themis.benchmarks.mmlu:mmlu_loglikelihood",
        "mmlu_pro": "themis.benchmarks.mmlu_pro:mmlu_pro",
        "mmlu_stem": "themis.benchmarks.mmlu:mmlu_stem",
        "truthfulqa": "themis.benchmarks.truthfulqa:truthfulqa",
        "truthfulqa_loglikelihood": "themis.benchmarks.truthfulqa:truthfulqa_loglikelihood",
    },
)


_STOP_LENGTH = 40
"""Characters of a template that are its own beyond doubt."""


def benchmark_names() -> list[str]:
    """The names that load_benchmark knows, sorted."""
    return _BENCHMARKS.names()


def load_benchmark(
    benchmark: str | os.PathLike[str] | Benchmark | Iterable[Row],
    *,
    data: str | os.PathLike[str] | Iterable[Row] | None = None,
    prompt: Template | None = None,
    num_fewshot: int | None = None,
    kind: Kind | None = None,
) -> Benchmark:
    """The benchmark that is meant; its rows are opened only when samples are taken.

    Args:
        benchmark: A name; a Benchmark; a URL or path of a data file; a Python file that defines one
            ("my_bench.py", or
            "my_bench.py:name" of several); dicts, which are taken once and kept in memory.
        data: Takes the place of its rows: a URL, a path or dicts with the same fields.
        prompt: Takes the place of its template: text with {fields}, or a function sample -> text or messages.
        num_fewshot: How many examples stand in front of each question; default the benchmark's own number.
        kind: "completion" to have a chat benchmark's prompts completed as text, "chat" for the other way round.

    Raises:
        UnknownNameError: No benchmark of that name; it names the nearest one.
        UsageError: It is none of these, or the file is not there.
    """
    from themis.benchmarks.custom import rows_and_source

    if prompt is not None:
        check_template(prompt)
    found = _found(benchmark, prompt)
    if data is not None:
        rows, source = rows_and_source(os.fspath(data) if isinstance(data, os.PathLike) else data)
        found = found.replace(rows=rows, source=source)
    if prompt is not None:
        fewshot = found.fewshot and replace(found.fewshot, intro=None)  # it belongs to the template that goes
        found = found.replace(template=prompt, fewshot=fewshot)
    if kind is not None and kind != found.kind:
        found = _of_kind(found, kind)
    return found if num_fewshot is None else _with_fewshot(found, num_fewshot)


def _of_kind(benchmark: Benchmark, kind: Kind) -> Benchmark:
    kinds = ("chat", "completion")
    if kind not in kinds or benchmark.kind not in kinds:
        raise UsageError(
            f"kind={kind!r}: {benchmark.name!r} makes {benchmark.kind} requests; chat and completion stand for each "
            "other only"
        )
    fewshot = benchmark.fewshot
    if fewshot and fewshot.form == "turns" and kind == "completion":
        fewshot = replace(fewshot, form="text", after_prompt="\n\n")
    stop = _next_question(benchmark) if benchmark.stop is None and kind == "completion" else benchmark.stop
    return benchmark.replace(kind=kind, fewshot=fewshot, stop=stop)


def _next_question(benchmark: Benchmark) -> tuple[str, ...] | None:
    """What a model that completes text would begin a question of its own with, whose answer is not to be scored."""
    words = literal_text(benchmark.template) if isinstance(benchmark.template, str) else ""
    between = benchmark.fewshot.between if benchmark.fewshot else "\n\n"
    return (between + words[:_STOP_LENGTH].strip(),) if words else None


def _with_fewshot(benchmark: Benchmark, count: int) -> Benchmark:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UsageError(f"num_fewshot={count!r}: give a whole number from 0")
    if count and benchmark.fewshot is None:
        known = [_BENCHMARKS.get(name) for name in _BENCHMARKS.names()]
        having = [each.name for each in (one if isinstance(one, Benchmark) else one() for one in known) if each.fewshot]
        raise UsageError(
            f"num_fewshot={count}, but {benchmark.name!r} has no few-shot examples; "
            f"{', '.join(having)} have. Give your own Benchmark a fewshot=FewShot(...), or write them into the prompt"
        )
    return benchmark.replace(num_fewshot=count)


def _found(benchmark: Any, prompt: Template | None) -> Benchmark:
    from themis.benchmarks.custom import custom_benchmark, file_benchmark

    if isinstance(benchmark, Benchmark):
        return benchmark
    if isinstance(benchmark, str | os.PathLike):
        text = os.fspath(benchmark)
        if text.endswith(".py") or ".py:" in text:
            return file_benchmark(text)
        if text in _BENCHMARKS.names():
            known = _BENCHMARKS.get(text)
            return known if isinstance(known, Benchmark) else known()
        return custom_benchmark(_data_place(text), prompt)
    if hasattr(benchmark, "__iter__") and not isinstance(benchmark, bytes | dict):
        return custom_benchmark(benchmark, prompt)
    raise UsageError(
        f"{benchmark!r:.100} is a {type(benchmark).__name__}; a benchmark is a name, a Benchmark, "
        "a data file or its URL, a Python file, or an iterable of dicts"
    )


def _data_place(text: str) -> str:
    """The text itself where it means data that may be there."""
    from themis.benchmarks.data import is_data_name

    if "://" in text or "*" in text or Path(text).exists():
        return text
    if is_data_name(text):
        raise UsageError(f"there is no file {text!r}; check the path (seen from {Path.cwd()})")
    if "/" in text:
        raise UnknownNameError(
            f"{text!r} is neither a benchmark nor a file; data on the hub is named "
            f"hf://datasets/{text}/FILE. Known benchmarks: {', '.join(benchmark_names())}."
        )
    known_names = unknown("benchmark", text, benchmark_names())
    raise UnknownNameError(f"{known_names} Own data: give a file's path, or its URL.")
