"""What evaluate() returns."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from themis.formats import report_table, to_html
from themis.registry import require

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from themis.backends.storage import StorageBackend
    from themis.records import EvaluationRecord, GenerationRecord, Report, Sample


@dataclass(frozen=True, repr=False)
class Result:
    """The report of one call, and the way to its records.

    Shows as a table in a terminal (`print(result)`) and in a notebook. Records are read from the storage when they
    are asked for, and cover the whole run: an earlier call may have asked more than this one.

    Attributes:
        report: What was found.
        storage: Where the records are.
        n_asked: Requests that this call put to the model.
        n_stored: Requests whose answers were stored already.
        stopped_by: Why the run was interrupted, None when it was not.
        first_errors: For each kind of error the first one, by sample: which sample, and what went wrong.
        max_calls: The call's bound on how often a question without an answer is asked.
        n_judge_calls: Requests that this call put to judges.
    """

    report: Report
    storage: StorageBackend
    n_asked: int
    n_stored: int
    stopped_by: str | None = None
    first_errors: dict[str, str] = field(default_factory=dict)
    max_calls: int | None = None
    n_judge_calls: int = 0

    @property
    def run_id(self) -> str:
        """Id of the run in the storage."""
        return self.report.run_id

    @property
    def metrics(self) -> dict[str, float | None]:
        """The mean of each metric, the benchmark's main metric first; None where nothing was scored."""
        return {name: result.mean for name, result in self.report.metrics.items()}

    @property
    def samples(self) -> list[Sample]:
        """The samples of the run; [] where the storage keeps none."""
        return self.storage.load_samples(self.run_id)

    @property
    def generations(self) -> list[GenerationRecord]:
        """The answers of the run, in no promised order."""
        return self.storage.load_generation_records(self.run_id)

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """The scores of the run, in no promised order."""
        return self.storage.load_evaluation_records(self.run_id)

    def to_arrow(self) -> pa.Table:
        """One row for each score of the run, beside the answer it is for: sample, prompt, response, answer, score.

        A target is its text, as the answer beside it is; a list of targets is JSON.
        """
        generations = self.storage.scan(self.run_id, "generations", _GENERATION_COLUMNS)
        evaluations = self.storage.scan(self.run_id, "evaluations", _EVALUATION_COLUMNS)
        generations = generations.rename_columns(["generation_id", *generations.column_names[1:]])
        place = evaluations.column_names.index("target")
        evaluations = evaluations.set_column(place, "target", _as_text(evaluations["target"]))
        joined = evaluations.join(generations, "generation_id", join_type="left outer")
        order = [(name, "ascending") for name in ("sample_id", "repeat", "metric")]
        return joined.sort_by(order)

    def to_pandas(self) -> pd.DataFrame:
        """to_arrow() as a pandas DataFrame; needs pandas."""
        require("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """to_arrow() as a Polars DataFrame; needs polars."""
        polars = require("polars")
        frame: pl.DataFrame = polars.DataFrame(self.to_arrow())
        return frame

    def summary(self) -> str:
        """What happened: what was asked, what was stored already, what went wrong, in which run."""
        asked = f"{self.n_asked} asked now" if self.n_asked else "no model was called"
        if self.n_judge_calls:
            asked = f"{self.n_asked} asked now, {self.n_judge_calls} calls of judges"
        text = f"{self.report.status}: {asked}, {self.n_stored} answers were stored already (run {self.run_id})"
        stopped = [f"interrupted: {self.stopped_by}"] if self.stopped_by else []
        given_up = [f"given up: {self._given_up()}"] if self.report.n_given_up else []
        errors = [f"first {kind} error: {error}" for kind, error in self.first_errors.items()]
        return "\n".join([text, *stopped, *given_up, *errors])

    def _given_up(self) -> str:
        count = self.report.n_given_up
        return (
            f"{count} question{'s' * (count > 1)} had no answer in {self.max_calls} calls, for errors of the "
            "infrastructure; a higher max_calls (--max-calls) asks again"
        )

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        # By itself rich would show the table at once in a notebook, and colour what is only text.
        Console(file=text, width=120, force_jupyter=False, force_terminal=False).print(report_table(self.report))
        return f"{text.getvalue()}{self.summary()}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"{to_html(self.report)}<p>{escape(self.summary())}</p>".replace("\n", "<br>")


def _as_text(targets: pa.ChunkedArray) -> pa.Array:
    """Stored targets, which are JSON text, without the quotes of those that are text."""
    import pyarrow as pa

    decoded = ((text, None if text is None else json.loads(text)) for text in targets.to_pylist())
    return pa.array([value if isinstance(value, str) else text for text, value in decoded], pa.string())


_GENERATION_COLUMNS = ["id", "prompt", "response", "finish_reason", "input_tokens", "output_tokens", "latency"]
_EVALUATION_COLUMNS = [
    "generation_id",
    "sample_id",
    "repeat",
    "metric",
    "answer",
    "target",
    "score",
    "status",
    "error_kind",
    "error_message",
]
