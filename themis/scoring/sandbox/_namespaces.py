"""Level "namespaces": the program sees no other process, no network, and a file system of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

from themis.scoring.sandbox._kernel import LINUX, PR_SET_DUMPABLE, PR_SET_PDEATHSIG, call, prctl
from themis.scoring.sandbox._program import Program
from themis.scoring.sandbox._tree import Namespace, spare_user

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from themis.scoring.sandbox._program import Request

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
APART = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
ATTR_READ_ONLY, ATTR_NOSUID, ATTR_NODEV, AT_FDCWD, AT_RECURSIVE, SYS_MOUNT_SETATTR = 1, 2, 4, -100, 0x8000, 442
UMOUNT_DETACH = 2
INNER_USER = 1000
"""Who an unprivileged user is inside its own namespace: anybody but root, so that exec takes every capability away."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
BASE = "/proc"
"""Where the new root is built: nothing that a program needs is under it, so that it may be covered."""
ROOT, WORK = "/root", "/tmp"


def in_namespaces(request: Request, reply: Callable[[dict[str, Any]], None]) -> None:
    """Run a program in namespaces; when this returns, no process of it is left.

    Raises:
        OSError: The kernel does not allow this user to make them.
    """
    if not LINUX:
        raise OSError("only Linux has namespaces")
    user = spare_user() if os.geteuid() == 0 else None
    if user is None or not _unshared():
        user = None
        _unshare_as_anybody()
    first = os.fork()
    if first == 0:
        try:
            _first_process(request, user, reply)
        finally:
            os._exit(0)
    os.waitpid(first, 0)  # when process 1 of a namespace is gone, all the others are


def _unshared() -> bool:
    try:
        call("unshare", APART)
    except OSError:
        return False
    return True


def _unshare_as_anybody() -> None:
    """Leave for namespaces in which this process may mount, without any right outside them."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", NEWUSER | APART)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{INNER_USER} {user} 1")
    _write("/proc/self/gid_map", f"{INNER_USER} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _first_process(request: Request, user: int | None, reply: Callable[[dict[str, Any]], None]) -> None:
    """Process 1 of the namespaces: builds the file system, runs the program, replies, and takes all with it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_DUMPABLE, 0)
    try:
        _build_root(request, INNER_USER if user is None else user)
        reply(Program(request, user, WORK, Namespace()).run())
    except Exception as error:  # noqa: BLE001 - nobody else could tell it
        reply({"failed": f"{type(error).__name__}: {error}"})


def _build_root(request: Request, owner: int) -> None:
    """Make a read-only root out of what Python needs, with one small place to write, and enter it.

    Raises:
        OSError: The kernel does not allow it, or is older than 5.12.
    """
    root, disk = BASE + ROOT, request["limits"]["disk"]
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", BASE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    options = f"size={disk},nr_inodes=10000,mode=700,uid={owner},gid={owner}"
    os.makedirs(root + WORK)
    _mount("tmpfs", root + WORK, "tmpfs", MS_NOSUID | MS_NODEV, options)  # before a Python that lies there is shown
    for source in request["visible"]:
        _show(source, root + source, ATTR_NODEV)
    for source in DEVICES:
        _show(source, root + source, 0)
    os.mkdir(f"{root}/proc")
    os.symlink(WORK, f"{root}/dev/shm")
    with contextlib.suppress(OSError):  # a container may hide parts of its /proc, and then a new one is refused
        _mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _restrict(BASE, ATTR_READ_ONLY, deep=False)
    os.chdir(BASE)
    call("pivot_root", b".", b".")
    call("umount2", b".", UMOUNT_DETACH)
    os.chroot(ROOT)  # whoever is in a chroot cannot make a user namespace, and so get rights to mount
    os.chdir(WORK)


def _show(source: str, target: str, more: int) -> None:
    """Make a file or folder visible, read-only; nothing where it does not exist, or is visible already."""
    if os.path.lexists(target) or not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(source, target, "", MS_BIND | MS_REC)
    _restrict(target, ATTR_READ_ONLY | ATTR_NOSUID | more, deep=True)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _restrict(target: str, attributes: int, *, deep: bool) -> None:
    """Set attributes of a mount, of those beneath it too where `deep`."""
    setting = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if deep else 0
    size = ctypes.c_size_t(ctypes.sizeof(setting))
    call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), AT_FDCWD, target.encode(), flags, ctypes.byref(setting), size)
