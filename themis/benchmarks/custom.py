"""Benchmarks out of a user's own rows, and out of a Python file."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from themis.benchmarks.base import INPUT, Benchmark, Row, Template, is_messages
from themis.benchmarks.data import read_rows, stem
from themis.errors import DataError, UsageError
from themis.ids import canonical_json, text_hash
from themis.records import Prompt, Sample
from themis.registry import unknown
from themis.scoring import ExactMatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

_INPUTS = ("prompt", "input", "question")
_TARGETS = ("target", "answer")
GROUP_FIELDS = ("subject", "group", "category")
"""What a row may call its subject; the first that is there counts."""


class Kept:
    """An iterable's items, taken from it once, as they are needed, and kept: they can be walked again.

    Not thread-safe.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._source = iter(items)
        self._items: list[Any] = []

    def __call__(self) -> Iterator[Any]:
        """The items from the first one on."""
        yield from self._items
        position = len(self._items)
        while True:
            while position < len(self._items):  # another walk took some in the meantime
                yield self._items[position]
                position += 1
            try:
                self._items.append(next(self._source))
            except StopIteration:
                return


def rows_and_source(data: Any) -> tuple[Callable[[], Iterable[Row]], str]:
    """What opens the rows of a URL, a path or an iterable of dicts, and where they come from, in words."""
    if isinstance(data, str | Path):
        return partial(read_rows, data), str(data)
    if isinstance(data, list | tuple):
        return partial(iter, data), f"{len(data)} rows in memory"
    if hasattr(data, "__iter__") and not isinstance(data, bytes | dict):
        return Kept(data), "rows in memory"
    kind = type(data).__name__
    raise UsageError(f"data={data!r:.100} is a {kind}; give a URL, a path or an iterable of dicts")


def custom_benchmark(data: Any, prompt: Template | None = None) -> Benchmark:
    """A benchmark out of own rows: a URL, a path, or an iterable of dicts.

    docs/benchmarks.md says which fields of a row mean what.
    """
    rows, source = rows_and_source(data)
    return Benchmark(
        name=stem(source) if isinstance(data, str | Path) else "custom",
        rows=rows,
        sample=_sample if prompt is None else _sample_of_template,
        template=INPUT if prompt is None else prompt,
        metrics=(ExactMatch(),),
        source=source,
        description="own rows",
    )


def _sample(row: Row, number: int) -> Sample:
    sample = _sample_of_template(row, number)
    if not sample.input:
        raise DataError(
            f"row {number} has none of the fields {', '.join(_INPUTS)}; it has {', '.join(map(str, row))}. "
            'Say how to ask it: prompt="... {field} ..."'
        )
    return sample


def _sample_of_template(row: Row, number: int) -> Sample:
    try:
        canonical_json(row)
    except UsageError as error:
        raise DataError(f"row {number} is not JSON: {error}") from error
    group = _first(row, GROUP_FIELDS)
    return Sample(
        id=str(number - 1) if row.get("id") is None else _as_text(row["id"]),
        input=_input(row),
        target=_target(row, number),
        choices=_choices(row),
        group=None if group is None else _as_text(group),
        metadata=row,
    )


def _first(row: Row, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _as_text(value: Any) -> str:
    """Text as it stands, another value as JSON writes it: 18.0 is "18", True is "true"."""
    return value if isinstance(value, str) else canonical_json(value)


def _input(row: Row) -> Prompt:
    value = _first(row, _INPUTS)
    if is_messages(value):
        return value
    return "" if value is None else _as_text(value)


def _target(row: Row, number: int) -> str | list[str]:
    name = next((name for name in _TARGETS if name in row), None)
    value = row[name] if name else None
    if value is None or value in ("", []):
        reason = f"its {name!r} is {canonical_json(value)}" if name else f"it has {', '.join(row)}"
        raise DataError(f"row {number} has no target ({reason}); give every row a 'target' or an 'answer'")
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return _as_text(value)


def _choices(row: Row) -> list[str] | None:
    value = row.get("choices")
    return [_as_text(item) for item in value] if isinstance(value, list) and value else None


def file_benchmark(spec: str) -> Benchmark:
    """The Benchmark that a Python file defines: "my_bench.py", or "my_bench.py:name" where it defines several.

    Raises:
        UsageError: There is no such file, running it raises, or it does not define the one that was asked for.
    """
    path, _, name = spec.rpartition(".py")
    path, name = f"{path}.py", name.removeprefix(":")
    module = _run(Path(path))
    found = {key: value for key, value in vars(module).items() if isinstance(value, Benchmark)}
    if name:
        by_name = {benchmark.name: benchmark for benchmark in found.values()} | found
        if name not in by_name:
            raise UsageError(f"{path}: {unknown('benchmark', name, by_name)}")
        return by_name[name]
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise UsageError(f"{path} defines no Benchmark; assign one to a name at its top level")
    raise UsageError(f"{path} defines {', '.join(found)}; say which: {path}:{next(iter(found))}")


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}; check the path (seen from {Path.cwd()})")
    name = f"themis_file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{text_hash(str(path.resolve()))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    _travels_by_value(module)
    return module


def _travels_by_value(module: ModuleType) -> None:
    """What the file defines (metrics, templates) is pickled whole: a worker cannot import the file by its name."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
