"""How many CPUs this process has for itself."""

from __future__ import annotations

import os


def cores() -> int:
    """The number of CPUs that this process may keep busy; a Ray worker shares its node with as many others as it has.

    Ray tells its workers in OMP_NUM_THREADS how many CPUs their task has.
    """
    if "RAY_RAYLET_PID" in os.environ:
        told = os.environ.get("OMP_NUM_THREADS", "")
        return int(told) if told.isdecimal() and int(told) else 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
