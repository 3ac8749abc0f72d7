"""Logs of lm-evaluation-harness: samples_<task>_<time>.jsonl, and the results_<time>.json beside it."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from itertools import chain, islice
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, NamedTuple

from themis.benchmarks.data import file_exists, open_file, read_rows
from themis.errors import DataError
from themis.importing.log import Answer, Log, group_of, reading
from themis.records import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from themis.records import EvaluationRecord, GenerationRecord

Row = dict[str, Any]

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+\d)\.jsonl(?:\.gz|\.zst)?\Z")
_NO_ANSWER = "[invalid]"
"""What a filter of lm-eval gives where it found no answer."""
_FIELDS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"} | {
    f"{name}_hash" for name in ("doc", "prompt", "target")
}
_OUR_NAMES = {"until": "stop", "max_gen_toks": "max_tokens"}
_KEPT_OF_MODEL = ("revision", "dtype", "peft")


class _Request(NamedTuple):
    """The first two arguments of a request: what was given to the model, and what was to follow, or the settings."""

    context: str | list[Any]
    second: Any = None


def read_lm_eval(url: str, *, benchmark: str | None = None, id_field: str | None = None) -> Log:
    """What a log of samples says; its rows are read when they are taken, one at a time.

    Args:
        url: A path or URL of a samples_<task>_<time>.jsonl; the results file is looked for beside it.
        benchmark: What the benchmark is called here; default the task's name.
        id_field: The field of a document that is the sample's id; default the document's number.

    Raises:
        DataError: It is no such log.
    """
    folder, slash, name = url.rpartition("/")
    named = _NAME.match(name)
    task = named["task"] if named else name.partition(".")[0].removeprefix("samples_")
    results = _results(f"{folder}{slash}results_{named['time']}.json") if named else {}
    rows = read_rows(url)
    first = next(rows)
    if not {"doc_id", "arguments", "resps"} <= first.keys():
        raise DataError(
            f"{url}: row 1 has {', '.join(map(str, first))}; a log of lm-eval's samples has doc_id, arguments, resps, "
            "filtered_resps and scores (lm-eval writes it with --log_samples)"
        )
    with reading(f"{url}: row 1", "lm-eval"):
        params = _params(_requests(first)[0])
    model = results.get("model_name") or (folder.rpartition("/")[2] if results or named else "") or "unknown"
    return Log(
        tool="lm-eval",
        tool_version=results.get("lm_eval_version") or "",
        name=name,
        benchmark=benchmark or task,
        version=str(results.get("versions", {}).get(task, "")),
        model=model,
        identity=_identity(model, results),
        params=params,
        answers=partial(_answers, rows=chain([first], rows), delimiter=_delimiter(results, task), id_field=id_field),
        facts=_facts(results, task),
    )


def _results(url: str) -> Row:
    """The results beside the samples; {} without any."""
    if not file_exists(url):
        return {}
    with open_file(url) as stream:
        found = json.load(stream, parse_constant=lambda _: None)  # NaN, which JSON does not have
    return found if isinstance(found, dict) else {}


def _delimiter(results: Row, task: str) -> str:
    return str(results.get("configs", {}).get(task, {}).get("target_delimiter", " "))


def _identity(model: str, results: Row) -> Row:
    """What determined the answers. Arguments that are not named here may hold keys."""
    config = results.get("config", {})
    given = config.get("model_args") or {}
    if isinstance(given, str):
        given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    kept = {name: str(given[name]) for name in _KEPT_OF_MODEL if given.get(name)}
    system = results.get("system_instruction")
    return {
        "provider": "lm-eval",
        "name": model,
        **({"source": config["model"]} if config.get("model") else {}),
        **({"system": system} if system else {}),
        **kept,
    }


def _facts(results: Row, task: str) -> Row:
    found = {name: results.get(name, {}).get(task) for name in ("results", "n-shot", "n-samples", "task_hashes")}
    return {name: value for name, value in {**found, "date": results.get("date")}.items() if value is not None}


def _answers(log: Log, *, rows: Iterator[Row], delimiter: str, id_field: str | None) -> Iterator[Answer]:
    for number, row in enumerate(rows, 1):
        with reading(f"{log.name}: row {number}", "lm-eval"):
            answer = _answer(log, row, delimiter, id_field)
        yield answer


def _answer(log: Log, row: Row, delimiter: str, id_field: str | None) -> Answer:
    requests = _requests(row)
    first = row["resps"][0][0]
    if isinstance(first, list):
        return _choice(log, row, requests, delimiter, id_field)
    if requests[0].second is None:
        return _whole_text(log, row, requests[0], id_field)
    return _generated(log, row, requests, id_field)


def _generated(log: Log, row: Row, requests: list[_Request], id_field: str | None) -> Answer:
    if len(requests) > 1:
        log.left_out["requests beyond the first of a document"] += len(requests) - 1
    request, responses = requests[0], row["resps"][0]
    sample = _sample(row, request.context, row["target"], id_field)
    params = _params(request)
    generations = [
        log.generation(sample, repeat, request.context, params=params, response=response)
        for repeat, response in enumerate(responses)
    ]
    return Answer(sample, generations, _scores(log, row, sample, generations, _filtered(row)))


def _choice(log: Log, row: Row, requests: list[_Request], delimiter: str, id_field: str | None) -> Answer:
    """A question whose choices the model gave log-likelihoods.

    Where their contexts differ, or where some requests are for a choice without the question, the first context is the
    prompt, and the metadata has all.
    """
    told = [response[0] for response in row["resps"]]
    logprobs = [float(value) for value, _ in told]
    greedy = [str(value) == "True" for _, value in told]
    context = requests[0].context
    choices = [str(request.second).removeprefix(delimiter) for request in requests]
    contexts = [request.context for request in requests]
    sample = _sample(row, context, _target_choice(row["target"], choices), id_field, choices)
    generation = log.generation(
        sample,
        0,
        context,
        kind="loglikelihood",
        params={},
        response=None,
        choice_logprobs=_storable(log, logprobs),
        choice_is_greedy=greedy,
        metadata={"contexts": contexts} if any(each != context for each in contexts) else {},
    )
    return Answer(sample, [generation], _scores(log, row, sample, [generation], partial(_likeliest, choices, logprobs)))


def _whole_text(log: Log, row: Row, request: _Request, id_field: str | None) -> Answer:
    """A text whose log-likelihood the model gave as a whole."""
    sample = _sample(row, request.context, row["target"], id_field)
    logprobs = [float(response[0]) for response in row["resps"]]
    fields: Row = {"kind": "loglikelihood", "params": {}, "response": None, "choice_logprobs": _storable(log, logprobs)}
    generation = log.generation(sample, 0, request.context, **fields)
    return Answer(sample, [generation], _scores(log, row, sample, [generation], lambda _: None))


def _storable(log: Log, logprobs: list[float]) -> list[float | None]:
    """The log-likelihoods, None for one that is not finite, which JSON does not have."""
    lost = sum(not math.isfinite(value) for value in logprobs)
    if lost:
        log.left_out["log-likelihoods that are not finite"] += lost
    return [value if math.isfinite(value) else None for value in logprobs]


def _scores(
    log: Log, row: Row, sample: Sample, generations: list[GenerationRecord], answer: Any
) -> list[EvaluationRecord]:
    """The scores of one row: by one filter, over all repeats where there are several."""
    names = row["metrics"] if "metrics" in row else [name for name in row if name not in _FIELDS]
    chosen = row.get("filter", "none")
    suffix = "" if chosen == "none" else f",{chosen}"
    found = (
        log.evaluation(f"{name}{suffix}", row.get(name), sample, generations, answer=answer(name)) for name in names
    )
    return [evaluation for evaluation in found if evaluation is not None]


def _filtered(row: Row) -> Any:
    """What gives the answer that a filter found, whatever the metric; of several the first."""
    found = row["filtered_resps"][0]
    while isinstance(found, list) and found:
        found = found[0]
    text = None if found in (None, [], _NO_ANSWER) else str(found)
    return lambda _: text


def _likeliest(choices: list[str], logprobs: list[float], metric: str) -> str:
    """The choice that a metric found likeliest: two of them divide by its length."""
    sizes = [1] * len(choices)
    if metric == "acc_norm":
        sizes = [len(choice) or 1 for choice in choices]
    elif metric == "acc_bytes":
        sizes = [len(choice.encode()) or 1 for choice in choices]
    ratios = [logprob / size for logprob, size in zip(logprobs, sizes, strict=True)]
    return _letter(ratios.index(max(ratios)), choices)


def _target_choice(target: Any, choices: list[str]) -> str | list[str]:
    """The letter of the choice that the target is the number of; several of them; else the target itself."""
    if isinstance(target, list):
        return [str(_target_choice(each, choices)) for each in target]
    text = str(target)
    return _letter(int(text), choices) if text.isdecimal() and int(text) < len(choices) else text


def _letter(index: int, choices: list[str]) -> str:
    return ascii_uppercase[index] if index < len(ascii_uppercase) else choices[index]


def _sample(row: Row, context: Any, target: Any, id_field: str | None, choices: list[str] | None = None) -> Sample:
    doc = row["doc"] if isinstance(row["doc"], dict) else {"doc": row["doc"]}
    if id_field is not None and doc.get(id_field) is None:
        raise DataError(f"document {row['doc_id']} has no field {id_field!r}; it has {', '.join(map(str, doc))}")
    return Sample(
        id=str(row["doc_id"] if id_field is None else doc[id_field]),
        input=context,
        target=[str(each) for each in target] if isinstance(target, list) else str(target),
        choices=choices,
        group=group_of(doc),
        metadata=doc,
    )


def _requests(row: Row) -> list[_Request]:
    """The arguments of a row's requests, which stand under names, in earlier releases in lists."""
    given = row["arguments"]
    several = given.values() if isinstance(given, dict) else given
    requests = [list(each.values()) if isinstance(each, dict) else each for each in several]
    return [_Request(_context(each[0]), *islice(each, 1, 2)) for each in requests]


def _context(given: Any) -> str | list[Any]:
    """Text, or messages, which lm-eval keeps as JSON text in a list."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str):
        messages = json.loads(given[0])
        return messages if isinstance(messages, list) else str(given[0])
    return given if isinstance(given, str | list) else json.dumps(given)


def _params(request: _Request) -> Row:
    """The sampling parameters that were set, those that themis knows under its names."""
    given = request.second if isinstance(request.second, dict) else {}
    return {_OUR_NAMES.get(str(name), str(name)): value for name, value in given.items() if value not in (None, [])}
