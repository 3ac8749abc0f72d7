"""Evaluation of language models whose unit of scale is a Ray cluster and whose unit of truth is a stored record.

    from themis import evaluate

    result = evaluate(benchmark="arithmetic", model="demo")
    print(result)

Importing this package loads none of ray, pyarrow, s3fs and aiohttp: each is imported where it is used.
"""

from __future__ import annotations

from themis.benchmarks import Benchmark, load_benchmark
from themis.compare import Comparison, compare
from themis.errors import ThemisError
from themis.evaluate import evaluate
from themis.models import Model, Response, load_model
from themis.records import EvaluationRecord, GenerationRecord, MetricResult, Report, Request, Sample
from themis.result import Result
from themis.score import score
from themis.scoring import Metric, Score

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "Comparison",
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
    "compare",
    "evaluate",
    "load_benchmark",
    "load_model",
    "score",
]
