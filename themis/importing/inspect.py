"""Logs of Inspect: .eval, a zip of one JSON file for each sample, and .json, one object with all of them."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from datetime import datetime
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from themis.benchmarks.data import open_file
from themis.errors import DataError
from themis.importing.log import Answer, Log, group_of, reading
from themis.records import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from themis.records import EvaluationRecord, GenerationRecord

Fields = dict[str, Any]

_SAMPLE = re.compile(r"samples/.+_epoch_\d+\.json\Z")
_HEADS = ("header.json", "_journal/start.json")  # the second is all that a log has before its end
_ZSTD = 93
"""How Inspect compresses; zipfile reads it from Python 3.14 on."""
_ATTACHMENT = "attachment://"
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""The numbers that Inspect means by grades and words."""
_KEPT_OF_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "function", "name")


def read_inspect(url: str, *, benchmark: str | None = None) -> Log:
    """What a log says; its samples are read when they are taken: of an .eval one at a time, of a .json all at once.

    Raises:
        DataError: It is no such log.
    """
    zipped = url.endswith(".eval")
    with open_file(url) as stream:
        head = _zip_head(zipfile.ZipFile(stream)) if zipped else _load(stream.read())
    if not isinstance(head, dict) or not isinstance(head.get("eval"), dict):
        raise DataError(f"{url}: it is no log of Inspect: it has no 'eval' with a task and a model")
    told, samples = head["eval"], head.pop("samples", None) or []
    version = str(told.get("packages", {}).get("inspect_ai", ""))
    model = str(told.get("model") or "unknown")
    return Log(
        tool="inspect",
        tool_version=version,
        name=url.rpartition("/")[2],
        benchmark=benchmark or str(told.get("task") or "inspect"),
        version=version,
        model=model,
        identity=_identity(model, head),
        params=_params(head),
        answers=partial(_answers, samples=_zip_samples(url, told) if zipped else samples),
        facts={name: value for name in ("results", "stats") if (value := head.get(name))}
        | {"task_version": told.get("task_version"), "status": head.get("status"), "created": told.get("created")},
        complete=head.get("status") == "success",
    )


def _load(text: bytes) -> Any:
    return json.loads(text, parse_constant=lambda _: None)  # NaN, which JSON does not have


def _zip_head(log: zipfile.ZipFile) -> Any:
    names = log.namelist()
    head = next((name for name in _HEADS if name in names), None)
    if head is None:
        raise DataError("it is no log of Inspect: there is no header.json in it")
    return _load(_member(log, log.getinfo(head)))


def _zip_samples(url: str, told: Fields) -> Iterator[Fields]:
    """The samples in the order of the data set; of a sample that stands there twice, as of a retry, the last one."""
    with open_file(url) as stream, zipfile.ZipFile(stream) as log:
        members = {info.filename: info for info in log.infolist() if _SAMPLE.match(info.filename)}
        order = {str(name): place for place, name in enumerate(told.get("dataset", {}).get("sample_ids") or [])}
        for name in sorted(members, key=lambda name: _place(name, order)):
            with reading(f"{url}: {name}", "Inspect"):
                fields = _load(_member(log, members[name]))
            yield fields


def _place(name: str, order: dict[str, int]) -> tuple[int, str, int]:
    sample, _, epoch = name.removeprefix("samples/").removesuffix(".json").rpartition("_epoch_")
    return order.get(sample, len(order)), sample, int(epoch)


