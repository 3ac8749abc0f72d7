"""Programs that nobody has read, run under limits and apart from the machine as far as it can be had.

Each program runs in a process tree of its own that a small launcher process starts, watches and ends. So it can be
asked from any thread of any process. Three levels of isolation, of which the best that works here is taken:

process     limits of CPU, memory, files, processes and time; an empty environment; a folder of its own
user        that, and a user id that owns nothing here: it may neither change this user's files nor end its processes
            (with Landlock, which level "process" has too, it writes nowhere else)
namespaces  it sees no other process, no network, and of the file system only Python and the system, read-only
"""

from __future__ import annotations

import functools
import marshal
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from themis.errors import SandboxError, UsageError
from themis.scoring.cores import cores

__all__ = ["Execution", "Isolation", "Limits", "isolation", "run_program"]

Isolation: TypeAlias = Literal["process", "user", "namespaces"]
LEVELS: tuple[Isolation, ...] = get_args(Isolation)
"""From the least to the most."""
LEAST: Isolation = "user"
"""The level below which nothing runs unless $THEMIS_ISOLATION or the caller says otherwise."""

Ending: TypeAlias = Literal[
    "finished", "raised", "exited", "killed", "out of time", "out of memory", "out of disk", "out of processes"
]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
PATH = "/usr/local/bin:/usr/bin:/bin"
STRETCH = 10
"""How many times its seconds a program may take by the clock while it stands in line for a CPU."""
GRACE_SECONDS = 60.0
"""How much longer than its program a launcher may take, before it is taken for lost."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: From its first line on, by the clock; what it stood in line for a CPU does not count.
        cpu_seconds: Of CPU, all processes together.
        memory: Bytes: the address space of each process, and what all of them hold together.
        disk: Bytes that it may write.
        processes: Processes and threads at once.
        output: Bytes of standard output and error that are kept; what is beyond them is thrown away.
    """

    seconds: float = 5.0
    cpu_seconds: int = 5
    memory: int = 1 << 30
    disk: int = 64 << 20
    processes: int = 64
    output: int = 16 << 10


@dataclass(frozen=True)
class Execution:
    """How a program ended.

    Attributes:
        ended: "finished" only where its last line was reached; "raised" for an exception that nobody caught, "exited"
            where it ended its process before its end, "killed" by a signal, or "out of" what it was given.
        detail: "raised": type and message. "exited": the code. "killed": the signal. "out of": what it had.
        line, source: The number (from 1) and the text of the line that raised, where it is one of the program's.
        output: What it printed, the beginning of it.
        output_cut: Whether it printed more.
        seconds, cpu_seconds: What it took, without the start of its interpreter; with it.
        isolation: The level that was reached.
    """

    ended: Ending
    detail: str
    line: int | None
    source: str
    output: str
    output_cut: bool
    seconds: float
    cpu_seconds: float
    isolation: Isolation


def run_program(text: str, limits: Limits | None = None, *, least: Isolation | None = None) -> Execution:
    """What came of running a Python program, of which nothing is left when this returns.

    From any thread of any process; beyond twice the number of CPUs, programs wait for each other.

    Args:
        text: The program. It runs as a module named "program", with nothing on its standard input.
        limits: What it may use.
        least: The level of isolation below which it does not run; default $THEMIS_ISOLATION, else "user".

    Raises:
        SandboxError: The machine cannot isolate it so far, or the sandbox failed; that says nothing of the program.
    """
    least = least or _least()
    level, reasons = _best()
    if level is None or LEVELS.index(level) < LEVELS.index(least):
        raise SandboxError(_refusal(level, least, reasons))
    return _run(text, limits or Limits(), level)


def isolation() -> Isolation | None:
    """The best level of isolation that programs can have here; None where they cannot run at all."""
    return _best()[0]


def _least() -> Isolation:
    given = os.environ.get("THEMIS_ISOLATION") or LEAST
    if given not in LEVELS:
        raise UsageError(f"THEMIS_ISOLATION is {given!r}; it has to be one of {', '.join(LEVELS)}")
    return given


