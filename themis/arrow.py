"""Records as Arrow tables and back: the pinned, versioned schemas of samples, generations and evaluations.

A table has every field of its record (themis.records), in order, then four key columns: `run_id`, `launch`
(who saved the row), `seq` (its place among that writer's rows) and `saved_at`. Text is text, counts are
int64, seconds and scores float64, times timestamp[us, UTC]. What has structure (dict, list, messages, and
fields that may be either text or a list) is JSON text, so that a target that looks like JSON comes back as
the text that it was.
"""

from __future__ import annotations

import functools
import json
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from themis.errors import UsageError
from themis.records import SCHEMA_VERSION, EvaluationRecord, GenerationRecord, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from themis.records import RecordKind

Record: TypeAlias = Sample | GenerationRecord | EvaluationRecord

_MICROSECONDS = 1_000_000
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class _Column:
    """How a field is stored: its Arrow type, the Python types that a record may hold, whether it is JSON."""

    arrow: str
    types: frozenset[type]
    json: bool = False

    @property
    def is_time(self) -> bool:
        return self.arrow == "timestamp"


def _column(arrow: str, *types: type | None) -> _Column:
    held = frozenset(type(None) if kind is None else kind for kind in types)
    return _Column("string" if arrow == "json" else arrow, held, json=arrow == "json")


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
_COLUMNS: dict[str, dict[str, _Column]] = {
    "samples": _SAMPLES,
    "generations": _GENERATIONS,
    "evaluations": _EVALUATIONS,
}
_KEY_COLUMNS = {
    "run_id": _TEXT_OR_NONE,
    "launch": _TEXT_OR_NONE,
    "seq": _COUNT_OR_NONE,
    "saved_at": _TIME_OR_NONE,
}
_RECORDS: dict[str, type[Record]] = {
    "samples": Sample,
    "generations": GenerationRecord,
    "evaluations": EvaluationRecord,
}


@functools.cache
def schema(kind: RecordKind) -> pa.Schema:
    """The pinned schema of one kind; its metadata holds the schema's version and the kind."""
    import pyarrow as pa

    columns = [(name, _arrow_type(column)) for name, column in _all_columns(kind).items()]
    return pa.schema(columns, {"themis.schema_version": str(SCHEMA_VERSION), "themis.kind": kind})


