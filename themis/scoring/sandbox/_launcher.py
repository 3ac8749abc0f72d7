"""A process that runs one program under limits and says how it ended. Run by its path, with `python -I -S`.

It is what makes limits possible from any thread: it has one thread alone, so that it may fork and leave its
namespaces. The request comes on standard input and the reply goes to standard output, one marshalled dict each. The
argument is a descriptor that closes when whoever asked is gone; then everything ends.
"""

from __future__ import annotations

import errno
import marshal
import os
import signal
import sys
from types import ModuleType

if __name__ == "__main__":  # the packages stand empty: to import what is in them would take longer than most programs
    _folders = [os.path.dirname(os.path.abspath(__file__))]
    for _ in range(2):
        _folders.append(os.path.dirname(_folders[-1]))
    for _package, _folder in zip(("themis.scoring.sandbox", "themis.scoring", "themis"), _folders, strict=True):
        sys.modules[_package] = ModuleType(_package)
        sys.modules[_package].__path__ = [_folder]

from themis.scoring.sandbox._folder import remove_folder
from themis.scoring.sandbox._kernel import LINUX, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, prctl
from themis.scoring.sandbox._namespaces import in_namespaces
from themis.scoring.sandbox._program import Program
from themis.scoring.sandbox._tree import Descendants, OneUser, spare_user

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from typing import Any

    from themis.scoring.sandbox._program import Request


def main() -> None:
    """Read the request, run the program, reply."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the only signal that could reach process 1 from inside
    request = marshal.load(sys.stdin.buffer)  # noqa: S302 - from the process that started this one
    request["alive"] = int(sys.argv[1])
    os.set_inheritable(request["alive"], False)
    try:
        if request["level"] == "namespaces":
            in_namespaces(request, _reply)
        else:
            _reply(_beside_others(request))
    except OSError as error:
        _reply({"failed": str(error)})


def _reply(reply: dict[str, Any]) -> None:
    rest = marshal.dumps(reply)
    while rest:
        rest = rest[os.write(1, rest) :]


def _beside_others(request: Request) -> dict[str, Any]:
    """Levels "user" and "process": beside the machine's other processes, in a folder of the machine's own."""
    user = None
    if request["level"] == "user":
        user = spare_user() if os.geteuid() == 0 else None
        if user is None:
            raise OSError(errno.EPERM, "only root can run a program as another user")
    if LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_DUMPABLE, 0)  # the program, of the same user, may not look into this process
    folder = os.path.join(request["folder"], f"themis-program-{os.urandom(8).hex()}")
    os.mkdir(folder, 0o700)
    try:
        if user is not None:
            os.chown(folder, user, user)
        return Program(request, user, folder, Descendants() if user is None else OneUser(user), measured=True).run()
    finally:
        remove_folder(folder)


if __name__ == "__main__":
    main()
