"""Programs that mean no good: each ends within its limits, and leaves nothing running and nothing changed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from themis.backends import RayExecutionBackend
from themis.errors import SandboxError, UsageError
from themis.scoring import sandbox
from themis.scoring.sandbox import LEVELS, Limits, isolation, run_program

SMALL = Limits(seconds=0.6, cpu_seconds=1, memory=256 << 20, disk=16 << 20, processes=24)
LINUX = sys.platform.startswith("linux")
LANDLOCK = max(0, ctypes.CDLL(None).syscall(444, None, 0, 1)) if LINUX else 0
"""The version of Landlock that this kernel has."""
needs_proc = pytest.mark.skipif(not LINUX, reason="processes are counted in /proc")


MANY_HOGS = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(b'x' * (60 << 20))
        time.sleep(9)
time.sleep(9)
"""
DEEP = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
for _ in range(2500):
    os.mkdir('a')
    os.chdir('a')
time.sleep(5)
"""
STOPPER = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True:
            os.kill(-1, 19)
time.sleep(60)
"""
LOCKS = """
import os
os.makedirs('a/b')
open('a/b/c', 'w').close()
for folder in ('a/b', 'a', '.'):
    os.chmod(folder, 0)
"""


@pytest.fixture(autouse=True)
def any_level(monkeypatch):
    """These programs are known, and what they could do on a low level is not asked of them there."""
    monkeypatch.setenv("THEMIS_ISOLATION", "process")


@pytest.fixture(params=LEVELS)
def level(request):
    """Each level that programs can have on this machine."""
    return reachable(request.param)


def reachable(level):
    """The level, "best" for the best one here; skips where programs cannot have it."""
    if level == "best":
        return isolation() or pytest.skip("no program can run here")
    try:
        sandbox._run("pass", Limits(), level)
    except SandboxError as error:
        pytest.skip(str(error))
    return level


def on_levels(programs, lower):
    """Every program on the best level, and those that are named on the lower ones too: (program, level)."""
    best = [pytest.param(text, "best", id=name) for name, text in programs.items()]
    pairs = [(name, level) for name in lower for level in ("user", "process")]
    return best + [pytest.param(programs[name], level, id=f"{name}, {level}") for name, level in pairs]


@pytest.fixture
def apart():
    """Level "namespaces", for programs that would reach others on a lower one."""
    if isolation() != "namespaces":
        pytest.skip("this machine makes no namespaces for this user")


@pytest.fixture
def nothing_left():
    """After the test, no process of a sandbox that began during it lives on."""
    before = sandboxed()
    yield
    until = time.monotonic() + 10
    while left := sandboxed() - before:
        assert time.monotonic() < until, left
        before |= {pid for pid in left if not Path(f"/proc/{pid}").exists()}
        time.sleep(0.05)


def sandboxed(mark="Runs one program in an interpreter"):
    """The processes whose command has the mark, by default that of the harness."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*") if LINUX else ():
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if mark in command or "sandbox/_launcher.py" in command:
            found.add(int(folder.name))
    return found


def run(program, level, limits=SMALL):
    """The execution at exactly that level."""
    return sandbox._run(program, limits, level)


def test_a_program_that_ends_well(level):
    """A program that reaches its end has finished; what it printed is kept, and the level is stated."""
    done = run("import sys\nprint('out')\nprint('err', file=sys.stderr)", level)

    assert (done.ended, done.detail, sorted(done.output.split())) == ("finished", "", ["err", "out"])
    assert (done.isolation, done.output_cut) == (level, False)
    assert 0 <= done.seconds < 5
    assert done.cpu_seconds > 0


@pytest.mark.parametrize(
    ("program", "ended", "detail"),
    [
        ("import os\nos._exit(0)", "exited", "0"),
        ("import sys\nsys.exit(0)", "raised", "SystemExit: 0"),
        ("raise SystemExit", "raised", "SystemExit: "),
        ("import os\nos.execv('/bin/true', ['true'])", "exited", "0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL"),
        ("import os\nos.closerange(3, 100)", "exited", "1"),
        ("import os\nos.write(4, b'+' + bytes(32))\nos._exit(0)", "raised", None),
        ("import sys\nsys.stdin.read() == '' or 1 / 0\ninput()", "raised", "EOFError: EOF when reading a line"),
        ("x = [", "raised", "SyntaxError: '[' was never closed (program.py, line 1)"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "raised", "E"),
        ("raise ValueError('a\\nb')", "raised", "ValueError: a\nb"),
    ],
)
def test_leaving_early_is_no_pass(program, ended, detail):
    """Whoever does not come to the program's last line has not finished, with whatever exit code."""
    done = run_program(program, SMALL)

    assert done.ended == ended
    assert detail is None or done.detail == detail


