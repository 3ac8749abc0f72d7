"""What a program has on disk, and its end: as deep, locked or full as it has made it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

TYPE_CHECKING = False  # importing typing would take longer than most programs
if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = 4096
"""Bytes that every file and folder counts for at least: an empty one has its place on disk too."""
TOO_DEEP = 1 << 62
"""What folders count for whose names are too long together for the kernel to look into them."""


def size(folder: str) -> int:
    """Bytes on disk beneath a folder."""
    total, waiting = 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += _blocks(entry)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError as error:
            total += TOO_DEEP if error.errno == errno.ENAMETOOLONG else 0
    return total


def _blocks(entry: os.DirEntry[str]) -> int:
    with contextlib.suppress(OSError):  # gone by now
        return max(BLOCK, entry.stat(follow_symlinks=False).st_blocks * 512)
    return 0


def unnamed(processes: Iterable[int]) -> int:
    """Bytes on disk of files that processes have open and that have no name any more."""
    found: dict[tuple[int, int], int] = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    file = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISREG(file.st_mode) and file.st_nlink == 0:
                        found[file.st_dev, file.st_ino] = file.st_blocks * 512
    return sum(found.values())


def remove_folder(folder: str) -> None:
    """Remove a folder, however deep, also where the program has locked what is in it."""
    waiting, number = [folder], 0
    while waiting:
        place = waiting.pop()
        for entry in _entries(place):
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                moved, number = os.path.join(folder, f"{number}{os.urandom(8).hex()}"), number + 1
                os.rename(entry.path, moved)  # so that no path becomes longer than the kernel takes
                waiting.append(moved)
        if place != folder:
            with contextlib.suppress(OSError):
                os.rmdir(place)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            return list(entries)
    return []
