"""What metrics need of a sample and a generation, and the words for what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from themis.errors import UsageError
from themis.scoring.base import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records import GenerationRecord, Kind, Sample


def needed_text(generation: GenerationRecord) -> str:
    """The response.

    Raises:
        ValueError: There is none, as in a loglikelihood.
    """
    if generation.response is None:
        raise ValueError(f"a {generation.kind} generation has no text to compare")
    return generation.response


def needed_targets(sample: Sample) -> list[str]:
    """The targets, of which any is right.

    Raises:
        ValueError: There is none.
    """
    if not sample.target:
        raise ValueError(f"sample {sample.id!r} has no target to compare with")
    return [sample.target] if isinstance(sample.target, str) else sample.target


def needs_text(sample: Sample, kind: Kind) -> str | None:
    """Why responses to a sample cannot be compared with its target as text; None where they can."""
    if kind == "loglikelihood":
        return "it reads answers, and a loglikelihood has none"
    return None if sample.target else f"sample {sample.id!r} has no target"


class TextMetric(Metric):
    """A metric that compares the text of a response with the sample's targets."""

    def unfit(self, sample: Sample, kind: Kind) -> str | None:
        return needs_text(sample, kind)


def check_fit(metrics: Sequence[Metric], sample: Sample, kind: Kind) -> None:
    """Find out from one sample, before anything is asked, that a metric cannot score a benchmark.

    Raises:
        UsageError: It names the metric, the reason and the metrics among these that fit.
    """
    reasons = {metric.name: metric.unfit(sample, kind) for metric in metrics}
    for name, reason in reasons.items():
        if reason is not None:
            fits = [other for other, why in reasons.items() if why is None]
            advice = f"; of those given, {', '.join(fits)} fits" if fits else ""
            raise UsageError(
                f"the metric {name!r} does not fit this benchmark: {reason}{advice}. "
                "Give other metrics, or none for the benchmark's own; `themis list metrics` shows what there is"
            )
