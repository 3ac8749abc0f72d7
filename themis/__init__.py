"""Evaluation of language models whose unit of scale is a Ray cluster and whose unit of truth is a stored record.

    from themis import evaluate

    result = evaluate(benchmark="arithmetic", model="demo")
    print(result)

Names load their module when they are first used: importing this package loads none of ray, pyarrow, s3fs and aiohttp.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from themis.errors import ThemisError
from themis.records import EvaluationRecord, GenerationRecord, MetricResult, Report, Request, Sample

if TYPE_CHECKING:
    from themis.benchmarks import Benchmark, load_benchmark
    from themis.evaluate import evaluate
    from themis.models import Model, Response, load_model
    from themis.result import Result
    from themis.scoring import Metric, Score

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "EvaluationRecord",
    "GenerationRecord",
    "Metric",
    "MetricResult",
    "Model",
    "Report",
    "Request",
    "Response",
    "Result",
    "Sample",
    "Score",
    "ThemisError",
    "__version__",
    "evaluate",
    "load_benchmark",
    "load_model",
]

_LAZY = {
    "Benchmark": "themis.benchmarks",
    "Metric": "themis.scoring",
    "Model": "themis.models",
    "Response": "themis.models",
    "Result": "themis.result",
    "Score": "themis.scoring",
    "evaluate": "themis.evaluate",
    "load_benchmark": "themis.benchmarks",
    "load_model": "themis.models",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value  # `evaluate` is a module too: once that is imported, the name would mean it
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
