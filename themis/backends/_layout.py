"""Which files are a run's, by their places and names below its folder; whether there is a run, and its removal.

A folder may be somebody else's, or hold runs itself: only files that nobody else would put there make it a run.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from themis.backends._parts import PartName
from themis.backends._runs import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from themis.backends._place import Place

logger = logging.getLogger(__name__)

_FOLDERS = ("launches", *KINDS, "journal", "damaged")
_KIND = "|".join(KINDS)
_MARK = re.compile(rf"run\.json|launches/\d{{6,}}-[0-9a-f]+\.json|journal/\d{{6,}}-[^/]+\.({_KIND})\.\w+")
# Runs may have any name: launches/run.json is what a run named "launches" has.
_NAMED = r"report\.json|launches/(?!run\.|report\.)[^/.][^/]*\.json|damaged/.+"
_TEMPORARY = rf"(({'|'.join(_FOLDERS)})/)?\.[^/]+\.[0-9a-f]{{8}}\.tmp"
_OURS = re.compile(f"{_NAMED}|{_TEMPORARY}")


def is_run(place: Place, run_id: str) -> bool:
    """Whether there is a run: its run.json, or a launch, a part or a journal directly where a run has them."""
    folders = ("", "launches", *KINDS, *["journal"] * place.local)
    return any(_marks(f"{folder}/{name}".lstrip("/")) for folder in folders for name in _files(place, run_id, folder))


def runs_among(paths: Iterable[str]) -> list[str]:
    """The ids of the runs that files, by their path from the root, belong to, sorted."""
    split = (path.partition("/") for path in paths)
    return sorted({run_id for run_id, _, below in split if _marks(below)})


def remove_run(place: Place, run_id: str) -> None:
    """Delete what is a run's, run.json last, and its folder unless something of somebody else is in it."""
    paths = list(place.tree(run_id))
    foreign = [path for path in paths if not _is_ours(path.partition("/")[2])]
    mark = f"{run_id}/run.json"
    place.remove_files([path for path in paths if path != mark and path not in set(foreign)])
    if not foreign:
        place.remove(run_id, last="run.json")
        return
    place.remove_files([mark])
    logger.warning("run %s: %d files that are no run's are left, one is %s", run_id, len(foreign), foreign[0])
    if place.local:
        for folder in _FOLDERS:
            with suppress(OSError):  # not there, or not empty
                place.local_path(f"{run_id}/{folder}").rmdir()


def _marks(below: str) -> bool:
    folder, _, name = below.partition("/")
    return bool(_MARK.fullmatch(below)) or (folder in KINDS and PartName.parse(name) is not None)


def _is_ours(below: str) -> bool:
    return _marks(below) or bool(_OURS.fullmatch(below))


def _files(place: Place, run_id: str, folder: str) -> Iterable[str]:
    path = f"{run_id}/{folder}".rstrip("/")
    if place.local and not os.path.isdir(place.local_path(path)):  # noqa: PTH112 - Path.is_dir raises PermissionError
        return ()
    return place.files(path)