def _member(log: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one file in the zip, which may be compressed as zipfile cannot read before Python 3.14."""
    if info.compress_type != _ZSTD:
        return log.read(info)
    import pyarrow as pa

    stream: IO[bytes] | None = log.fp
    if stream is None:
        raise DataError("the log is closed")
    stream.seek(info.header_offset)
    name_length, extra_length = struct.unpack("<HH", stream.read(30)[26:30])
    stream.seek(name_length + extra_length, 1)
    packed = pa.BufferReader(stream.read(info.compress_size))
    return bytes(pa.input_stream(packed, compression="zstd").read())


def _identity(model: str, head: Fields) -> Fields:
    """What determined the answers, apart from the parameters: the model and the steps that asked it."""
    steps = [step.get("solver") for step in (head.get("plan") or {}).get("steps") or []]
    return {"provider": "inspect", "name": model, **({"solvers": steps} if steps else {})}


def _params(head: Fields) -> Fields:
    config = (head.get("plan") or {}).get("config") or {}
    given = {**(head["eval"].get("model_generate_config") or {}), **config}
    return {name: value for name, value in given.items() if value is not None}


def _answers(log: Log, *, samples: Iterable[Fields]) -> Iterator[Answer]:
    for number, fields in enumerate(samples, 1):
        with reading(f"{log.name}: sample {number}", "Inspect"):
            attachments = fields.pop("attachments", None) or {}
            if fields.pop("events", None):
                log.left_out["transcripts of samples (their events)"] += 1
            fields.pop("events_data", None)
            answer = _answer(log, _with_attachments(fields, attachments))
        yield answer


def _with_attachments(value: Any, attachments: dict[str, str]) -> Any:
    """The value with the long texts that Inspect keeps beside it put back in their places."""
    if isinstance(value, str):
        return attachments.get(value.removeprefix(_ATTACHMENT), value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, list):
        return [_with_attachments(each, attachments) for each in value]
    if isinstance(value, dict):
        return {name: _with_attachments(each, attachments) for name, each in value.items()}
    return value


def _answer(log: Log, fields: Fields) -> Answer:
    metadata = fields.get("metadata") or {}
    sample = Sample(
        id=str(fields["id"]),
        input=fields["input"] if isinstance(fields["input"], str) else list(map(_message, fields["input"])),
        target=fields["target"],
        choices=fields.get("choices"),
        group=group_of(metadata),
        metadata=metadata,
    )
    output = fields.get("output") or {}
    generation = log.generation(
        sample, int(fields["epoch"]) - 1, _asked(fields, output), **_timing(fields, output), **_outcome(fields, output)
    )
    if len(fields.get("messages") or []) > len(generation.messages or []) + 1:
        log.left_out["messages after the last answer of a sample"] += 1
    return Answer(sample, [generation], list(_evaluations(log, fields, sample, generation)))


def _asked(fields: Fields, output: Fields) -> list[Fields]:
    """The messages before the last answer: with tools or several turns, the earlier answers are among them."""
    messages = fields.get("messages") or []
    choices = output.get("choices") or []
    last = choices[0]["message"].get("id") if choices else None
    ids = [message.get("id") for message in messages]
    end = len(messages)
    if last is not None and last in ids:
        end = ids.index(last)
    elif choices and messages and messages[-1]["role"] == "assistant":
        end -= 1
    return list(map(_message, messages[:end]))


def _message(fields: Fields) -> Fields:
    return {name: fields[name] for name in _KEPT_OF_MESSAGE if fields.get(name) is not None}


def _outcome(fields: Fields, output: Fields) -> Fields:
    """What came of it: a response, or an error, which stays one: Inspect leaves it out of its numbers."""
    error = fields.get("error") or output.get("error")
    choices = output.get("choices") or []
    if choices and not fields.get("error"):
        return {
            "response": output.get("completion") or _content(choices[0]["message"], "text") or "",
            "reasoning": _content(choices[0]["message"], "reasoning"),
            "finish_reason": choices[0].get("stop_reason"),
            "model_served": output.get("model"),
        }
    message = str(error.get("message") if isinstance(error, dict) else error or "the log has no output for it")
    named = re.match(r"\w+(?=\()", message)
    return {
        "response": None,
        "status": "error",
        "error_kind": "infrastructure",
        "error_type": named.group() if named else "Error",
        "error_message": message,
    }


def _content(message: Fields, kind: str) -> str | None:
    """The text of a message, or its reasoning, where its content is a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content if kind == "text" else None
    found = [part.get(kind) or "" for part in content or [] if part.get("type") == kind]
    return "".join(found) or None


def _timing(fields: Fields, output: Fields) -> Fields:
    """Tokens of all calls that the sample took, and times in seconds."""
    usages = list((fields.get("model_usage") or {}).values()) or [output.get("usage") or {}]
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "reasoning_tokens": "reasoning_tokens",
        "cached_input_tokens": "input_tokens_cache_read",
    }
    counts = {ours: [usage[name] for usage in usages if usage.get(name) is not None] for ours, name in names.items()}
    begun = fields.get("started_at")
    return {
        **{name: sum(found) if found else None for name, found in counts.items()},
        "started_at": datetime.fromisoformat(begun).timestamp() if begun else None,
        "latency": output.get("time") or fields.get("total_time"),
    }


def _evaluations(log: Log, fields: Fields, sample: Sample, generation: GenerationRecord) -> Iterator[EvaluationRecord]:
    for scorer, score in (fields.get("scores") or {}).items():
        value = score["value"]
        parts = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {"": value}
        answer = score.get("answer")
        for part, each in parts.items():
            found = log.evaluation(
                f"{scorer}.{part}" if part != "" else scorer,
                _GRADES.get(each, each) if isinstance(each, str) else each,
                sample,
                [generation],
                answer=generation.response or None if answer is None else str(answer),  # not every scorer says it
                explanation=score.get("explanation"),
                metadata=score.get("metadata") or {},
            )
            if found is not None:
                yield found
