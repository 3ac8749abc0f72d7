"""What differs between two runs in what a comparison takes for equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from themis.compare.values import SetupDifference
from themis.errors import UsageError
from themis.ids import canonical_json
from themis.plan import is_unknown
from themis.registry import unknown
from themis.stored import JUDGE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from themis.compare._runs import StoredRun

ASPECTS = ("benchmark", "version", "data", "prompt", "params", "scorer")
"""What has to be equal unless it is allowed to differ. Models may always differ."""


def check_aspects(allowed: bool | str | Iterable[str]) -> set[str]:
    """The aspects that may differ.

    Raises:
        UsageError: There is no such aspect.
    """
    if isinstance(allowed, bool):
        return set(ASPECTS) if allowed else set()
    names = {allowed} if isinstance(allowed, str) else set(allowed)
    for name in names - {*ASPECTS, "all"}:
        raise UsageError(unknown("aspect that may differ", str(name), [*ASPECTS, "all"]))
    return set(ASPECTS) if "all" in names else names


def setup_differences(baseline: StoredRun, run: StoredRun, metrics: Collection[str] | None) -> list[SetupDifference]:
    """What differs, aspect by aspect: of the data in what is shared, of the scorers in these metrics, all for None."""
    found = {
        "benchmark": _changed(_benchmark(baseline), _benchmark(run)),
        "version": _changed(_version(baseline), _version(run)),
        "data": _data(baseline, run),
        "prompt": _prompt(baseline, run),
        "params": _params(baseline.config.get("params") or {}, run.config.get("params") or {}),
        "scorer": _scorers(baseline, run, metrics),
    }
    return [SetupDifference(baseline.label, run.label, aspect, text) for aspect, text in found.items() if text]


def refuse(differences: Collection[SetupDifference], allowed: Collection[str]) -> None:
    """Raise UsageError where something differs that may not."""
    refused = [each for each in differences if each.aspect not in allowed]
    if not refused:
        return
    first = refused[0]
    lines = [f"{each.aspect}: {each.text}" for each in refused if each.run == first.run]
    names = list(dict.fromkeys(each.aspect for each in refused))
    flags = " ".join(f"--allow-different {name}" for name in names)
    raise UsageError(
        f"{first.baseline} and {first.run} differ in more than the model ({'; '.join(lines)}), so a difference of "
        f"their scores may come from there. Compare runs that share these, or allow it: allow_different={names} "
        f"({flags}); the result then says what differs"
    )


def _changed(before: Any, after: Any) -> str | None:
    if before is None or after is None or before == after:
        return None
    return f"{_short(before)} and {_short(after)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return repr(text if len(text) <= 80 else f"{text[:50]} ... {text[-25:]}")


def _benchmark(run: StoredRun) -> Any:
    return run.config.get("benchmark") or (run.report.benchmark if run.report else None)


def _version(run: StoredRun) -> Any:
    return (run.report.benchmark_version or None) if run.report else None


def _data(baseline: StoredRun, run: StoredRun) -> str | None:
    before, after = (each.samples for each in (baseline, run))
    if not (before and after):  # a storage that keeps no samples; the prompts are compared as they were asked
        before, after = (_targets(each) for each in (baseline, run))
    shared = before.keys() & after.keys()
    changed = sorted(name for name in shared if before[name] != after[name])
    if not changed:
        return None
    return f"{len(changed)} of {len(shared)} shared samples ask or expect something else, the first is {changed[0]!r}"


def _targets(run: StoredRun) -> dict[str, int]:
    table = run.storage.scan(run.run_id, "evaluations", ["sample_id", "target"])
    return dict(zip(table["sample_id"].to_pylist(), map(hash, table["target"].to_pylist()), strict=True))


def _params(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    changed = [
        f"{name} {_setting(before, name)} and {_setting(after, name)}"
        for name in sorted({*before, *after})
        if _setting(before, name) != _setting(after, name)
    ]
    return ", ".join(changed) or None


def _setting(params: dict[str, Any], name: str) -> str:
    return canonical_json(params[name]) if name in params else "not set"


def _prompt(baseline: StoredRun, run: StoredRun) -> str | None:
    templates = [each.config.get("prompt") for each in (baseline, run)]
    kept = baseline.samples and run.samples  # else the same template may have asked other questions
    if not kept or any(template is None or is_unknown(template) for template in templates):
        return _asked_prompts(baseline, run)
    if templates[0] == templates[1]:
        return None
    before, after = (template if isinstance(template, dict) else {"template": template} for template in templates)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    parts = (f"{name} {_short(before.get(name))} and {_short(after.get(name))}" for name in names)
    return ", ".join(parts)


def _asked_prompts(baseline: StoredRun, run: StoredRun) -> str | None:
    """Where the code of a template cannot be told: whether the prompts themselves differ."""
    asked = [dict(_prompts(each)) for each in (baseline, run)]
    shared = asked[0].keys() & asked[1].keys()
    changed = sorted(pair for pair in shared if asked[0][pair] != asked[1][pair])
    if not changed:
        return None
    return f"{len(changed)} of {len(shared)} shared prompts differ, the first is that of sample {changed[0][0]!r}"


def _prompts(run: StoredRun) -> Iterator[tuple[tuple[str, int], int]]:
    columns = ("benchmark", "sample_id", "repeat", "prompt")
    for table in run.storage.scan_batches(run.run_id, "generations", columns):
        rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
        for benchmark, sample, repeat, prompt in rows:
            if not benchmark.startswith(JUDGE):
                yield (sample, repeat), hash(prompt)


def _scorers(baseline: StoredRun, run: StoredRun, metrics: Collection[str] | None) -> str | None:
    changed = []
    shared = baseline.scores.keys() & run.scores.keys()
    for name in sorted(shared if metrics is None else shared.intersection(metrics)):
        before, after = (sorted(each.scores[name].scorers) for each in (baseline, run))
        settings = [each.metric_config(name) for each in (baseline, run)]
        if before != after:
            changed.append(f"{', '.join(before)} and {', '.join(after)}")
        elif None not in settings and settings[0] != settings[1]:
            changed.append(f"{name} set as {canonical_json(settings[0])} and {canonical_json(settings[1])}")
    return "; ".join(changed) or None
