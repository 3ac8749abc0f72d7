"""Exceptions of items, made fit to travel between threads and processes."""

from __future__ import annotations

import pickle
import traceback

from themis.errors import TaskError


class RemoteTraceback(Exception):  # noqa: N818 - shown as the cause, never raised
    """The traceback of an exception as the worker saw it; it becomes the exception's `__cause__`."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


def portable(error: BaseException) -> Exception:
    """The exception itself where it can be pickled, rebuilt and raised from a generator, else a TaskError.

    StopIteration would end the caller's loop, and what is no Exception (SystemExit, CancelledError) the caller's
    process or loop: an item has no say in either.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration) and _survives(error):
        return error
    name, text = type(error).__name__, traceback_text(error)
    stand_in = TaskError(f"{name}: {error}", name, text)
    stand_in.__cause__ = error
    return stand_in


def _survives(error: Exception) -> bool:
    import cloudpickle

    try:
        return type(pickle.loads(cloudpickle.dumps(error))) is type(error)  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - whatever __reduce__ and __init__ of a user's class may raise
        return False


def traceback_text(error: BaseException) -> str:
    """The traceback as it would be printed."""
    return "".join(traceback.format_exception(error))