def test_the_line_that_raised():
    """An exception names the last line of the program that it passed through."""
    done = run_program("def f():\n    return [][1]\n\nimport json\njson.loads('{')\nf()")

    assert (done.line, done.source) == (5, "json.loads('{')")


ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(100)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "detached": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\ntime.sleep(100)",
    "deaf": "import signal, time\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\ntime.sleep(99)",
}


@needs_proc
@pytest.mark.parametrize(("program", "level"), on_levels(ENDLESS, ["fork bomb", "detached"]))
def test_endless_programs(program, level, nothing_left):
    """A program without end is over within its limits, and so is what it started."""
    level = reachable(level)
    if level == "process" and os.geteuid() == 0 and program == ENDLESS["fork bomb"]:
        pytest.skip("at level process the kernel does not bound the processes of root")
    done = run(program, level)

    assert done.ended in {"out of time", "out of processes"}
    assert done.seconds < 10 * SMALL.seconds + 5  # of which a busy machine may take most


@needs_proc
def test_what_detaches_ends_with_the_program(level):
    """A process in a session of its own, whose parents are gone, does not survive a program that finished."""
    mark = f"300.{uuid.uuid4().int % 10**9:09}"
    child = f"os.execv('/bin/sleep', ['sleep', '{mark}'])"
    program = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: {child}\n    os._exit(0)\n"
    done = run(program + "os.wait()\ntime.sleep(0.2)", level)

    assert done.ended == "finished"
    assert sandboxed(mark) - sandboxed() == set()


HOGS = {
    "memory": "x = []\nwhile True: x.append(bytearray(10**7))",
    "memory of many": MANY_HOGS,
    "large file": "open('f', 'wb').write(bytes(1 << 26))",
    "memory that is shared": """
import mmap, os, time
for _ in range(5):
    if os.fork() == 0:
        m = mmap.mmap(-1, 80 << 20)
        m.write(bytes(80 << 20))
        time.sleep(9)
time.sleep(9)
""",
    "files without names": """
import os, time
kept = []
for n in range(8):
    kept.append(open('x', 'wb'))
    os.unlink('x')
    kept[-1].write(bytes(4 << 20))
time.sleep(9)
""",
    "empty files": """
import time
for n in range(12000): open(str(n), 'w').close()
time.sleep(9)
""",
    "many files": "for n in range(99):\n    with open(str(n), 'wb') as f: f.write(bytes(1 << 22))",
}


@pytest.mark.parametrize(
    ("program", "level"), on_levels(HOGS, ["memory of many", "files without names", "empty files"])
)
def test_hogs(program, level, nothing_left):
    """More memory or disk than was given is refused or ends the program, whether one process takes it or many."""
    done = run(program, reachable(level), Limits(seconds=5.0, memory=256 << 20, disk=16 << 20))

    assert (done.ended, done.detail.partition(":")[0]) in {
        *(("raised", "MemoryError"), ("raised", "OSError")),
        *(("out of memory", "256 MiB"), ("out of disk", "16 MiB")),
    }


