"""Single records as rows of plain values: a tenth of what a table of one row costs."""

from __future__ import annotations

import functools
import json
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from themis import arrow
from themis.columns import COLUMNS, KEY_COLUMNS, MICROSECONDS, Column, all_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from themis.records import RecordKind

Row: TypeAlias = list[Any]
"""The stored value of each field of a record: JSON text, microseconds, and everything else as it is."""

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_LARGEST = 2**63


def encode_row(kind: RecordKind, record: Any) -> tuple[Row, bytes] | None:
    """The fields of a record as they are stored, and as JSON in UTF-8.

    None for a record that needs a second look: `arrow.to_table` stores it, or says what is wrong with it.
    """
    get, plans = _fields(kind)
    values = get(record)
    types = tuple(map(type, values))
    if types not in plans:
        plans[types] = _plan(kind, types)
    plan = plans[types]
    if plan is None:
        return None
    row = list(values)
    try:
        for place, convert in plan:
            row[place] = convert(row[place])
        return row, orjson.dumps(row)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def rows_to_table(kind: RecordKind, values: list[Any], run_id: str, launch: str) -> pa.Table:
    """The table of the values of rows, one after the other, each with its seq and saved_at (microseconds)."""
    import pyarrow as pa

    width = row_length(kind)
    *fields, seqs, saved = (values[place::width] for place in range(width))
    stored = [*fields, [run_id] * len(seqs), [launch] * len(seqs), seqs, saved]
    columns = all_columns(kind).values()
    arrays = [arrow.stored_array(column, values) for column, values in zip(columns, stored, strict=True)]
    return pa.Table.from_arrays(arrays, schema=arrow.schema(kind))


def row_length(kind: RecordKind) -> int:
    """How many values a row has, its seq and saved_at included."""
    return len(COLUMNS[kind]) + len(KEY_COLUMNS) - 2


@functools.cache
def _fields(kind: RecordKind) -> tuple[Callable[[Any], tuple[Any, ...]], dict[tuple[type, ...], Any]]:
    """What reads all fields of a record, and for the types that they may have what makes stored values of them."""
    return attrgetter(*COLUMNS[kind]), {}


def _plan(kind: RecordKind, types: Sequence[type]) -> list[tuple[int, Callable[[Any], Any]]] | None:
    plan = []
    for place, (column, held) in enumerate(zip(COLUMNS[kind].values(), types, strict=True)):
        if object not in column.types and (held not in column.types or held is bool):
            return None
        convert = None if held is type(None) else _converter(column)
        if convert:
            plan.append((place, convert))
    return plan


def _converter(column: Column) -> Callable[[Any], Any] | None:
    """What makes a stored value of one that is not None; ValueError where it cannot be stored as it is."""
    if column.json:
        return lambda value: "{}" if value == {} else _dumps(value)
    if column.is_time:
        return lambda value: _whole(round(value * MICROSECONDS))
    return {"int64": _whole, "float64": _finite}.get(column.arrow)


def _whole(value: int) -> int:
    if -_LARGEST <= value < _LARGEST:
        return value
    raise ValueError("more than 64 bits")


def _finite(value: float) -> float:
    if type(value) is float and value - value == 0:
        return value
    raise ValueError("not a finite float")
