"""Runs one program in an interpreter of its own and says how it ended. Passed to `python -c`; knows only the builtins.

Descriptor 3 holds 32 bytes that the program does not know, then its text. Descriptor 4 takes "+" before the program
begins, and at the end those 32 bytes, or what it raised. A program cannot come to its end without having been there:
whoever leaves earlier (os._exit, sys.exit) has not written them.
"""


def _run() -> None:
    import os
    import sys

    write, leave, module = os.write, os._exit, type(sys)("program")
    with open(3, "rb") as source:
        token, text = source.read(32), source.read().decode()
    os.set_inheritable(4, False)
    sys.modules["program"] = module
    write(4, b"+")
    try:
        exec(compile(text, "program.py", "exec"), module.__dict__)  # noqa: S102 - what a sandbox is for
        outcome = token
    except BaseException as error:  # noqa: BLE001 - SystemExit before the end is no pass
        outcome = _words(error, text).encode(errors="backslashreplace")[:2000]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S110 - the program may have put anything in its place
            pass
    write(4, outcome)
    leave(0)  # threads left running, and what atexit holds, do not matter


def _words(error: BaseException, text: str) -> str:
    """The last line of the program that the error passed through: its number, its text; then type and message."""
    try:
        message = f"{type(error).__name__}: {error}"[:1000]
    except BaseException:  # noqa: BLE001 - an exception of the program's own making
        message = type(error).__name__
    number, trace = error.lineno if isinstance(error, SyntaxError) else None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = text.splitlines()
    if number is None or not 0 < number <= len(lines):
        return f"\n\n{message}"
    return f"{number}\n{lines[number - 1].strip()[:300]}\n{message}"


_run()
