"""Landlock: where the kernel has it, a program beside others writes in its folder only, and signals only its own.

See landlock(7). It reads what its user may; it changes no file elsewhere, ends no other process, and reads neither
memory nor environment of one.
"""

from __future__ import annotations

import ctypes
import os
import struct

from themis.scoring.sandbox._kernel import call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""The numbers of the calls, which the C library has no functions for."""
ASK_VERSION, BENEATH = 1, 1
WRITE_FILE = 1 << 1
WRITES = sum(1 << bit for bit in (1, *range(4, 13)))
"""To write to a file; to remove or make files, folders, links, pipes, sockets and devices."""
MOVE, TRUNCATE = 1 << 13, 1 << 14
SCOPES = 0b11
"""Abstract sockets and signals."""


def confine(folder: str) -> None:
    """Let this process and its children write beneath a folder only. It needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: The kernel has no Landlock.
    """
    version = call("syscall", CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    writes = WRITES | (MOVE if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    wanted = struct.pack("QQQ", writes, 0, SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = call("syscall", CREATE_RULESET, wanted, ctypes.c_size_t(size), 0)
    for place, allowed in ((folder, writes), (os.devnull, WRITE_FILE)):
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
        call("syscall", ADD_RULE, rules, BENEATH, struct.pack("=Qi", allowed, beneath), 0)
        os.close(beneath)
    call("syscall", RESTRICT_SELF, rules, 0)
    os.close(rules)
