"""What themis stores and passes on: frozen dataclasses without behaviour.

Every field value is JSON as it stands (str, int, float, bool, None, list, plain dict), so `json.dumps(record.__dict__)`
always works. Times are seconds since the epoch, durations seconds, counts tokens. The columns that storages write
are these fields, in this order (themis.arrow).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One chat message: {"role": ..., "content": ...}."""
Prompt: TypeAlias = str | list[Message]
Kind: TypeAlias = Literal["chat", "completion", "loglikelihood"]
Status: TypeAlias = Literal["ok", "error"]
ErrorKind: TypeAlias = Literal["model", "infrastructure", "input", "scorer"]
RecordKind: TypeAlias = Literal["samples", "generations", "evaluations"]
"""The three tables of a run."""

SCHEMA_VERSION = 1
"""Version of the fields below; written into every part, run.json and report.json."""


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark. `group` is its subject: errors may cluster by it."""

    id: str
    input: Prompt
    target: str | list[str] | None = None
    choices: list[str] | None = None
    group: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One question to a model: the `repeat`-th (from 0) for its sample. `params` holds only what was set."""

    id: str
    prompt: str
    sample_id: str
    repeat: int = 0
    benchmark: str = ""
    kind: Kind = "chat"
    messages: list[Message] | None = None
    continuations: list[str] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRecord:
    """One answer of a model, or the reason why there is none.

    `prompt` is the text that was sent, or the canonical JSON of `messages`. `latency` counts from the first attempt
    to the answer. `attempts` counts the times the request was sent. `error_kind` is "model" where the outcome is the
    model's own, "input" where the request can never succeed, else "infrastructure".
    """

    id: str
    prompt: str
    response: str | None
    sample_id: str = ""
    repeat: int = 0
    benchmark: str = ""
    group: str | None = None
    kind: Kind = "chat"
    model: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_input_tokens: int | None = None
    choice_logprobs: list[float] | None = None
    choice_is_greedy: list[bool] | None = None
    token_logprobs: list[Any] | None = None
    model_served: str | None = None
    system_fingerprint: str | None = None
    started_at: float | None = None
    latency: float | None = None
    attempts: int = 0
    worker: str | None = None
    status: Status = "ok"
    error_kind: ErrorKind | None = None
    error_type: str | None = None
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRecord:
    """One score of one generation by one metric, or the reason why there is none.

    `score` is None exactly when `status` is "error". `answer` is what was extracted, None where nothing was found.
    `value` holds statistics that a mean cannot carry. `scorer` is name@version.
    """

    id: str
    generation_id: str
    metric: str
    sample_id: str = ""
    repeat: int = 0
    group: str | None = None
    benchmark: str = ""
    model: str = ""
    scorer: str = ""
    answer: str | None = None
    target: str | list[str] | None = None
    score: float | None = None
    value: Any = None
    explanation: str | None = None
    generation_ids: list[str] | None = None
    response_hash: str | None = None
    status: Status = "ok"
    error_kind: ErrorKind | None = None
    error_type: str | None = None
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class MetricResult(dict[str, Any]):
    """One metric over one run: `result.mean` and `result["mean"]` are the same.

    A dict, because a Report is JSON as it stands. Its fields, None where they cannot be computed:
        metric: Name.
        group: The subject it is restricted to, None for all samples.
        mean: Over the scored; None when nothing was scored.
        stderr: Standard error of the mean, computed as `stderr_method` says.
        ci_low, ci_high: Interval that covers the true mean with probability `ci_level`.
        n_attempted: Pairs of sample and repeat that this report covers.
        n_scored: Those with a response and a score. The denominator of the mean.
        n_unanswered: Those among the scored in which no answer was found; their score is 0.
        errors: Number of unscored ones by kind of error.
        bound_low, bound_high: The mean if every unscored one were wrong, and if every one were right.
        n_groups, macro_mean, macro_stderr: Where results are broken down by group: how many groups have a mean, the
            mean of these means, and its standard error. `mean` is over all, which is the micro average.

    A pooled metric has its number as `mean`; a metric over repeats counts samples, not pairs.
    """

    metric: str
    group: str | None
    mean: float | None
    stderr: float | None
    stderr_method: str | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    n_attempted: int
    n_scored: int
    n_unanswered: int
    errors: dict[str, int]
    bound_low: float | None
    bound_high: float | None
    n_groups: int
    macro_mean: float | None
    macro_stderr: float | None

    def __init__(self, *fields: Any, **more: Any) -> None:
        """Takes what dict() takes; a field that is not given is None, 0 or {}."""
        super().__init__(dict.fromkeys(MetricResult.__annotations__))
        self.update(ci_level=0.95, n_attempted=0, n_scored=0, n_unanswered=0, errors={}, n_groups=0)
        self.update(*fields, **more)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a MetricResult has no field {name!r}; it has {', '.join(self)}") from None


@dataclass(frozen=True)
class Report:
    """What one call of evaluate() found, for exactly what that call asked for.

    `status` is "complete" when every metric scored everything it attempted, "interrupted" when the run was stopped
    before it had asked everything, else "partial". `errors` counts generations without a response by kind, and
    `n_given_up` those of kind "infrastructure" that were not asked again, after too many calls without an answer.
    `groups` has each metric's result by group, where samples have groups that are not clusters. `selection` says what
    was asked (limit, num_samples), `usage` sums tokens, requests and attempts, those of judges apart, `config` is what
    determines the answers, `provenance` where and with what they were made.
    """

    run_id: str
    benchmark: str
    model: str
    schema_version: int = SCHEMA_VERSION
    benchmark_version: str = ""
    status: Literal["complete", "partial", "interrupted"] = "complete"
    created_at: float | None = None
    n_rows: int = 0
    n_repeats: int = 1
    selection: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, MetricResult] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    n_given_up: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, MetricResult]] = field(default_factory=dict)
