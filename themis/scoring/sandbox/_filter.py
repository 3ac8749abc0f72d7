"""A filter of system calls: no network, and none of the calls that reach into other processes or the kernel.

The kernel runs it before each call of the program and of all that come of it. See seccomp(2); the numbers are those of
the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from themis.scoring.sandbox._kernel import call

PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Where the filter finds them in what it is given."""
ALLOW, FAIL = 0x7FFF0000, 0x00050000
OTHER_TABLE = 0x40000000
"""From here on x86-64 has the calls of another table."""

# Architecture, socket, and what is refused: ptrace, process_vm_readv, process_vm_writev, io_uring_setup (which opens
# sockets too), bpf, userfaultfd, perf_event_open, add_key, request_key, keyctl, mount, unshare, setns.
TABLES = {
    "x86_64": (0xC000003E, 41, (101, 310, 311, 425, 321, 323, 298, 248, 249, 250, 165, 272, 308)),
    "aarch64": (0xC00000B7, 198, (117, 270, 271, 425, 280, 282, 241, 217, 218, 219, 40, 97, 268)),
}


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def close_network() -> None:
    """Refuse this process and its children every socket but those of the machine itself (AF_UNIX).

    Nothing where the architecture is another one. It needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: The kernel has no such filters.
    """
    table = TABLES.get(os.uname().machine)
    if table is None:
        return
    instructions = _instructions(*table)
    content = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = _Filter(len(instructions), content)
    call("prctl", PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(program))


def _instructions(architecture: int, socket: int, refused: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Code, steps to skip where it holds, steps to skip where it does not, value."""
    unix, left = 1, len(refused)
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, left + 2, 0, OTHER_TABLE),
        *((EQUAL, left - n + 1, 0, number) for n, number in enumerate(refused)),
        (EQUAL, 2, 0, socket),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.EPERM),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 0, 1, unix),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.EACCES),
    ]
