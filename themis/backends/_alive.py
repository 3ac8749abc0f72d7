"""Whether a process still runs: told exactly on the same machine, by its heartbeats elsewhere."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What no other process has: its machine, its number there, and when it began (in ticks since boot)."""
    return {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_alive(writer: dict[str, Any], now: float) -> bool:
    """Whether the process that a launch names runs: by its number on this machine, else by its last heartbeat.

    A process of another machine lives while its last heartbeat is at most three intervals from `now` (epoch seconds),
    by the clocks of the two machines.
    """
    if writer.get("began") and writer.get("machine") == _machine():
        return bool(_began(writer["pid"]) == writer["began"])
    beat_at, every = writer.get("beat_at", 0.0), writer.get("beat_every", 0.0)
    return bool(abs(now - beat_at) <= 3 * every)


def _machine() -> str:
    """The machine, and the boot and the name space in which a process number means something, where there are such."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _began(number: int) -> str:
    """When a process began; "" where there is none of that number, it is dead and not buried, or nobody can tell."""
    try:
        after_name = Path(f"/proc/{number}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in {"Z", "X"} else after_name[19]
