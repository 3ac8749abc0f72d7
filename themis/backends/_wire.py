"""How functions, items and results cross between processes."""

from __future__ import annotations

import hashlib
import io
import pickle
import site
import sys
import sysconfig
import threading
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

from themis.backends._chunk import PLAIN, Chunk, Failed, Pace, Run
from themis.backends._errors import RemoteTraceback, portable, traceback_text
from themis.errors import TaskError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import ModuleType


def pack_function(func: Callable[[Any], Any]) -> tuple[str, bytes]:
    """The function's bytes, and their hash as its key.

    What it uses of modules that are not installed (a script's neighbours, a test file) goes along by value: workers
    on other machines cannot import those.

    Raises:
        UsageError: It cannot be pickled.
    """
    try:
        with _by_value(_own_modules()):
            data = cloudpickle.dumps(func)
    except Exception as error:
        name = getattr(func, "__qualname__", repr(func))
        raise UsageError(
            f"the function {name} cannot be sent to worker processes: {error}. "
            "Open what cannot be pickled (locks, connections, files) inside the function"
        ) from error
    return hashlib.sha256(data).hexdigest(), data


def _own_modules() -> list[ModuleType]:
    """Loaded modules that belong to the user's program: they have a file, outside of every installation folder."""
    return [
        module
        for name, module in sys.modules.copy().items()  # in one step: other threads import meanwhile
        if name.partition(".")[0] not in {"themis", "__main__", "__mp_main__"} and _is_own(module)
    ]


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and _is_own_file(file)


@cache
def _is_own_file(file: str) -> bool:
    return not file.startswith((*_installed_folders(), "<"))


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    paths.discard(sysconfig.get_path("data"))  # sys.prefix: a program may well live below it
    return tuple({str(path) for p in paths for path in (Path(p), Path(p).resolve())})


_registry_lock = threading.Lock()


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    """Pickle these modules by value; one thread at a time, because cloudpickle has one list of them for all."""
    with _registry_lock:
        already = cloudpickle.list_registry_pickle_by_value()
        registered = [module for module in modules if module.__name__ in sys.modules and module.__name__ not in already]
        for module in registered:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
"""Types whose values always pickle and can always be rebuilt: many of them travel as one blob."""


class _NotPlainError(Exception):
    """Among the values is one that runs code of its own when it is rebuilt."""


class _PlainPickler(pickle.Pickler):
    """Pickles what consists of builtin types and PLAIN ones."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) in PLAIN or (type(value) is type and value in PLAIN):
            return NotImplemented  # the usual way
        if getattr(value, "__module__", None) == "copyreg":  # what the usual way calls
            return NotImplemented
        raise _NotPlainError


def _together(values: Sequence[Any]) -> bytes | None:
    """The values as one blob: a third of the time that one for each takes. None where one of them is not plain."""
    if type(values[0]) not in PLAIN:
        return None
    file = io.BytesIO()
    try:
        _PlainPickler(file, pickle.HIGHEST_PROTOCOL).dump(values)
    except Exception:  # noqa: BLE001 - one by one, each has its own error
        return None
    return file.getvalue()


class _Blobs(NamedTuple):
    """Values that were pickled one by one, so that one which cannot be rebuilt costs no other."""

    blobs: tuple[bytes | None, ...]


def _pack(
    values: Sequence[Any], dumping: Callable[[], AbstractContextManager[Callable[[Any], bytes]]]
) -> tuple[Any, dict[int, Exception]]:
    """The values, ready to be pickled together, and by its place the error of each that cannot be pickled."""
    if _SCALARS.issuperset(map(type, values)):
        return values, {}
    if (blob := _together(values)) is not None:
        return blob, {}
    blobs: list[bytes | None] = []
    errors: dict[int, Exception] = {}
    with dumping() as dumps:
        for place, value in enumerate(values):
            try:
                blobs.append(dumps(value))
            except Exception as error:  # noqa: BLE001 - whatever __reduce__ of a user's class may raise
                blobs.append(None)
                errors[place] = error
    return _Blobs(tuple(blobs)), errors


def _unpack(packed: Any) -> tuple[list[Any], dict[int, Exception]]:
    """The values, and by its place the error of each that cannot be rebuilt here."""
    if isinstance(packed, bytes):
        return pickle.loads(packed), {}  # noqa: S301 - our own bytes
    if not isinstance(packed, _Blobs):
        return packed, {}
    values: list[Any] = []
    errors: dict[int, Exception] = {}
    for place, blob in enumerate(packed.blobs):
        try:
            values.append(None if blob is None else pickle.loads(blob))  # noqa: S301 - our own bytes
        except Exception as error:  # noqa: BLE001 - whatever __setstate__ of a user's class may raise
            values.append(None)
            errors[place] = error
    return values, errors


def _by_value_or_reference(value: Any) -> bytes:
    """From a worker: by reference where that works; classes that came by value go back by value."""
    with suppress(Exception):
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return bytes(cloudpickle.dumps(value))


class ItemPacker:
    """Makes bytes of chunks. Classes of the user's own modules go along by value, as for functions."""

    def __init__(self) -> None:
        self._modules: list[ModuleType] | None = None

    def pack(self, chunk: Chunk) -> tuple[bytes, list[Run]]:
        """The chunk as bytes, and a UsageError as the result of each item that cannot be pickled."""
        packed, errors = _pack(chunk.items, self._dumping)
        data = pickle.dumps((chunk.start, chunk.execution, packed), protocol=pickle.HIGHEST_PROTOCOL)
        return data, [_unsendable(chunk.start + place, error) for place, error in errors.items()]

    @contextmanager
    def _dumping(self) -> Iterator[Callable[[Any], bytes]]:
        if self._modules is None:  # looked for only where an item may belong to one of them
            self._modules = _own_modules()
        with _by_value(self._modules):
            yield cloudpickle.dumps


