"""How functions, items and results cross between processes."""

from __future__ import annotations

import hashlib
import pickle
import site
import sys
import sysconfig
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from themis.backends._errors import RemoteTraceback, portable, traceback_text
from themis.errors import ExecutionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from themis.backends._slots import Outcome, Task


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
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in {"themis", "__main__", "__mp_main__"} and _is_own(module)
    ]


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and not file.startswith(_installed_folders()) and not file.startswith("<")


_folders: tuple[str, ...] = ()


def _installed_folders() -> tuple[str, ...]:
    global _folders  # noqa: PLW0603 - computed once
    if not _folders:
        paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
        paths.discard(sysconfig.get_path("data"))  # sys.prefix: a program may well live below it
        _folders = tuple({str(path) for p in paths for path in (Path(p), Path(p).resolve())})
    return _folders


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    already = cloudpickle.list_registry_pickle_by_value()
    registered = [module for module in modules if module.__name__ in sys.modules and module.__name__ not in already]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def pack_tasks(tasks: Sequence[Task]) -> tuple[bytes, list[Outcome]]:
    """The items as bytes, and a UsageError as the outcome of each item that cannot be pickled."""
    try:
        return _dumps([(task.index, task.item) for task in tasks]), []
    except Exception:  # noqa: BLE001 - found out below, item by item
        packed: list[tuple[int, Any]] = []
        outcomes: list[Outcome] = []
        for task in tasks:
            try:
                cloudpickle.dumps(task.item)
            except Exception as error:  # noqa: BLE001
                reason = UsageError(f"item {task.index} cannot be sent to a worker process: {error}")
                outcomes.append((task.index, None, reason))
            else:
                packed.append((task.index, task.item))
        return _dumps(packed), outcomes


def _dumps(value: Any) -> bytes:
    return bytes(cloudpickle.dumps(value))


def pack_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """The outcomes as bytes; a TaskError in place of a value that cannot be pickled."""
    rows = [(i, value, error and (error, traceback_text(error))) for i, value, error in outcomes]
    with suppress(Exception):  # classes that travelled by value need cloudpickle
        return pickle.dumps(rows, protocol=pickle.HIGHEST_PROTOCOL)
    try:
        return _dumps(rows)
    except Exception:  # noqa: BLE001 - one of several; the others must not suffer
        if len(rows) > 1:
            return pickle.dumps([pack_outcomes([outcome]) for outcome in outcomes])
        index, value, _ = outcomes[0]
        error = portable(_unpicklable(value))
        return pickle.dumps([(index, None, (error, traceback_text(error)))])


def _unpicklable(value: Any) -> BaseException:
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001
        return TypeError(f"the result, a {type(value).__name__}, cannot be pickled: {error}")
    raise AssertionError("called for a value that can be pickled")


def unpack_outcomes(data: bytes) -> list[Outcome]:
    """The outcomes as they were packed, each error with the worker's traceback as its cause.

    Raises:
        ExecutionError: A result was pickled and cannot be rebuilt here.
    """
    try:
        rows = pickle.loads(data)  # noqa: S301 - from our own workers
    except Exception as error:
        raise ExecutionError(f"a result cannot be rebuilt in this process: {error}. Return plain values") from error
    outcomes: list[Outcome] = []
    for row in rows:
        if isinstance(row, bytes):
            outcomes.extend(unpack_outcomes(row))
            continue
        index, value, failure = row
        if failure is not None:
            failure[0].__cause__ = RemoteTraceback(failure[1])
        outcomes.append((index, value, failure and failure[0]))
    return outcomes
