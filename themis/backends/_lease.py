"""What a Ray task runs: one lease of items, several at a time, results streamed back together."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from themis.backends._slots import Task, make_slots
from themis.backends._wire import pack_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLUSH_SECONDS = 0.004
"""Results of this long travel together: messages are what costs (a streamed value about 0.15 ms on either side)."""

POLL_SECONDS = 0.05
"""Ray's cancel interrupts between two byte codes only, never a thread that waits."""

_functions: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()  # unpickled once per worker process
_MAX_FUNCTIONS = 4


def run_lease(key: str, function: bytes, tasks: bytes, size: int, timeout: float | None) -> Iterator[bytes]:
    """Packed outcomes of the packed tasks, as they end, `size` in progress at once."""
    slots = make_slots(_load(key, function), size, timeout)
    try:
        batch = [Task(*task) for task in pickle.loads(tasks)]  # noqa: S301 - from our own driver
        slots.put(batch)
        left = len(batch)
        while left:
            outcomes = slots.take(POLL_SECONDS)
            if not outcomes:
                continue
            if len(outcomes) < left:
                time.sleep(FLUSH_SECONDS)
                outcomes += slots.take(0)
            left -= len(outcomes)
            yield pack_outcomes(outcomes)
    finally:
        slots.close()


def _load(key: str, function: bytes) -> Callable[[Any], Any]:
    if key not in _functions:
        _functions[key] = pickle.loads(function)  # noqa: S301 - from our own driver
        while len(_functions) > _MAX_FUNCTIONS:
            _functions.popitem(last=False)
    _functions.move_to_end(key)
    return _functions[key]