def test_a_gigabyte_of_output(nothing_left):
    """What a program prints is cut, not stored, and does not stop it."""
    limits = Limits(seconds=20, cpu_seconds=20, output=1000)
    done = run_program("s = 'x' * (1 << 20)\nfor _ in range(1024): print(s)", limits)

    assert (done.ended, done.output, done.output_cut) == ("finished", "x" * 1000, True)


def test_killing_others(apart):
    """A program finds nobody to kill: not its parent, nor anybody else."""
    program = """
import os, signal
for pid in {os.getppid(), *(int(name) for name in os.listdir('/proc') if name.isdigit())} - {os.getpid()}:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try: os.kill(pid, number)
        except OSError: pass
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
print(sorted(name for name in os.listdir('/proc') if name.isdigit()))
"""
    done = run_program(program, SMALL)

    assert done.ended == "finished"
    assert done.output.split() == ["['1',", "'2']"]  # the first process of its namespace, and itself


def test_deleting_files(apart, tmp_path):
    """A program sees none of the machine's own files, and what it deletes is its own."""
    kept = tmp_path / "kept"
    kept.write_text("here")
    tmp_path.chmod(0o777)
    program = f"""
import os, shutil
for place in ({str(tmp_path)!r}, os.path.expanduser('~'), {str(Path.home())!r}, os.getcwd(), '/etc'):
    shutil.rmtree(place, ignore_errors=True)
assert not os.path.exists({str(kept)!r})
for place in ('/x', '/usr/x', {str(Path(sys.prefix) / "x")!r}):
    try: open(place, 'w')
    except OSError: continue
    print('wrote', place)
"""
    done = run_program(program)

    assert (done.ended, done.output) == ("finished", "")
    assert kept.read_text() == "here"


@pytest.mark.skipif(not LINUX, reason="only Linux can close the network to a program")
def test_no_network(level):
    """A server of this machine is out of reach, and so is every other; pairs of sockets work."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reaching = f"import socket\nsocket.socketpair()\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        done = run(reaching, level)

    assert (done.ended, done.line) == ("raised", 3)
    assert done.detail == "PermissionError: [Errno 13] Permission denied"


@pytest.mark.skipif(not LINUX, reason="only Linux filters system calls")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of other machines")
def test_memory_of_no_process(level):
    """What would hold memory beside a program's processes, or stay after them, is refused: memfd, System V, queues."""
    calls = {"memfd_create": (319, 0, 0), "shmget": (29, 0, 4096, 0o1600), "semget": (64, 0, 1, 0o1600)}
    calls |= {"msgget": (68, 0, 0o1600), "mq_open": (240, 0, 0)}
    program = f"import ctypes\nfor call in {[*calls.values()]}: print(ctypes.CDLL(None).syscall(*call))"

    assert run(program, level).output.split() == ["-1"] * len(calls)


@pytest.mark.skipif(not LINUX, reason="only Linux filters system calls")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of other machines")
def test_no_other_process(level):
    """A program sets no limits of its parent, and has no child in a namespace in which that would have rights."""
    program = """
import ctypes, errno, os, resource
try: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
except PermissionError: print('refused')
c = ctypes.CDLL(None, use_errno=True)
for call in ((56, 0x10000000 | 17, 0, 0, 0, 0), (435, 0, 0)):
    if c.syscall(*call) == 0: os._exit(3)
    print(errno.errorcode[ctypes.get_errno()])
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
"""
    assert run(program, level).output.split() == ["refused", "EPERM", "ENOSYS"]


