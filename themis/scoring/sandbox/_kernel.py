"""What Python has no functions for: a few calls of the C library."""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from typing import Any
LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """What a function of the C library gives, which is negative for an error.

    Raises:
        OSError: It did; the error names the function and what it was called for.
    """
    found: int = getattr(_libc, name)(*arguments)
    if found < 0:
        code = ctypes.get_errno()
        shown = next((f" {a.decode(errors='replace')}" for a in arguments if isinstance(a, bytes) and a), "")
        raise OSError(code, f"{name}{shown}: {os.strerror(code)}")
    return found


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
