"""The words behind the samples that two runs score differently: answers, target, prompts. Only these rows are read."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from themis.arrow import texts
from themis.compare._pairs import flipped
from themis.compare.values import Flip

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from themis.compare._runs import StoredRun
    from themis.compare.values import MetricDifference
    from themis.records import RecordKind


def with_flips(
    differences: list[MetricDifference], runs: Mapping[str, StoredRun], count: int | None, changed: Collection[str]
) -> list[MetricDifference]:
    """The differences with so many of their flips, all for None; `changed` runs may have been asked something else."""
    if count == 0:
        return differences
    chosen = [list(islice(flipped(runs[each.baseline], runs[each.run], each.metric), count)) for each in differences]
    needed: dict[str, set[str]] = {}
    for each, rows in zip(differences, chosen, strict=True):
        for label in (each.baseline, each.run):
            needed.setdefault(label, set()).update(name for name, _, _ in rows)
    asked = {each.baseline for each in differences}.union(changed)
    words = {label: Words(runs[label], names, prompts=label in asked) for label, names in needed.items() if names}
    return [
        replace(each, flips=[_flip(each, row, words) for row in rows])
        for each, rows in zip(differences, chosen, strict=True)
    ]


class Words:
    """What a run was asked, expected and answered, for some of its samples."""

    def __init__(self, run: StoredRun, names: Collection[str], *, prompts: bool) -> None:
        columns = [
            "id",
            "generation_id",
            "metric",
            "sample_id",
            "repeat",
            "answer",
            "target",
            "scorer",
            "launch",
            "seq",
        ]
        scorers = set[str]().union(*(scores.scorers for scores in run.scores.values()))
        found = _rows(run, "evaluations", "sample_id", columns, names)
        over = set[str]().union(*(scores.passed_over for scores in run.scores.values()))
        rows = sorted((row for row in found if row["scorer"] in scorers and row["id"] not in over), key=_saved)
        self._evaluations = {(row["metric"], row["sample_id"], row["repeat"]): row for row in rows}
        self._repeats = sorted({row["repeat"] for row in rows})
        first = {row["generation_id"]: row["sample_id"] for row in rows if row["repeat"] == 0}
        asked = _rows(run, "generations", "id", ["id", "prompt"], first) if prompts else []
        self._prompts: dict[str, str] = {first[row["id"]]: row["prompt"] for row in asked}

    def answers(self, metric: str, sample: str) -> list[str | None]:
        """What was extracted from each repeat."""
        keys = ((metric, sample, repeat) for repeat in self._repeats)
        return [self._evaluations[key]["answer"] for key in keys if key in self._evaluations]

    def target(self, metric: str, sample: str) -> Any:
        """What was expected."""
        keys = ((metric, sample, repeat) for repeat in self._repeats)
        text = next((self._evaluations[key]["target"] for key in keys if key in self._evaluations), None)
        return None if text is None else json.loads(text)

    def prompt(self, sample: str) -> str | None:
        """What was asked."""
        return self._prompts.get(sample)


def _rows(
    run: StoredRun, kind: RecordKind, key: str, columns: list[str], wanted: Collection[str]
) -> list[dict[str, Any]]:
    """The rows whose key is wanted. A mask, because a condition in the scan would load half of pyarrow for it."""
    import pyarrow.compute as pc

    keys, rows = texts(sorted(wanted)), []
    for table in run.storage.scan_batches(run.run_id, kind, columns):
        rows += table.filter(pc.is_in(table[key], value_set=keys)).to_pylist()
    return rows


def _saved(row: dict[str, Any]) -> tuple[str, int]:
    return row["launch"] or "", row["seq"] or 0


def _flip(each: MetricDifference, row: tuple[str, float, float], words: Mapping[str, Words]) -> Flip:
    name, before, after = row
    baseline, run = words[each.baseline], words[each.run]
    prompt, other = baseline.prompt(name), run.prompt(name)
    return Flip(
        sample_id=name,
        baseline_score=before,
        run_score=after,
        baseline_answers=baseline.answers(each.metric, name),
        run_answers=run.answers(each.metric, name),
        target=baseline.target(each.metric, name),
        prompt=prompt,
        run_prompt=None if other == prompt else other,
    )
