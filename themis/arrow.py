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
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from themis.columns import COLUMNS, KEY_COLUMNS, MICROSECONDS, RECORDS, Column, Record, all_columns
from themis.errors import UsageError
from themis.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc

    from themis.records import RecordKind

_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@functools.cache
def schema(kind: RecordKind) -> pa.Schema:
    """The pinned schema of one kind; its metadata holds the schema's version and the kind."""
    import pyarrow as pa

    columns = [(name, _arrow_type(column)) for name, column in all_columns(kind).items()]
    return pa.schema(columns, {"themis.schema_version": str(SCHEMA_VERSION), "themis.kind": kind})


def to_table(
    kind: RecordKind,
    records: Iterable[Record],
    *,
    run_id: str | None = None,
    launch: str | None = None,
    seqs: Sequence[int] | None = None,
    saved_at: float | None = None,
) -> pa.Table:
    """The records as rows in their order, each with one of `seqs`; a key that is not given is null.

    Lone surrogates, which UTF-8 cannot hold, are stored escaped by a backslash.

    Raises:
        UsageError: A value has a wrong type or is no JSON (NaN, for one); it names the field and the record.
    """
    import pyarrow as pa

    rows = list(records)
    ids = [row.id for row in rows]
    columns = [(name, column, list(map(attrgetter(name), rows))) for name, column in COLUMNS[kind].items()]
    arrays = [_encode(name, column, values, ids) for name, column, values in columns]
    count = len(rows)
    nothing = [None] * count
    keys = [[run_id] * count, [launch] * count, nothing if seqs is None else list(seqs), [saved_at] * count]
    arrays += [_array(column, values) for column, values in zip(KEY_COLUMNS.values(), keys, strict=True)]
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
    record = RECORDS[kind]
    present = set(table.column_names)
    columns = []
    for field in fields(record):
        if field.name in present:
            values = _decode(COLUMNS[kind][field.name], table.column(field.name))
            columns.append(_with_default(values, field))
        else:
            columns.append(_defaults(kind, field, table.num_rows))
    return [record(*row) for row in zip(*columns, strict=True)]


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as JSON objects: the record's `__dict__`, the key columns, times in epoch seconds; unknown ones too."""
    known = all_columns(_kind_of(table))
    names = table.column_names
    columns = [_decode(known[name], table[name]) if name in known else table[name].to_pylist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def from_rows(kind: RecordKind, rows: Sequence[Mapping[str, Any]], *, keep_unknown: bool = False) -> pa.Table:
    """The table that `to_rows` was given; a field that a row lacks is null.

    Args:
        kind: What the rows are.
        rows: JSON objects.
        keep_unknown: Fields that the kind does not have become columns too, after the others.

    Raises:
        UsageError: As for `to_table`.
    """
    import pyarrow as pa

    ids = [row.get("id") for row in rows]
    known = all_columns(kind)
    columns = [(name, column, [row.get(name) for row in rows]) for name, column in known.items()]
    arrays = [_encode(name, column, values, ids, nullable=True) for name, column, values in columns]
    table = pa.Table.from_arrays(arrays, schema=schema(kind))
    others = {name: None for row in rows for name in row if name not in known} if keep_unknown else {}
    for name in others:
        table = table.append_column(name, _of_any_type([row.get(name) for row in rows]))
    return table


def conform(
    kind: RecordKind, table: pa.Table, columns: Sequence[str] | None = None, *, keep_unknown: bool = False
) -> pa.Table:
    """The table with the pinned columns, or the named ones: a missing one null, unknown ones left out or kept last.

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
    conformed = pa.Table.from_arrays(arrays, schema=wanted)
    others = [name for name in table.column_names if name not in pinned.names] if keep_unknown else []
    for name in others:
        conformed = conformed.append_column(table.field(name), table.column(name))
    return conformed


def no_rows(kind: RecordKind) -> pa.Table:
    """A table without rows; Schema.empty_table() imports pandas, where there is one."""
    import pyarrow as pa

    return pa.Table.from_batches([], schema(kind))


def check_columns(kind: RecordKind, columns: Iterable[str]) -> list[str]:
    """The column names themselves, when the kind has them all; UsageError with the nearest one else."""
    from themis.registry import unknown

    names = list(columns)
    known = all_columns(kind)
    for name in names:
        if name not in known:
            raise UsageError(unknown(f"column of {kind}", name, known))
    return names


def check_filter(kind: RecordKind, condition: pc.Expression) -> None:
    """UsageError for a condition that cannot be asked of the kind's columns."""
    import pyarrow as pa

    try:
        no_rows(kind).filter(condition)
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"the filter {condition} cannot be used on {kind}: {error}") from error


