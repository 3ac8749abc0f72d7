"""A model that answers from recorded responses: grade them again, without asking anybody."""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import parse_qsl

from themis.errors import (
    DataError,
    ModelError,
    ModelOutcomeError,
    ModelUnavailableError,
    RequestError,
    UsageError,
)
from themis.ids import content_hash, text_hash
from themis.models.base import Model, Response
from themis.models.lookup import TextIndex
from themis.models.recording import Row, local_path, read_rows
from themis.records import GenerationRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from themis.records import Kind, Request

Key: TypeAlias = tuple[str, str]
Entry: TypeAlias = dict[str, Any]

_RESPONSE_FIELDS = frozenset(field.name for field in dataclasses.fields(Response)) - {"text", "attempts", "metadata"}
_LIST_FIELDS = frozenset({"choice_logprobs", "choice_is_greedy", "token_logprobs"})
_KEPT_FIELDS = _RESPONSE_FIELDS | {"status", "error_kind", "error_message", "benchmark"}
_OPTIONS = frozenset({"response", "request_id", "sample_id", "repeat", "prompt", "key", "name"})


class ReplayModel(Model):
    """Answers from a recording.

    A request is looked up by its id, else by benchmark, sample and repeat, else by its prompt, as the
    recording has fields for them; with `key`, only by which recorded text its prompt contains. Where rows
    have no repeat, the n-th row of a sample, prompt or key answers repeat n. Recorded errors are raised again
    as errors.

    Args:
        records: Rows, GenerationRecords (`storage.load_generation_records(run_id)`), or the path or file://
            URL of a .jsonl, .json or .parquet file or of a run's folder.
        response: The field that holds the response.
        request_id, sample_id, repeat, prompt: The fields that a request is looked up by.
        key: A field whose text stands in the prompt, as "question" does.
        name: What makes it the same model in another run; by default a hash over the recording.

    Raises:
        DataError: There are no rows, or no row has the response or anything to look it up by.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"chat", "completion", "loglikelihood"})

    def __init__(
        self,
        records: str | Iterable[Mapping[str, Any] | GenerationRecord],
        *,
        response: str = "response",
        request_id: str = "id",
        sample_id: str = "sample_id",
        repeat: str = "repeat",
        prompt: str = "prompt",
        key: str | None = None,
        name: str | None = None,
    ) -> None:
        fields = {"response": response, "id": request_id, "sample_id": sample_id, "repeat": repeat, "prompt": prompt}
        if key is not None:
            fields["key"] = key
        wanted = {*fields.values(), *_KEPT_FIELDS, "launch", "seq"}
        rows = read_rows(records, wanted) if isinstance(records, str) else [_as_row(record) for record in records]
        _check_fields(rows, fields, str(records) if isinstance(records, str) else "the recording")
        self._entries = [_entry(row, fields) for row in _winners(rows, request_id)]
        self._by_key_only = key is not None
        self._name = name
        label = name or (local_path(records).name if isinstance(records, str) else self._recording_hash[:12])
        self.name = f"replay/{label}"

    def __repr__(self) -> str:
        return f"ReplayModel({self.name!r}, {len(self._entries)} rows)"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"_answers", "_index"}}

    def identity(self) -> dict[str, Any]:
        return {"provider": "replay", "name": self._name or self._recording_hash}

    async def generate(self, request: Request) -> Response:
        entry = self._find(request)
        if entry.get("status") == "error":
            raise _recorded_error(entry)
        if not isinstance(entry["response"], str) and "choice_logprobs" not in entry:
            raise RequestError(f"{self.name} has a row for {_asked(request)}, but no text as its response", attempts=0)
        return Response(text=entry["response"], **{name: entry[name] for name in _RESPONSE_FIELDS if name in entry})

    def _find(self, request: Request) -> Entry:
        for key in self._keys(request):
            entries = self._answers.get(key)
            if entries is None:
                continue
            entry = entries.get(0 if key[0] == "id" else request.repeat)
            if entry is not None:
                return entry
            raise RequestError(
                f"{self.name} has {len(entries)} answers to {_asked(request)}, but none for repeat {request.repeat}",
                attempts=0,
            )
        raise RequestError(f"{self.name} has no answer to {_asked(request)}", attempts=0)

    def _keys(self, request: Request) -> Iterable[Key]:
        if self._by_key_only:
            found = self._index.last_in(request.prompt)
            return [("key", found)] if found else []
        samples = [_sample_key(request.benchmark, request.sample_id), _sample_key("", request.sample_id)]
        return [("id", request.id), *samples, ("prompt", text_hash(request.prompt.strip()))]

    @cached_property
    def _answers(self) -> dict[Key, dict[int, Entry]]:
        """Under each key the entries by repeat."""
        answers: dict[Key, dict[int, Entry]] = {}
        for entry in self._entries:
            for key in _entry_keys(entry, by_key_only=self._by_key_only):
                entries = answers.setdefault(key, {})
                repeat = 0 if key[0] == "id" else entry.get("repeat")  # an id has one repeat, its own
                entries[len(entries) if repeat is None else int(repeat)] = entry
        return answers

    @cached_property
    def _index(self) -> TextIndex:
        return TextIndex(str(entry["key"]) for entry in self._entries if entry.get("key") is not None)

    @cached_property
    def _recording_hash(self) -> str:
        hashes = [content_hash({name: str(value) for name, value in entry.items()}) for entry in self._entries]
        # The order of rows has a meaning only where it stands for their repeats.
        return content_hash(sorted(hashes) if all("repeat" in entry for entry in self._entries) else hashes)


def load_replay(text: str) -> ReplayModel:
    """The model that "PATH" or "PATH?response=FIELD&key=FIELD..." names; the options are ReplayModel's.

    Raises:
        UsageError: An option is not known.
    """
    path, _, query = text.partition("?")
    options = dict(parse_qsl(query))
    if options.keys() - _OPTIONS:
        unknown = ", ".join(sorted(options.keys() - _OPTIONS))
        raise UsageError(f"replay/{text}: there is no option {unknown}; known: {', '.join(sorted(_OPTIONS))}")
    return ReplayModel(path, **options)


def _as_row(record: Mapping[str, Any] | GenerationRecord) -> Row:
    return record.__dict__ if isinstance(record, GenerationRecord) else dict(record)


def _check_fields(rows: list[Row], fields: dict[str, str], where: str) -> None:
    if not rows:
        raise DataError(f"{where} has no rows")
    there = set().union(*rows)
    if not there.intersection([fields["response"], "choice_logprobs"]):
        raise DataError(
            f"{where} has no field {fields['response']!r}; response= names one of {', '.join(sorted(there))}"
        )
    lookups = [fields["key"]] if "key" in fields else [fields["id"], fields["sample_id"], fields["prompt"]]
    if not there.intersection(lookups):
        raise DataError(
            f"{where} has no field {' or '.join(map(repr, lookups))} to look answers up by; key= names one "
            "whose text stands in the prompt, sample_id= one that identifies the sample, of "
            f"{', '.join(sorted(there))}"
        )


def _winners(rows: list[Row], request_id: str) -> list[Row]:
    """A run's rows with one row for each id: an answer rather than an error, then the last one written."""
    if not all("seq" in row and row.get(request_id) for row in rows):
        return rows
    order = sorted(rows, key=lambda row: (row.get("status") != "error", str(row.get("launch")), row["seq"]))
    return list({row[request_id]: row for row in order}.values())