def to_table(
    kind: RecordKind,
    records: Iterable[Record],
    *,
    run_id: str | None = None,
    launch: str | None = None,
    first_seq: int | None = None,
    saved_at: float | None = None,
) -> pa.Table:
    """The records as rows in their order. `seq` counts up from `first_seq`; a key that is not given is null.

    Lone surrogates, which UTF-8 cannot hold, are stored escaped by a backslash.

    Raises:
        UsageError: A value has a wrong type or is no JSON (NaN, for one); it names the field and the record.
    """
    import pyarrow as pa

    rows = list(records)
    ids = [row.id for row in rows]
    columns = [(name, column, list(map(attrgetter(name), rows))) for name, column in _COLUMNS[kind].items()]
    arrays = [_encode(name, column, values, ids) for name, column, values in columns]
    count = len(rows)
    seqs = [None] * count if first_seq is None else list(range(first_seq, first_seq + count))
    keys = [[run_id] * count, [launch] * count, seqs, [saved_at] * count]
    arrays += [_array(column, values) for column, values in zip(_KEY_COLUMNS.values(), keys, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema(kind))


def to_records(table: pa.Table, kind: RecordKind | None = None) -> list[Any]:
    """The rows as records in their order; a missing column takes its field's default, an unknown one none.

    Args:
        table: Any table that has the columns without a default.
        kind: What the rows are, where the table's schema does not say so in its metadata.

    Raises:
        UsageError: The kind cannot be told, or a column without a default is missing.
    """
    kind = kind or _kind_of(table)
    record = _RECORDS[kind]
    present = set(table.column_names)
    columns = []
    for field in fields(record):
        if field.name in present:
            values = _decode(_COLUMNS[kind][field.name], table.column(field.name))
            columns.append(_with_default(values, field))
        else:
            columns.append(_defaults(kind, field, table.num_rows))
    return [record(*row) for row in zip(*columns, strict=True)]


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as JSON objects: the record's `__dict__` and the key columns, times in epoch seconds."""
    known = _all_columns(_kind_of(table))
    names = table.column_names
    columns = [_decode(known[name], table.column(name)) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def from_rows(kind: RecordKind, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table that `to_rows` was given; a field that a row lacks is null.

    Raises:
        UsageError: As for `to_table`.
    """
    import pyarrow as pa

    ids = [row.get("id") for row in rows]
    columns = [(name, column, [row.get(name) for row in rows]) for name, column in _all_columns(kind).items()]
    arrays = [_encode(name, column, values, ids, nullable=True) for name, column, values in columns]
    return pa.Table.from_arrays(arrays, schema=schema(kind))


def conform(kind: RecordKind, table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """The table with the pinned columns, or the named ones: a missing one null, unknown ones left out.

    Raises:
        pyarrow.ArrowInvalid: A column has a type that cannot become the pinned one.
    """
    import pyarrow as pa

    pinned = schema(kind)
    wanted = pa.schema([pinned.field(name) for name in columns or pinned.names], pinned.metadata)
    if table.schema.equals(wanted, check_metadata=True):
        return table
    present = set(table.column_names)
    rows = table.num_rows
    arrays = [
        table.column(field.name).cast(field.type) if field.name in present else pa.nulls(rows, field.type)
        for field in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)


def check_columns(kind: RecordKind, columns: Iterable[str]) -> list[str]:
    """The column names themselves, when the kind has them all; UsageError with the nearest one else."""
    from themis.registry import unknown

    names = list(columns)
    known = _all_columns(kind)
    for name in names:
        if name not in known:
            raise UsageError(unknown(f"column of {kind}", name, known))
    return names


def winners(table: pa.Table) -> pa.Table:
    """One row of each id, in the table's order: a success before an error, then the highest (launch, seq).

    Needs the columns id, launch and seq, and status where the kind has one.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = table.column("id").combine_chunks().dictionary_encode()
    if len(ids.dictionary) == table.num_rows:
        return table
    codes = ids.indices.to_numpy()
    success = np.zeros(table.num_rows, dtype=bool)
    if "status" in table.column_names:
        success = pc.equal(table.column("status"), "ok").fill_null(False).to_numpy()
    launches = pc.fill_null(table.column("launch"), "").combine_chunks().dictionary_encode()
    rank = np.unique(np.array(launches.dictionary.to_pylist(), dtype=str), return_inverse=True)[1]
    seq = pc.fill_null(table.column("seq"), -1).to_numpy()
    order = np.lexsort((seq, rank[launches.indices.to_numpy()], success, codes))
    last_of_id = np.append(np.diff(codes[order]) != 0, True)
    keep = np.zeros(table.num_rows, dtype=bool)
    keep[order[last_of_id]] = True
    return table.filter(pa.array(keep))


def _all_columns(kind: str) -> dict[str, _Column]:
    return {**_COLUMNS[kind], **_KEY_COLUMNS}


def _arrow_type(column: _Column) -> pa.DataType:
    return _types()[column.arrow]


@functools.cache
def _types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    timestamp = pa.timestamp("us", "UTC")
    return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "timestamp": timestamp}


def _kind_of(table: pa.Table) -> RecordKind:
    kind = (table.schema.metadata or {}).get(b"themis.kind", b"").decode()
    if kind not in _RECORDS:
        raise UsageError(f"the table does not say what its rows are: give kind, one of {', '.join(_RECORDS)}")
    return cast("RecordKind", kind)


def _encode(name: str, column: _Column, values: list[Any], ids: Sequence[Any], *, nullable: bool = False) -> pa.Array:
    allowed = column.types | {type(None)} if nullable else column.types
    if object not in allowed and not allowed.issuperset(map(type, values)):
        values = [_plain(name, value, allowed, id_) for value, id_ in zip(values, ids, strict=True)]
    try:
        return _array(column, values)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for value, id_ in zip(values, ids, strict=True):
            _check_storable(name, column, value, id_)
        raise


def _array(column: _Column, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if column.json:
        values = [None if value is None else "{}" if value == {} else _encode_json(value) for value in values]
    elif column.is_time:
        values = [None if value is None else round(value * _MICROSECONDS) for value in values]
    elif column.arrow == "float64" and any(value - value != 0 for value in values if value is not None):
        raise ValueError("it is not a finite number; use None for a missing one")
    if all(value is None for value in values):
        return pa.nulls(len(values), _arrow_type(column))
    if column.arrow != "string":
        return _numbers(_arrow_type(column), values)
    try:
        return texts(values)
    except UnicodeEncodeError:
        # In JSON text the escape is JSON's own, so that there a lone surrogate even comes back as it was.
        return texts([value and value.encode("utf-8", "backslashreplace").decode() for value in values])


# pyarrow.array() imports pandas wherever it is installed: half a second and 50 MB at the start of a run.


def texts(values: Iterable[str | None]) -> pa.Array:
    """The texts as an Arrow array; UnicodeEncodeError for a lone surrogate."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def _numbers(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """Numbers of 64 bits as an Arrow array."""
    import numpy as np
    import pyarrow as pa

    plain = float if kind == pa.float64() else int
    if not {plain, type(None)}.issuperset(map(type, values)):
        return pa.array(values, kind)  # it knows which whole numbers no float can hold
    missing = [value is None for value in values]
    filled = [0 if value is None else value for value in values] if any(missing) else values
    valid = pa.py_buffer(np.packbits(~np.array(missing), bitorder="little")) if any(missing) else None
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.array(filled, f"{plain.__name__}64"))])


def _plain(name: str, value: Any, allowed: frozenset[type], record_id: Any) -> Any:
    """The value when its type, or a type that it extends (numpy.float64, a str enum), is allowed."""
    if type(value) in allowed:
        return value
    kinds: tuple[Any, ...] = (str, float, int, dict, list)
    for kind in kinds:
        if kind in allowed and isinstance(value, kind) and not isinstance(value, bool):
            return str.__str__(value) if kind is str else kind(value)
    names = ", ".join(sorted("None" if kind is type(None) else kind.__name__ for kind in allowed))
    given = f"a {type(value).__name__} ({repr(value)[:60]})"
    raise UsageError(f"field {name!r} of record {record_id!r} is {given}; it takes {names}")


def _check_storable(name: str, column: _Column, value: Any, record_id: Any) -> None:
    try:
        _array(column, [value])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"field {name!r} of record {record_id!r} cannot be stored: {error}") from error


def _decode(column: _Column, values: pa.ChunkedArray) -> list[Any]:
    import pyarrow as pa

    if column.is_time:
        times = values.cast(_arrow_type(column)).cast(pa.int64()).to_pylist()
        return [None if time is None else time / _MICROSECONDS for time in times]
    plain = values.to_pylist()
    if column.json:
        return [None if text is None else ({} if text == "{}" else json.loads(text)) for text in plain]
    return cast("list[Any]", plain)


def _with_default(values: list[Any], field: Any) -> list[Any]:
    """The values with the field's default for a null, where that is not None."""
    if field.default_factory is not MISSING:
        return [field.default_factory() if value is None else value for value in values]
    if field.default in {MISSING, None}:
        return values
    return [field.default if value is None else value for value in values]


def _defaults(kind: str, field: Any, count: int) -> list[Any]:
    if field.default_factory is not MISSING:
        return [field.default_factory() for _ in range(count)]
    if field.default is MISSING:
        raise UsageError(f"a table of {kind} needs the column {field.name!r}; this one has none of that name")
    return [field.default] * count
