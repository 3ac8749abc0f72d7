"""The processes that may have come of a program: which they are, what they use, and their end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Tree: TypeAlias = "Namespace | OneUser | Descendants"


LIBRARIES = 16 << 20
"""Up to so many shared bytes are the code of libraries, and not looked at more closely."""


class Namespace:
    """The processes of a namespace, whose process 1 this is."""

    def processes(self) -> Iterator[int]:
        """Their process ids."""
        yield from (pid for pid in _pids() if pid != 1)

    def kill(self, first: int) -> None:
        """Send all of them the signal that ends them; `first` was the first."""
        _kill_all()


class OneUser:
    """The processes of a user that has no others."""

    def __init__(self, user: int) -> None:
        self._user = user

    def processes(self) -> Iterator[int]:
        yield from (pid for pid in _pids() if _owner(pid) == self._user)

    def kill(self, first: int) -> None:
        killer = os.fork()
        if killer == 0:
            _become_killer(self._user)
            _kill_all()
            os._exit(0)
        os.waitpid(killer, 0)


class Descendants:
    """What descends from this process: on Linux all, because orphans become its children; elsewhere one group."""

    def processes(self) -> Iterator[int]:
        children: dict[int, list[int]] = {}
        for pid in _pids():
            children.setdefault(_parent(pid), []).append(pid)
        waiting = list(children.get(os.getpid(), []))
        while waiting:
            found = waiting.pop()
            waiting += children.get(found, [])
            yield found

    def kill(self, first: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(first, signal.SIGKILL)
        stopped: set[int] = set()
        while found := set(self.processes()) - stopped:  # what is stopped cannot fork away
            _signal(found, signal.SIGSTOP)
            stopped |= found
        _signal(stopped, signal.SIGKILL)


def _signal(processes: set[int], number: int) -> None:
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _kill_all() -> None:
    """End whatever this process may; the kernel takes all at once, so that none can fork away."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def spare_user() -> int | None:
    """A user id that root can become and nobody has, nor the one below it; None where there is none."""
    start, size = 0, 1 << 31
    with contextlib.suppress(OSError):  # only Linux has namespaces of users
        ranges = [line.split() for line in _read("/proc/self/uid_map").splitlines()]
        start, size = max((int(first), int(count)) for first, _, count in ranges)
    user = min(start + size, 1 << 31) - 1 - 2 * (os.getpid() % max(1, size // 4))
    return user if user > 1 and size > 3 else None


def _become_killer(user: int) -> None:
    """Be able to end a user's processes, and nobody else's, without being one of them: they would stop this one."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user - 1, user, user - 1)


def become(user: int) -> None:
    """Give up what this process may, for good."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself, with its part of what it shares with others and no file holds."""
    try:
        _, total, shared, *_ = (int(pages) * resource.getpagesize() for pages in _read(f"/proc/{pid}/statm").split())
    except (OSError, ValueError):
        return 0
    return total - shared + (_shared_memory(pid) if shared > LIBRARIES else 0)


def _shared_memory(pid: int) -> int:
    with contextlib.suppress(OSError):  # the kernel walks through all its pages
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss_Shmem:"):
                return int(line.split()[1]) << 10
    return 0


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has had, its threads and the children that it has waited for included."""
    try:
        ticks = sum(map(int, _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15]))
    except (OSError, ValueError):
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")


def seconds_in_line(pid: int) -> float:
    """How long a process was ready to run and had no CPU: a busy machine is no fault of the program's."""
    try:
        return int(_read(f"/proc/{pid}/schedstat").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def tasks_of(user: int) -> int:
    """How many tasks a user has: the limit of their number counts those that were there before."""
    if not os.path.isdir("/proc"):
        return len(os.popen(f"/bin/ps -o pid= -U {user}").readlines())  # noqa: S605 - a number
    total = 0
    for pid in _pids():
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/task")) if _owner(pid) == user else 0
    return total


def _pids() -> Iterator[int]:
    """The ids of all processes that can be seen; none where there is no /proc."""
    with contextlib.suppress(OSError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _parent(pid: int) -> int:
    try:
        return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
