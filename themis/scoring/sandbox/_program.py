"""One program from its start to its end, whatever the level."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time

from themis.scoring.sandbox._filter import filter_calls
from themis.scoring.sandbox._folder import size, unnamed
from themis.scoring.sandbox._kernel import LINUX, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl
from themis.scoring.sandbox._tree import become, cpu_seconds, resident, seconds_in_line, tasks_of
from themis.scoring.sandbox._writes import confine

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeAlias

    from themis.scoring.sandbox._tree import Tree

    Request: TypeAlias = dict[str, Any]

START_SECONDS = 30.0
"""How long an interpreter may take to start."""
FIRST_LOOK, LAST_LOOK = 0.02, 0.2
"""Seconds between two looks at what the program uses: at first, and at most."""


class Program:
    """One run of a program: starts it, watches it, ends all that came of it.

    Args:
        request: "python", "harness", "text", "token", "limits", "path".
        user: The user id that it gets, None for the one of this process.
        folder: Where it works, the only place that it is told of.
        tree: The processes that it may have started.
        measured: The folder is one of the machine's: the kernel does not bound its size, which has to be looked at, and
            may have to be told that nothing else is to be written.
    """

    def __init__(self, request: Request, user: int | None, folder: str, tree: Tree, *, measured: bool = False) -> None:
        self._request, self._limits = request, request["limits"]
        self._user, self._folder, self._tree, self._measured = user, folder, tree, measured
        self._printed, self._cut = bytearray(), False
        self._said = bytearray()
        self._status: int | None = None
        self._cpu = 0.0

    def run(self) -> dict[str, Any]:
        """How it ended; nothing of it runs any more."""
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._start()
        try:
            ended, detail = self._watch()
            seconds = time.monotonic() - self._began
        finally:
            self._end()
        return {
            "ended": ended,
            "detail": detail,
            "output": bytes(self._printed),
            "cut": self._cut,
            "seconds": seconds,
            "cpu_seconds": self._cpu,
        }

    def _start(self) -> None:
        source = _unnamed_file(self._folder, self._request["token"] + self._request["text"])
        (self._output, output), (self._result, result), (failure, told) = os.pipe(), os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._become_program(source, output, result)
            except BaseException as error:  # noqa: BLE001 - told to the other side, which raises
                os.write(told, str(error).encode())
            os._exit(1)
        for used in (source, output, result, told):
            os.close(used)
        reason = os.read(failure, 1000)  # ends when exec has closed the other side
        if reason:
            raise OSError(f"{self._request['python']} does not start: {reason.decode()}")
        self._poll = select.poll()
        for source in (self._request["alive"], self._output, self._result, self._wake):
            os.set_blocking(source, False)
            self._poll.register(source, select.POLLIN)
        self._began = time.monotonic()

    def _become_program(self, source: int, output: int, result: int) -> NoReturn:
        import fcntl

        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is ignored here would be ignored there
        kept = [fcntl.fcntl(used, fcntl.F_DUPFD_CLOEXEC, 20) for used in (source, result)]
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, used in ((1, output), (2, output), (3, kept[0]), (4, kept[1])):
            os.dup2(used, target)
        os.chdir(self._folder)
        self._limit()
        if self._user is not None:
            become(self._user)
        if LINUX:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError):  # a kernel without filters; what else the level keeps out stays out
                filter_calls()
            if self._measured:
                with contextlib.suppress(OSError):  # a kernel without Landlock
                    confine(self._folder)
        python = self._request["python"]
        # No bytecode, no folder of its own and none of the user's in sys.path; UTF-8; nothing else is to be inherited.
        os.execve(python, [python, "-BPs", "-X", "utf8", "-c", self._request["harness"]], self._environment())

    def _environment(self) -> dict[str, str]:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        places = dict.fromkeys(("HOME", "TMPDIR", "PWD"), self._folder)
        steady = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2", "PATH": self._request["path"]}
        return {**one, **places, **steady}

    def _limit(self) -> None:
        limits = self._limits
        cpu, processes = limits["cpu_seconds"], limits["processes"]
        if self._user is None and self._request["level"] == "process":
            processes += tasks_of(os.geteuid())
        for name, soft, hard in (
            ("CPU", cpu, cpu + 1),
            ("AS", limits["memory"], limits["memory"]),
            ("FSIZE", limits["disk"], limits["disk"]),
            ("CORE", 0, 0),
            ("NOFILE", 256, 256),
            ("NPROC", processes, processes),
        ):
            # macOS takes no limit of the address space; a container may have lower limits than these.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))

    def _watch(self) -> tuple[str, str]:
        """Why it is over, and the words for it."""
        pause = FIRST_LOOK
        while True:
            ready = {source for source, _ in self._poll.poll(pause * 1000)}
            if self._request["alive"] in ready:  # whoever asked is gone
                sys.exit(1)
            self._hear_output()
            self._hear_end()
            self._hear_result()  # after the end was heard, so that what was said before it is known
            if len(self._said) > 1:
                return self._verdict(bytes(self._said[1:]))
            if self._status is not None:
                return self._left(self._status)
            if over := self._over():
                return over
            pause = min(2 * pause, LAST_LOOK)

    def _verdict(self, said: bytes) -> tuple[str, str]:
        """What the harness found: its token, which only the end of the program brings, or an error in words."""
        if said == self._request["token"]:
            return "finished", ""
        return "raised", said.decode(errors="replace")

    def _left(self, status: int) -> tuple[str, str]:
        """The words for a process that ended without a verdict."""
        if not self._said:
            printed = bytes(self._printed[-500:]).decode(errors="replace")
            return "never began", f"{self._request['python']} ended before the program began: {printed}"
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return "exited", str(code)
        if -code == signal.SIGXCPU or (-code == signal.SIGKILL and self._cpu >= self._limits["cpu_seconds"]):
            return self._out_of_cpu()
        return "killed", signal.Signals(-code).name

    def _out_of_cpu(self) -> tuple[str, str]:
        return "out of time", f"{self._limits['cpu_seconds']} s of CPU"

    def _over(self) -> tuple[str, str] | None:
        """What it has used up, and how much of that it had; None where it may go on."""
        if not self._said:
            if time.monotonic() - self._began < START_SECONDS:
                return None
            return "never began", f"{self._request['python']} did not start within {START_SECONDS:.0f} s"
        return self._too_long() or self._too_much()

    def _too_long(self) -> tuple[str, str] | None:
        seconds, passed = self._limits["seconds"], time.monotonic() - self._began
        if passed <= seconds:
            return None
        if passed - seconds_in_line(self._pid) <= seconds and passed <= self._request["stretch"] * seconds:
            return None
        return "out of time", f"{seconds:g} s"

    def _too_much(self) -> tuple[str, str] | None:
        limits, processes = self._limits, list(self._tree.processes())
        if self._cpu + sum(map(cpu_seconds, processes)) > limits["cpu_seconds"]:
            return self._out_of_cpu()
        if len(processes) > limits["processes"]:  # root has no such limit from the kernel
            return "out of processes", str(limits["processes"])
        if sum(map(resident, processes)) > limits["memory"]:
            return "out of memory", f"{limits['memory'] >> 20} MiB"
        if self._measured and size(self._folder) + unnamed(processes) > limits["disk"]:
            return "out of disk", f"{limits['disk'] >> 20} MiB"
        return None

    def _hear_output(self) -> None:
        """Keep the beginning of what it prints, and throw the rest away; at most 1 MiB at a time."""
        for _ in range(16):
            part = self._part(self._output)
            room = self._limits["output"] - len(self._printed)
            self._printed += part[:room]
            self._cut = self._cut or len(part) > room
            if not part:
                return

    def _hear_result(self) -> None:
        began = bool(self._said)
        self._said += self._part(self._result)
        if self._said and not began:
            self._began = time.monotonic()  # the interpreter's own start does not count

    def _hear_end(self) -> bool:
        """Take up the processes that have ended; whether there are others."""
        self._part(self._wake)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return True
                self._cpu += usage.ru_utime + usage.ru_stime
                if pid == self._pid:
                    self._status = status
        return False

    def _end(self) -> None:
        """End all that came of the program; returns when it is gone."""
        self._tree.kill(self._pid)
        while self._hear_end():
            self._poll.poll(10)
            self._hear_output()
            self._tree.kill(self._pid)
        self._hear_output()

    def _part(self, source: int) -> bytes:
        """What there is to read now; nothing more is heard of a source that has ended."""
        try:
            part = os.read(source, 1 << 16)
        except BlockingIOError:
            return b""
        if not part:
            with contextlib.suppress(KeyError):
                self._poll.unregister(source)
        return part


def _unnamed_file(folder: str, content: bytes) -> int:
    """A descriptor of a file that has no name any more, at its beginning."""
    path = os.path.join(folder, ".program")
    source = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    while content:
        content = content[os.write(source, content) :]
    os.lseek(source, 0, os.SEEK_SET)
    return source
