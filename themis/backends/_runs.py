"""Runs at a glance: from one listing, and the small files in it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from themis.backends._alive import is_alive
from themis.backends._reader import Reader
from themis.backends.runs import RunInfo, RunState
from themis.errors import ReportNotFoundError, ThemisError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from themis.backends._disk import Entry
    from themis.backends._place import Place
    from themis.backends.storage import StorageBackend
    from themis.records import RecordKind

logger = logging.getLogger(__name__)

KINDS: tuple[RecordKind, ...] = ("samples", "generations", "evaluations")

_FEW = 8
"""For so many runs each is listed by itself, for more the whole root is; of so many interrupted ones records are
counted, which reads their parts."""


def run_infos(place: Place, run_ids: Sequence[str]) -> list[RunInfo]:
    """The runs of these ids that exist, sorted."""
    trees = map(place.tree, run_ids) if len(run_ids) <= _FEW else [place.tree()]
    files: dict[str, dict[str, Entry]] = defaultdict(dict)
    for path, entry in (item for tree in trees for item in tree.items()):
        files[path.partition("/")[0]][path] = entry
    found = [run_id for run_id in sorted(set(run_ids)) if run_id in files]
    small = [path for run_id in found for path in files[run_id] if _is_small(path)]
    contents = place.read_many(small)
    infos = {run_id: _info(run_id, files[run_id], contents) for run_id in found}
    uncounted = [run_id for run_id in found if infos[run_id].state == "interrupted"]
    if len(uncounted) <= _FEW:
        infos |= {run_id: _counted(place, infos[run_id], files[run_id]) for run_id in uncounted}
    return list(infos.values())


def described(storage: StorageBackend, run_id: str) -> RunInfo:
    """What any storage can tell of a run."""
    metadata = storage.load_run_metadata(run_id)
    launches = storage.load_launches(run_id)
    try:
        report = dict(storage.load_report(run_id).__dict__)
    except ReportNotFoundError:
        report = {}
    counts: dict[str, int] = {kind: len(storage.ids(run_id, kind)) for kind in KINDS}
    return RunInfo(
        run_id,
        run_state(launches, report),
        records=counts,
        n_launches=len(launches),
        created_at=metadata.get("created_at"),
        changed_at=report.get("created_at"),
        **_names(metadata, report),
    )


def run_state(launches: Sequence[dict[str, Any]], report: dict[str, Any]) -> RunState:
    """What a run is doing, by what its launches say of themselves (in their order), and its report.

    The last launch decides: what it said of the run's end; else going while its process lives. One that only saved
    records and was closed has done what it wanted.
    """
    now = time.time()
    own = {"launch", "run_id", "schema_version", "writer"}
    if any("status" not in launch and _is_writing(launch, now) for launch in launches):
        return "going"
    if not launches or ("writer" not in launches[-1] and "status" not in launches[-1]):
        return cast("RunState", report.get("status", "interrupted"))
    last = launches[-1]
    if "status" in last:
        return cast("RunState", last["status"])
    closed = last["writer"].get("closed_at") is not None
    return "complete" if closed and not last.keys() - own else "interrupted"


def _is_writing(launch: dict[str, Any], now: float) -> bool:
    writer = launch.get("writer", {})
    return writer.get("closed_at") is None and is_alive(writer, now)


def _is_small(path: str) -> bool:
    _, _, rest = path.partition("/")
    return rest in {"run.json", "report.json"} or (rest.startswith("launches/") and rest.endswith(".json"))


def _info(run_id: str, files: dict[str, Entry], contents: dict[str, bytes]) -> RunInfo:
    texts = {path.partition("/")[2]: _json(contents[path]) for path in sorted(files) if path in contents}
    metadata, report = texts.get("run.json", {}).get("metadata", {}), texts.get("report.json", {})
    launches = [text for path, text in texts.items() if path.startswith("launches/")]
    writers = [launch.get("writer", {}) for launch in launches]
    rows: Counter[str] = Counter()
    for writer in writers:
        rows.update(writer.get("rows", {}))
    began = [metadata.get("created_at"), *(writer.get("started_at") for writer in writers)]
    heard = [report.get("created_at"), *(writer.get(name) for writer in writers for name in ("beat_at", "closed_at"))]
    heard += [entry.changed_at for entry in files.values()]
    return RunInfo(
        run_id,
        run_state(launches, report),
        records={kind: rows[kind] for kind in KINDS},
        n_bytes=sum(entry.size for entry in files.values()),
        n_files=len(files),
        n_launches=len(launches),
        created_at=min((at for at in began if at is not None), default=None),
        changed_at=max((at for at in heard if at is not None), default=None),
        **_names(metadata, report),
    )


def _counted(place: Place, info: RunInfo, files: Collection[str]) -> RunInfo:
    """The run with its records counted, where its writer was killed and has not said how many there are."""
    counts = dict(info.records)
    for kind in KINDS:
        if any(f"/{kind}/" in path or f".{kind}." in path for path in files):
            try:
                counts[kind] = len(Reader(place, info.run_id, kind, None, {}).ids(()))
            except (ThemisError, ValueError) as error:  # which is verify's to say
                logger.info("the %s of run %s are as its writers counted them: %s", kind, info.run_id, error)
    return replace(info, records=counts)


def _names(metadata: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Benchmark, model and metrics of a run, from its report or else from its configuration."""
    config = metadata.get("config", {})
    model = config.get("model", "")
    return {
        "benchmark": str(report.get("benchmark") or config.get("benchmark", "")),
        "model": str(report.get("model") or (model.get("name", "") if isinstance(model, dict) else model)),
        "metrics": {name: metric.get("mean") for name, metric in report.get("metrics", {}).items()},
    }


def _json(data: bytes) -> dict[str, Any]:
    """The object in a file; {} where it is damaged, which is verify's to say."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