def _entry(row: Row, fields: dict[str, str]) -> Entry:
    """What is kept of a row, under the names that this module uses, and without what is None."""
    kept = {name: row[name] for name in _KEPT_FIELDS if row.get(name) is not None}
    for name in _LIST_FIELDS & kept.keys():  # storages keep lists as JSON text
        kept[name] = json.loads(kept[name]) if isinstance(kept[name], str) else kept[name]
    named = {name: row[field] for name, field in fields.items() if row.get(field) is not None}
    if "prompt" in named:
        named["prompt"] = text_hash(str(named["prompt"]).strip())
    return {"response": None, **kept, **named}


def _entry_keys(entry: Entry, *, by_key_only: bool) -> list[Key]:
    if by_key_only:
        return [("key", str(entry["key"]).strip())] if "key" in entry else []
    keys: list[Key] = [(name, str(entry[name])) for name in ("id", "prompt") if name in entry]
    if "sample_id" in entry:
        keys.append(_sample_key(entry.get("benchmark", ""), entry["sample_id"]))
    return keys


def _sample_key(benchmark: str, sample_id: Any) -> Key:
    return ("sample", f"{benchmark}\n{sample_id}")


def _recorded_error(entry: Entry) -> ModelError:
    kinds: dict[str, type[ModelError]] = {"model": ModelOutcomeError, "input": RequestError}
    error = kinds.get(entry.get("error_kind", ""), ModelUnavailableError)
    return error(entry.get("error_message") or "an error was recorded, without a message", attempts=0)


def _asked(request: Request) -> str:
    start = request.prompt if len(request.prompt) <= 80 else request.prompt[:80] + "..."
    return f"request {request.id!r}, sample {request.sample_id!r}, prompt {start!r}"