@pytest.mark.skipif(not LANDLOCK, reason="this kernel has no Landlock")
@pytest.mark.parametrize("lower", ["user", "process"])
def test_beside_others(lower, tmp_path):
    """Beside the machine's other processes a program writes in its folder only, as it likes there."""
    tmp_path.chmod(0o777)
    program = f"""
import os, subprocess, tempfile
for place in ({str(tmp_path)!r}, '/tmp', '/dev/shm'):
    try: open(place + '/themis-left', 'w')
    except OSError: continue
    print('wrote', place)
os.makedirs('a/b')
open('x', 'w').write('text')
os.rename('x', 'a/b/x')
with tempfile.NamedTemporaryFile() as file: file.write(b'text')
assert subprocess.run(['/bin/echo', 'x'], stderr=subprocess.DEVNULL, capture_output=False).returncode == 0
"""
    done = run(program, reachable(lower))

    assert (done.ended, done.output) == ("finished", "x\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(LANDLOCK < 6, reason="this kernel does not keep signals apart")
@pytest.mark.parametrize("lower", ["user", "process"])
def test_signals_beside_others(lower):
    """Beside the machine's other processes a program sends signals to its own only."""
    lower = reachable(lower)
    with subprocess.Popen(["sleep", "60"]) as other:
        killing = "    try: os.kill(pid, 9)\n    except OSError: print(pid)"
        program = f"import os\nfor pid in (os.getppid(), {other.pid}):\n{killing}"
        done = run(program, lower)
        alive = other.poll() is None
        other.kill()

    assert alive
    assert (done.ended, len(done.output.split())) == ("finished", 2)


@pytest.mark.skipif(not LINUX, reason="only Linux filters system calls")
def test_no_other_table_of_calls(level):
    """The calls of other tables, by which a filter could be passed by, do not exist."""
    program = "import ctypes\nc = ctypes.CDLL(None)\nprint(c.syscall(0x40000000 + 41, 2, 1, 0), c.ptrace(0, 0, 0, 0))"

    assert run(program, level).output.split() == ["-1", "-1"]


def test_no_rights_inside(apart):
    """A program has no capabilities, and cannot make a namespace in which it had some."""
    program = """
import ctypes
assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()
print(ctypes.CDLL(None).unshare(0x10000000))
"""
    assert run_program(program, SMALL).output.split() == ["-1"]


def test_environment(level, monkeypatch):
    """Nothing of this process's environment gets to a program, and sets come in one order every time."""
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    outputs = {run("import os\nprint(sorted(os.environ), {'a', 'b', 'c', 'd'})", level).output for _ in range(3)}

    assert len(outputs) == 1
    assert "SECRET" not in outputs.pop()


def test_threads_left_running():
    """A thread that goes on does not hold up a program that has come to its end."""
    done = run_program("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()")

    assert done.ended == "finished"
    assert done.seconds < 5


def test_many_threads(nothing_left):
    """Programs run from many threads at once, each with its own outcome."""
    with ThreadPoolExecutor(12) as pool:
        outputs = list(pool.map(lambda n: run_program(f"print({n})").output.strip(), range(36)))

    assert outputs == [str(n) for n in range(36)]


@needs_proc
def test_nothing_outlives_whoever_asked(nothing_left):
    """When the process that asked is killed, launcher and program end."""
    code = "from themis.scoring.sandbox import *; print(isolation(), flush=1); run_program('while 1: 1', Limits(60))"
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    before = sandboxed()
    asking.stdout.readline()
    until = time.monotonic() + 20
    while not sandboxed() - before and time.monotonic() < until:
        time.sleep(0.02)
    assert sandboxed() - before

    asking.send_signal(signal.SIGKILL)
    asking.communicate()


def test_folder_is_removed(level, tmp_path, monkeypatch):
    """What a program wrote is gone afterwards, also what it locked."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o777)

    assert run(LOCKS, level).ended == "finished"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lower", ["user", "process"])
def test_deep_folders(lower, tmp_path, monkeypatch, nothing_left):
    """Folders deeper than Python recurses and the kernel takes names are too much disk, and gone with the rest."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o777)

    assert run(DEEP, reachable(lower), Limits(disk=64 << 20)).ended == "out of disk"
    assert list(tmp_path.iterdir()) == []


def test_stopping_the_killer(nothing_left):
    """A program that stops whatever it may does not stop what is to end it."""
    assert run(STOPPER, reachable("user")).ended == "out of time"


def test_killer_is_nobody_s_prey():
    """Who ends a user's processes has that user's rights, and not its name, by which it could be stopped or ended."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = "import os\nfrom themis.scoring.sandbox._tree import _become_killer as become\nbecome(70001)\n"
    code += "print(*os.getresuid())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.split() == ["70000", "70001", "70000"]


def test_closed_standard_streams():
    """Programs run where the process that asks has closed its standard input and error."""
    code = "from themis.scoring.sandbox import *; raise SystemExit(run_program('pass').ended == 'finished' and 7)"
    closed = f'exec {sys.executable} -c "{code}" 0<&- 2>&-'

    assert subprocess.run(["/bin/sh", "-c", closed], check=False).returncode == 7


def test_python_in_the_temporary_folder(apart, tmp_path, monkeypatch):
    """A Python, or a package, that lies where programs write is there for them too."""
    (tmp_path / "there").write_text("x")
    tmp_path.chmod(0o755)
    visible = [*sandbox._visible(), str(tmp_path)]
    monkeypatch.setattr(sandbox, "_visible", lambda: visible)

    done = run_program(f"import os\nprint(os.listdir({str(tmp_path)!r}))\nopen({str(tmp_path / 'new')!r}, 'w')")

    assert done.output == "['there']\n"
    assert done.ended == "raised"


@pytest.mark.parametrize(
    ("program", "ended"), [("x = 1\0", "raised"), ("x = '\ud800'", "finished"), (f"x = '{'a' * 10**7}'", "finished")]
)
def test_odd_programs(program, ended):
    """Programs with null characters, with halves of characters, and of ten megabytes have an ending like others."""
    assert run_program(program).ended == ended


def test_refusal(monkeypatch):
    """Below the level that is asked for nothing runs, and the error says what was reached, why, and what to do."""
    monkeypatch.setattr(sandbox, "_best", lambda: ("process", {"namespaces": "unshare: Operation not permitted"}))
    monkeypatch.delenv("THEMIS_ISOLATION", raising=False)
    with pytest.raises(SandboxError, match=r"'process' only, level 'user' was asked \(namespaces: uns.*=process on it"):
        run_program("pass")
    with pytest.raises(SandboxError, match="level 'namespaces' was asked"):
        run_program("pass", least="namespaces")
    monkeypatch.setenv("THEMIS_ISOLATION", "process")

    assert run_program("pass").isolation == "process"


def test_isolation_in_the_environment(monkeypatch):
    """A level that does not exist is refused by name."""
    monkeypatch.setenv("THEMIS_ISOLATION", "docker")
    with pytest.raises(UsageError, match="THEMIS_ISOLATION is 'docker'; it has to be one of process, user, namespaces"):
        run_program("pass")


def test_on_ray(ray_session):
    """Programs run inside Ray's workers as they do here."""
    with RayExecutionBackend() as backend:
        endings = [done.ended for done in backend.map(run_program, ["pass", "1 / 0", "import os; os._exit(0)"])]

    assert endings == ["finished", "raised", "exited"]


@needs_proc
def test_overhead():
    """A program costs less than 150 ms of CPU beside its own (40 where nothing else runs), two Pythons included."""
    run_program("pass")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(10):
        run_program("pass")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


@pytest.mark.soak
def test_many_bad_programs(nothing_left):
    """Hundreds of programs, every fifth a fork bomb or a loop, end as they should, many at once."""
    bad = ["while True: pass", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"]
    programs = [bad[n % 2] if n % 5 == 0 else f"print({n})" for n in range(400)]
    with ThreadPoolExecutor(16) as pool:
        endings = list(pool.map(lambda program: run_program(program, SMALL).ended, programs))

    assert [ending == "finished" for ending in endings] == [n % 5 != 0 for n in range(400)]
    assert threading.active_count() < 20