def _arrow_type(column: Column) -> pa.DataType:
    return _types()[column.arrow]


@functools.cache
def _types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    timestamp = pa.timestamp("us", "UTC")
    return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "timestamp": timestamp}


def _kind_of(table: pa.Table) -> RecordKind:
    kind = (table.schema.metadata or {}).get(b"themis.kind", b"").decode()
    if kind not in RECORDS:
        raise UsageError(f"the table does not say what its rows are: give kind, one of {', '.join(RECORDS)}")
    return cast("RecordKind", kind)


def _encode(name: str, column: Column, values: list[Any], ids: Sequence[Any], *, nullable: bool = False) -> pa.Array:
    allowed = column.types | {type(None)} if nullable else column.types
    if object not in allowed and not allowed.issuperset(map(type, values)):
        values = [_plain(name, value, allowed, id_) for value, id_ in zip(values, ids, strict=True)]
    try:
        return _array(column, values)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for value, id_ in zip(values, ids, strict=True):
            _check_storable(name, column, value, id_)
        raise


def _array(column: Column, values: list[Any]) -> pa.Array:
    if column.json:
        values = [None if value is None else "{}" if value == {} else _encode_json(value) for value in values]
    elif column.is_time:
        values = [None if value is None else round(value * MICROSECONDS) for value in values]
    elif column.arrow == "float64" and any(value - value != 0 for value in values if value is not None):
        raise ValueError("it is not a finite number; use None for a missing one")
    try:
        return stored_array(column, values)
    except UnicodeEncodeError:
        # In JSON text the escape is JSON's own, so that there a lone surrogate even comes back as it was.
        return texts([value and value.encode("utf-8", "backslashreplace").decode() for value in values])


def stored_array(column: Column, values: list[Any]) -> pa.Array:
    """Values as they are stored (JSON as text, times in microseconds) as an Arrow array.

    Raises:
        UnicodeEncodeError: A text has a lone surrogate.
    """
    import pyarrow as pa

    if values.count(None) == len(values):
        return pa.nulls(len(values), _arrow_type(column))
    return texts(values) if column.arrow == "string" else _numbers(_arrow_type(column), values)


def _of_any_type(values: list[Any]) -> pa.Array:
    """Values of a column that this version does not know: as they are, or as JSON text where they have no one type."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return texts([None if value is None else _encode_json(value) for value in values])


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


def _check_storable(name: str, column: Column, value: Any, record_id: Any) -> None:
    try:
        _array(column, [value])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"field {name!r} of record {record_id!r} cannot be stored: {error}") from error


def _decode(column: Column, values: pa.ChunkedArray) -> list[Any]:
    import pyarrow as pa

    if column.is_time:
        times = values.cast(_arrow_type(column)).cast(pa.int64()).to_pylist()
        return [None if time is None else time / MICROSECONDS for time in times]
    plain = values.to_pylist()
    if column.json:
        return _json_values(plain)
    return cast("list[Any]", plain)


def _json_values(texts_or_none: list[str | None]) -> list[Any]:
    """What json.loads() gives for each. The parameters of a run are the same text thousands of times."""
    last, flat = None, None
    values: list[Any] = []
    for text in texts_or_none:
        if text is None or text == "{}":
            values.append(None if text is None else {})
        elif text[0] == '"' and "\\" not in text:
            values.append(text[1:-1])
        elif text == last and flat is not None:
            values.append(dict(flat))
        else:
            value = json.loads(text)
            last, flat = text, value if _is_flat(value) else None
            values.append(value)
    return values


def _is_flat(value: Any) -> bool:
    """Whether a copy of the outermost object is a copy of all."""
    return type(value) is dict and not any(isinstance(part, dict | list) for part in value.values())


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
