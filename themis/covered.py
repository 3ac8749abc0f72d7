"""What a stored run covers, found out from its samples, its generations and its report."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from themis import arrow
from themis.errors import ReportNotFoundError, UsageError
from themis.plan import Fingerprint
from themis.records import Sample
from themis.stored import JUDGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from themis.backends import StorageBackend
    from themis.records import Kind, Report

logger = logging.getLogger(__name__)


@dataclass
class Covered:
    """The answers that a run's report is about, or all of them where it has none.

    Attributes:
        report: The report that was stored last, None without one.
        same: Whether the answers are exactly those of that report.
        samples: What was asked, in the order in which it was stored.
        n_repeats: Answers to each sample, at most.
        benchmark: Name of the benchmark, "" where nothing says it.
        model: Name of the model.
        kind: Of the requests that the answers are to.
    """

    storage: StorageBackend
    run_id: str
    report: Report | None = None
    same: bool = False
    samples: list[Sample] = field(default_factory=list)
    n_repeats: int = 1
    benchmark: str = ""
    model: str = ""
    kind: Kind = "chat"
    _generations: dict[str, dict[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.report = self.storage.load_report(self.run_id)
        except ReportNotFoundError:
            self.report = None
        self._read_generations()
        stored = list(self._stored_samples())
        if not stored:
            raise UsageError(
                f"the run {self.run_id!r} has no samples stored, and scoring needs their targets: make the call of "
                "evaluate() again with these metrics; what is answered is not asked again"
            )
        self.samples = [*stored, *self._others({sample.id for sample in stored})]
        if self.report is not None:
            self._narrow(self.report)

    def answers(self) -> Iterator[tuple[Sample, int, str | None]]:
        """Each sample with the number of a repeat and the id of its generation, None where none is stored."""
        asked = self.report is not None and self.same
        for sample in self.samples:
            repeats = self._generations.get(sample.id, {})
            for repeat in range(self.n_repeats) if asked else sorted(repeats) or [0]:
                yield sample, repeat, repeats.get(repeat)

    def _read_generations(self) -> None:
        """Note the last one stored of each pair: a sample that has changed was asked again under another id."""
        import pyarrow.compute as pc

        columns = ["id", "sample_id", "repeat", "benchmark", "model", "kind", "launch", "seq"]
        table = self.storage.scan(self.run_id, "generations", columns)
        table = _in_order(table.filter(pc.invert(pc.starts_with(table["benchmark"], JUDGE))))
        if table.num_rows:
            self.benchmark, self.model, self.kind = (table[name][0].as_py() for name in columns[3:6])
        rows = zip(*(table[name].to_pylist() for name in columns[:3]), strict=True)
        for name, sample, repeat in rows:
            self._generations.setdefault(sample, {})[repeat] = name
            self.n_repeats = max(self.n_repeats, repeat + 1)

    def _stored_samples(self) -> Iterator[Sample]:
        yield from arrow.to_records(_in_order(self.storage.scan(self.run_id, "samples")), "samples")

    def _others(self, known: set[str]) -> Iterator[Sample]:
        """What stands for samples of which only answers are stored: they have no target."""
        lost = set(self._generations) - known
        if not lost:
            return
        logger.warning("%d samples of run %s are not stored, only their answers are", len(lost), self.run_id)
        for generation in self.storage.iter_generation_records(self.run_id):
            if generation.sample_id in lost and not generation.benchmark.startswith(JUDGE):
                lost.discard(generation.sample_id)
                yield Sample(generation.sample_id, generation.messages or generation.prompt, group=generation.group)

    def _narrow(self, report: Report) -> None:
        """Keep what the report is about; all where that cannot be told.

        Samples are stored in the order of the benchmark, so that a call with a limit covers the first of them.
        """
        first = self.samples[: report.n_rows]
        whole = len(first) == len(self.samples) == report.n_rows
        if whole or _fingerprint(first) == report.provenance.get("data", {}).get("fingerprint"):
            self.samples, self.n_repeats, self.same = first, report.n_repeats, True
            return
        logger.warning(
            "which %d of the %d samples of run %s its report is about cannot be told: all of them are scored, and the "
            "report will be about all, with these metrics only",
            report.n_rows,
            len(self.samples),
            self.run_id,
        )


def _in_order(table: pa.Table) -> pa.Table:
    """The rows in the order in which they were stored."""
    return table.sort_by([("launch", "ascending"), ("seq", "ascending")])


def _fingerprint(samples: Sequence[Sample]) -> str:
    data = Fingerprint()
    for sample in samples:
        data.add(sample)
    return data.text()