def _unsendable(index: int, error: Exception) -> Run:
    reason = UsageError(f"item {index} cannot be sent to a worker process: {error}")
    return Run(index, [Failed(reason)], failed=True)


def unpack_chunk(data: bytes | bytearray) -> tuple[list[Chunk], list[Run]]:
    """The items that arrived, in runs, and a TaskError as the result of each that cannot be rebuilt here."""
    start, execution, packed = pickle.loads(data)  # noqa: S301 - from our own driver
    items, errors = _unpack(packed)
    gone = set(errors)
    if isinstance(packed, _Blobs):
        gone.update(place for place, blob in enumerate(packed.blobs) if blob is None)
    runs = [
        Run(start + place, [Failed(_unbuildable(f"item {start + place}", error))], failed=True)
        for place, error in errors.items()
    ]
    chunks = []
    at = 0
    for place in (*sorted(gone), len(items)):
        if at < place:
            chunks.append(Chunk(start + at, items[at:place], execution))
        at = place + 1
    return chunks, runs


def pack_runs(runs: Sequence[Run], pace: Pace) -> bytes:
    """The results as bytes; a TaskError in place of a value that cannot be pickled."""
    values = [value for run in runs for value in run.values]
    failures = {}
    if any(run.failed for run in runs):
        for place, value in enumerate(values):
            if type(value) is Failed:
                failures[place] = _pack_error(value.error)
                values[place] = None
    packed, errors = _pack(values, lambda: nullcontext(_by_value_or_reference))
    for place, error in errors.items():
        failures[place] = _pack_error(portable(_unpicklable(values[place], error)))
    shape = [(run.start, len(run.values)) for run in runs]
    return pickle.dumps((shape, packed, failures, pace), protocol=pickle.HIGHEST_PROTOCOL)


def _unpicklable(value: Any, error: Exception) -> Exception:
    return TypeError(f"the result, a {type(value).__name__}, cannot be pickled: {error}")


def _pack_error(error: BaseException) -> tuple[str, str, bytes]:
    return type(error).__name__, traceback_text(error), _by_value_or_reference(error)


def unpack_runs(data: bytes) -> tuple[list[Run], Pace]:
    """The results as they were packed, and how long they took; each error with the worker's traceback as its cause.

    A result that cannot be rebuilt in this process is a TaskError in its place.
    """
    shape, packed, failures, pace = pickle.loads(data)  # noqa: S301 - from our own workers
    values, errors = _unpack(packed)
    failed = {place: _unpack_error(*failure) for place, failure in failures.items()}
    for place, error in errors.items():
        failed[place] = _unbuildable("the result", error)
    for place, reason in failed.items():
        values[place] = Failed(reason)
    runs: list[Run] = []
    at = 0
    for start, count in shape:
        runs.append(Run(start, values[at : at + count], bool(failed)))
        at += count
    return runs, pace


def _unpack_error(name: str, text: str, blob: bytes) -> BaseException:
    error: BaseException
    try:
        error = pickle.loads(blob)  # noqa: S301 - from our own workers
    except Exception:  # noqa: BLE001 - its class may need what is not here
        error = TaskError(text.strip().rpartition("\n")[2], name, text)
    error.__cause__ = RemoteTraceback(text)
    return error


def _unbuildable(what: str, error: Exception) -> TaskError:
    name = type(error).__name__
    return TaskError(
        f"{what} was pickled and cannot be rebuilt on the other side: {name}: {error}. Plain values travel best",
        name,
        traceback_text(error),
    )
