"""Records that the storage contract saves."""

from __future__ import annotations

from typing import Any

from themis.records import EvaluationRecord, GenerationRecord, MetricResult, Report, Sample

ODD_TEXT = "Grüße 🦉 漢字 \"quoted\" 'single' back\\slash\ttab\nline\r\nline\u2028separator\u200b{json} 'a;b,c' %s  "
LONG_TEXT = "0123456789abcdef" * 20_000


def generation(record_id: str, **fields: Any) -> GenerationRecord:
    """A small generation of that id."""
    return GenerationRecord(**{"id": record_id, "prompt": "2 + 2 = ?", "response": "4", **fields})


def evaluation(record_id: str, **fields: Any) -> EvaluationRecord:
    """A small evaluation of that id."""
    given = {"id": record_id, "generation_id": "g1", "metric": "exact_match", "score": 1.0, **fields}
    return EvaluationRecord(**given)


def full_generation() -> GenerationRecord:
    """A generation in which no field has its default."""
    return GenerationRecord(
        id="f0" * 16,
        prompt='[{"content":"2 + 2 = ?","role":"user"}]',
        response="The answer is 4.",
        sample_id="test/1",
        repeat=3,
        benchmark="arithmetic",
        group="addition",
        kind="completion",
        model="openai/gpt-4o",
        params={"temperature": 0.7, "stop": ["\n"], "seed": 7},
        messages=[{"role": "user", "content": "2 + 2 = ?"}],
        reasoning="Two and two.",
        finish_reason="stop",
        input_tokens=12,
        output_tokens=6,
        reasoning_tokens=2,
        cached_input_tokens=1,
        choice_logprobs=[-0.25, -1.5],
        choice_is_greedy=[True, False],
        token_logprobs=[{"token": "4", "logprob": -0.125}],
        model_served="gpt-4o-2024-08-06",
        system_fingerprint="fp_1",
        started_at=1_700_000_000.25,
        latency=0.75,
        attempts=2,
        worker="host:123",
        status="error",
        error_kind="model",
        error_type="ModelOutcomeError",
        error_message="refused",
        metadata={"nested": {"list": [1, None, "x"]}},
    )


def full_evaluation() -> EvaluationRecord:
    """An evaluation in which no field has its default."""
    return EvaluationRecord(
        id="e0" * 16,
        generation_id="f0" * 16,
        metric="exact_match",
        sample_id="test/1",
        repeat=3,
        group="addition",
        benchmark="arithmetic",
        model="openai/gpt-4o",
        scorer="exact_match@2",
        answer="4",
        target=["4", "four"],
        score=0.5,
        value={"matches": [1, 0]},
        explanation="one of two",
        generation_ids=["f0" * 16],
        response_hash="ab" * 16,
        status="error",
        error_kind="scorer",
        error_type="ValueError",
        error_message="no number",
        metadata={"rule": "last number"},
    )


def full_report() -> Report:
    """A report in which no field has its default."""
    metric = MetricResult(
        metric="exact_match", mean=0.5, stderr=0.1, n_attempted=3, n_scored=2, errors={"infrastructure": 1}
    )
    return Report(
        run_id="run",
        benchmark="arithmetic",
        model="openai/gpt-4o",
        schema_version=2,
        benchmark_version="2",
        status="partial",
        created_at=1_700_000_000.25,
        n_rows=3,
        n_repeats=2,
        selection={"limit": 3},
        metrics={"exact_match": metric},
        groups={"exact_match": {"addition": MetricResult(metric, group="addition")}},
        errors={"infrastructure": 1},
        n_given_up=1,
        usage={"input_tokens": 36},
        config={"params": {"temperature": 0.0}},
        provenance={"python": "3.11"},
    )


def samples() -> list[Sample]:
    """Samples of every form, sorted by id."""
    return [
        Sample("1", "2 + 2 = ?", "4", group="addition", metadata={"row_number": 1}),
        Sample("2", [{"role": "user", "content": ODD_TEXT}], ["a", "b"], choices=["a", "b"]),
        Sample("3", '["looks like JSON"]', None),
    ]
