"""A filter of system calls: no network, nothing that reaches into other processes or the kernel, or outlives a program.

The kernel runs it before each call of the program and of all that come of it. See seccomp(2); the numbers are those of
the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from themis.scoring.sandbox._kernel import call

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Where the filter finds them in what it is given."""
ALLOW, FAIL = 0x7FFF0000, 0x00050000
OTHER_TABLE = 0x40000000
"""From here on x86-64 has the calls of another table."""
AF_UNIX, OWN_PROCESS = 1, 0
NAMESPACES = 0x7E020000
"""The flags of clone() for new ones: whoever is in a user namespace of its own may mount there."""
CLONE3 = 435
"""It says what it wants in memory, which a filter cannot read; who hears that it does not exist takes clone()."""

# Architecture; socket, prlimit64, clone; and what is refused: ptrace, process_vm_readv, process_vm_writev, pidfd_getfd,
# io_uring_setup (which opens sockets too), bpf, userfaultfd, perf_event_open, add_key, request_key, keyctl, mount,
# unshare, setns; and memory that counts as no process's, of which some would stay: memfd_create, memfd_secret, shmget,
# semget, msgget, mq_open.
TABLES = {
    "x86_64": (
        0xC000003E,
        (41, 302, 56),
        (101, 310, 311, 438, 425, 321, 323, 298, 248, 249, 250, 165, 272, 308, 319, 447, 29, 64, 68, 240),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 261, 220),
        (117, 270, 271, 438, 425, 280, 282, 241, 217, 218, 219, 40, 97, 268, 279, 447, 194, 190, 186, 180),
    ),
}

Instruction: TypeAlias = "tuple[int, int, int, int]"


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_calls() -> None:
    """Refuse this process and its children those calls, and every socket but those of the machine itself (AF_UNIX).

    Nothing where the architecture is another one. It needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: The kernel has no such filters.
    """
    table = TABLES.get(os.uname().machine)
    if table is None:
        return
    instructions = list(_instructions(*table))
    content = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = _Filter(len(instructions), content)
    call("prctl", PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(program))


def _instructions(architecture: int, checked: tuple[int, int, int], refused: tuple[int, ...]) -> Iterator[Instruction]:
    """Code, steps to skip where it holds, steps to skip where it does not, value."""
    socket, prlimit, clone = checked
    argument, allow = (LOAD, 0, 0, FIRST_ARGUMENT), (RETURN, 0, 0, ALLOW)
    yield from ((LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), _fail(errno.ENOSYS))
    yield from ((LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, OTHER_TABLE), _fail(errno.EPERM))
    for number in refused:
        yield from ((EQUAL, 0, 1, number), _fail(errno.EPERM))
    yield from ((EQUAL, 0, 1, CLONE3), _fail(errno.ENOSYS))
    yield from ((EQUAL, 0, 4, socket), argument, (EQUAL, 1, 0, AF_UNIX), _fail(errno.EACCES), allow)
    yield from ((EQUAL, 0, 4, prlimit), argument, (EQUAL, 1, 0, OWN_PROCESS), _fail(errno.EPERM), allow)
    yield from ((EQUAL, 0, 4, clone), argument, (ANY_BIT, 0, 1, NAMESPACES), _fail(errno.EPERM), allow)
    yield allow


def _fail(code: int) -> Instruction:
    return (RETURN, 0, 0, FAIL | code)
