"""`themis list`: what commands know by name."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from themis.cli._shared import print_table

if TYPE_CHECKING:
    from themis.scoring import Metric


@click.group("list")
def list_group() -> None:
    """List benchmarks, models, metrics or runs."""


@list_group.command("benchmarks")
def list_benchmarks() -> None:
    """The benchmarks that `themis eval` knows by name."""
    from themis.benchmarks import benchmark_names, load_benchmark

    known = [load_benchmark(name) for name in benchmark_names()]
    rows = [(b.name, b.version, b.description, b.licence, ", ".join(m.name for m in b.metrics)) for b in known]
    print_table(("name", "version", "what it is", "licence of the data", "metrics"), rows)


@list_group.command("models")
def list_models() -> None:
    """What a model's name may begin with, where it is served, and whether its key is set."""
    from themis.models import MODELS, Provider

    rows = []
    for name in MODELS.names():
        entry = MODELS.get(name)
        if isinstance(entry, Provider):
            key = entry.key_env or ""
            rows.append((f"{name}/NAME", entry.base_url, key, "set" if key and os.environ.get(key) else ""))
        else:
            rows.append((name, "in process", "", ""))
    print_table(("model", "address", "key variable", ""), rows)


def _gives(metric: Metric) -> str:
    described = getattr(metric, "made", type(metric))  # of a family what it makes
    return (described.__doc__ or "").partition("\n")[0]


@list_group.command("metrics")
def list_metrics() -> None:
    """The metrics that --metric knows for any benchmark."""
    from themis.scoring import load_metric, metric_names
    from themis.scoring.repeats import REPEATS

    known = [load_metric(name) for name in metric_names()]
    rows = [(m.name, _gives(m), json.dumps(m.config()), m.version) for m in known]
    kinds = [
        (f"{name}K", (kind.__doc__ or "").splitlines()[0], "over K repeats", "1") for name, kind in REPEATS.items()
    ]
    print_table(("name", "what it gives", "settings", "version"), [*rows, *kinds])