def _refusal(level: Isolation | None, least: Isolation, reasons: dict[Isolation, str]) -> str:
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    reached = f"can isolate a program at level {level!r} only" if level else "cannot run a program at all"
    advice = f" To accept that, set THEMIS_ISOLATION={level} on it." if level else ""
    return f"{os.uname().nodename} {reached}, level {least!r} was asked ({why}).{advice}"


_found: dict[Isolation, dict[Isolation, str]] = {}
_slots: threading.BoundedSemaphore
_finding: threading.Lock


def _renew() -> None:
    """Make the locks anew: in a forked process nobody would ever free those of the other one."""
    global _slots, _finding  # noqa: PLW0603 - one for each process
    _slots = threading.BoundedSemaphore(2 * cores())  # more would only stand in line
    _finding = threading.Lock()


_renew()
os.register_at_fork(after_in_child=_renew)


def _best() -> tuple[Isolation | None, dict[Isolation, str]]:
    """The best level that works, and why those above it do not. Only a level that works is remembered."""
    with _finding:
        for level, reasons in _found.items():
            return level, reasons
        reasons = {}
        for level in reversed(LEVELS):
            try:
                _run("pass", Limits(), level)
            except SandboxError as error:
                reasons[level] = str(error)
            else:
                _found[level] = reasons
                return level, reasons
        return None, reasons


def _run(text: str, limits: Limits, level: Isolation) -> Execution:
    with _slots:
        reply = _ask(
            {
                "level": level,
                "text": text.encode(errors="replace"),
                "token": os.urandom(32),
                "limits": asdict(limits),
                "python": sys.executable,
                "path": PATH,
                "harness": (_HERE / "_harness.py").read_text("utf-8"),
                "visible": _visible(),
                "folder": tempfile.gettempdir(),
                "stretch": STRETCH,
            },
            limits.seconds,
        )
    if "failed" in reply or reply["ended"] == "never began":
        raise SandboxError(reply.get("failed") or reply["detail"])
    line, source, detail = "", "", reply["detail"]
    if reply["ended"] == "raised" and detail.count("\n") >= 2:
        line, source, detail = detail.split("\n", 2)
    return Execution(
        ended=reply["ended"],
        detail=detail,
        line=int(line) if line.isdecimal() else None,
        source=source,
        output=reply["output"].decode(errors="replace"),
        output_cut=reply["cut"],
        seconds=reply["seconds"],
        cpu_seconds=reply["cpu_seconds"],
        isolation=level,
    )


def _ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The launcher's reply; whatever happens here, the launcher and all that it started end."""
    content = marshal.dumps(request)
    heard, held = _high_pipe()  # closed when this process ends, however it ends: then the launcher ends everything
    try:
        launcher = subprocess.Popen(  # noqa: S603 - this very package's launcher
            [sys.executable, "-IS", str(_HERE / "_launcher.py"), str(heard)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(heard,),
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        os.close(held)
        raise SandboxError(f"the launcher does not start: {error}") from error
    finally:
        os.close(heard)
    try:
        reply, errors = launcher.communicate(content, timeout=STRETCH * seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise SandboxError("the launcher did not come to an end") from None
    finally:
        os.close(held)
        _end(launcher)
    if not reply:
        raise SandboxError(f"the launcher was ended (exit code {launcher.returncode}) {errors[-500:].decode()}".strip())
    return cast(dict[str, Any], marshal.loads(reply))  # noqa: S302 - from the launcher, not from the program


def _high_pipe() -> tuple[int, int]:
    """A pipe beside the standard streams: where this process has closed those, the next ones get their numbers."""
    import fcntl

    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


def _end(launcher: subprocess.Popen[bytes]) -> None:
    try:
        launcher.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


@functools.cache
def _visible() -> list[str]:
    """What a program sees of the file system at level "namespaces": the system, and its Python with its packages."""
    links, place = [], Path(sys.executable)
    while place.is_symlink():
        links.append(place)
        place = place.parent / place.readlink()
    prefixes = {sys.base_prefix, sys.base_exec_prefix, sys.prefix} - {"/"}
    return [*SYSTEM, *SYSTEM_FILES, *sorted(prefixes), *(os.path.normpath(link) for link in [*links, place])]
