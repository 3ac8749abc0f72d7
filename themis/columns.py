"""The columns of samples, generations and evaluations: which there are, what each may hold, how it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from themis.records import EvaluationRecord, GenerationRecord, Sample

Record: TypeAlias = Sample | GenerationRecord | EvaluationRecord

MICROSECONDS = 1_000_000
"""Times are stored in these."""


@dataclass(frozen=True)
class Column:
    """How a field is stored: its Arrow type, the Python types that a record may hold, whether it is JSON."""

    arrow: str
    types: frozenset[type]
    json: bool = False

    @property
    def is_time(self) -> bool:
        return self.arrow == "timestamp"


def _column(arrow: str, *types: type | None) -> Column:
    held = frozenset(type(None) if kind is None else kind for kind in types)
    return Column("string" if arrow == "json" else arrow, held, json=arrow == "json")


_TEXT = _column("string", str)
_TEXT_OR_NONE = _column("string", str, None)
_COUNT = _column("int64", int)
_COUNT_OR_NONE = _column("int64", int, None)
_REAL_OR_NONE = _column("float64", float, int, bool, None)
_TIME_OR_NONE = _column("timestamp", float, int, None)
_OBJECT = _column("json", dict)
_LIST_OR_NONE = _column("json", list, None)
_INPUT = _column("json", str, list)
_TARGET = _column("json", str, list, None)
_ANY = _column("json", object)

_SAMPLES = {
    "id": _TEXT,
    "input": _INPUT,
    "target": _TARGET,
    "choices": _LIST_OR_NONE,
    "group": _TEXT_OR_NONE,
    "metadata": _OBJECT,
}
_GENERATIONS = {
    "id": _TEXT,
    "prompt": _TEXT,
    "response": _TEXT_OR_NONE,
    "sample_id": _TEXT,
    "repeat": _COUNT,
    "benchmark": _TEXT,
    "group": _TEXT_OR_NONE,
    "kind": _TEXT,
    "model": _TEXT,
    "params": _OBJECT,
    "messages": _LIST_OR_NONE,
    "reasoning": _TEXT_OR_NONE,
    "finish_reason": _TEXT_OR_NONE,
    "input_tokens": _COUNT_OR_NONE,
    "output_tokens": _COUNT_OR_NONE,
    "reasoning_tokens": _COUNT_OR_NONE,
    "cached_input_tokens": _COUNT_OR_NONE,
    "choice_logprobs": _LIST_OR_NONE,
    "choice_is_greedy": _LIST_OR_NONE,
    "token_logprobs": _LIST_OR_NONE,
    "model_served": _TEXT_OR_NONE,
    "system_fingerprint": _TEXT_OR_NONE,
    "started_at": _TIME_OR_NONE,
    "latency": _REAL_OR_NONE,
    "attempts": _COUNT,
    "worker": _TEXT_OR_NONE,
    "status": _TEXT,
    "error_kind": _TEXT_OR_NONE,
    "error_type": _TEXT_OR_NONE,
    "error_message": _TEXT_OR_NONE,
    "metadata": _OBJECT,
}
_EVALUATIONS = {
    "id": _TEXT,
    "generation_id": _TEXT,
    "metric": _TEXT,
    "sample_id": _TEXT,
    "repeat": _COUNT,
    "group": _TEXT_OR_NONE,
    "benchmark": _TEXT,
    "model": _TEXT,
    "scorer": _TEXT,
    "answer": _TEXT_OR_NONE,
    "target": _TARGET,
    "score": _REAL_OR_NONE,
    "value": _ANY,
    "explanation": _TEXT_OR_NONE,
    "generation_ids": _LIST_OR_NONE,
    "response_hash": _TEXT_OR_NONE,
    "status": _TEXT,
    "error_kind": _TEXT_OR_NONE,
    "error_type": _TEXT_OR_NONE,
    "error_message": _TEXT_OR_NONE,
    "metadata": _OBJECT,
}
COLUMNS: dict[str, dict[str, Column]] = {
    "samples": _SAMPLES,
    "generations": _GENERATIONS,
    "evaluations": _EVALUATIONS,
}
KEY_COLUMNS = {
    "run_id": _TEXT_OR_NONE,
    "launch": _TEXT_OR_NONE,
    "seq": _COUNT_OR_NONE,
    "saved_at": _TIME_OR_NONE,
}
RECORDS: dict[str, type[Record]] = {
    "samples": Sample,
    "generations": GenerationRecord,
    "evaluations": EvaluationRecord,
}


def all_columns(kind: str) -> dict[str, Column]:
    """The columns of a kind by name: the fields of its record, then the keys."""
    return {**COLUMNS[kind], **KEY_COLUMNS}
