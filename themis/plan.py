"""What one call of evaluate() asks for, and exactly what it covers."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from themis.arrow import texts
from themis.ids import canonical_json, content_hash, generation_id, readable_run_id
from themis.records import Request
from themis.scorers import Scorers
from themis.scoring.needs import check_fit
from themis.work import Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from themis.benchmarks.base import Benchmark
    from themis.models.base import Model
    from themis.records import Kind, Prompt, Sample
    from themis.report import Pair
    from themis.scoring.base import Metric


@dataclass(frozen=True)
class Plan:
    """What one call of evaluate() asks for."""

    benchmark: Benchmark
    model: Model
    metrics: tuple[Metric, ...]
    params: dict[str, Any]
    limit: int | None = None
    num_samples: int = 1
    scorers: Scorers = field(init=False)
    identity: dict[str, Any] = field(init=False)
    template: Any = field(init=False)

    def __post_init__(self) -> None:
        identity, template = self.model.identity(), self.benchmark.template_identity()
        object.__setattr__(self, "scorers", Scorers(self.metrics))
        object.__setattr__(self, "identity", _unknown() if identity is None else identity)
        object.__setattr__(self, "template", _unknown() if template is None else template)

    def config(self) -> dict[str, Any]:
        """What determines the answers: two calls of one configuration share a run."""
        return {
            "benchmark": self.benchmark.name,
            "model": self.identity,
            "prompt": self.template,
            "params": self.params,
        }

    def default_run_id(self) -> str:
        """Readable, and equal for equal configurations."""
        return readable_run_id(self.benchmark.name, self.model.name, self.config())

    def items(self) -> Iterator[Item]:
        """Every question that this call covers, lazily: the repeats of one sample follow each other.

        Raises:
            DataError: The benchmark's rows cannot be used; it names the row.
            UsageError: A metric cannot score such samples.
        """
        first = True
        for sample, prompt in islice(self.benchmark.prompts(), self.limit):
            if first:
                check_fit(self.metrics, sample, self.benchmark.kind)
                first = False
            for repeat in range(self.num_samples):
                yield Item(self._request(sample, prompt, repeat), sample)

    def _request(self, sample: Sample, prompt: Prompt, repeat: int) -> Request:
        params = self.params
        if "seed" in params:  # one seed for all repeats would give the same answer k times
            params = {**params, "seed": params["seed"] + repeat}
        return make_request(
            prompt,
            benchmark=self.benchmark.name,
            sample_id=sample.id,
            repeat=repeat,
            model=self.model.name,
            identity=self.identity,
            params=params,
            kind=self.benchmark.kind,
            continuations=self.benchmark.continuations(sample),
        )


def make_request(
    prompt: Prompt,
    *,
    benchmark: str,
    sample_id: str,
    repeat: int,
    model: str,
    identity: dict[str, Any],
    params: dict[str, Any],
    kind: Kind = "chat",
    continuations: list[str] | None = None,
) -> Request:
    """One question to the model of that name and identity, under the id that its answer will have."""
    return Request(
        id=generation_id(
            benchmark=benchmark,
            sample_id=sample_id,
            prompt=prompt,
            model=identity,
            params=params,
            kind=kind,
            continuations=continuations,
            repeat=repeat,
        ),
        prompt=prompt if isinstance(prompt, str) else canonical_json(prompt),
        sample_id=sample_id,
        repeat=repeat,
        benchmark=benchmark,
        kind=kind,
        messages=None if isinstance(prompt, str) else prompt,
        continuations=continuations,
        params=params,
        model=model,
    )


def _unknown() -> dict[str, str]:
    """What stands for code that cannot be told: equal to nothing, the same code in another process included."""
    return {"unknown": uuid4().hex}


def is_unknown(identity: object) -> bool:
    """Whether it stands for code that could not be told."""
    return isinstance(identity, dict) and identity.keys() == {"unknown"}


class Fingerprint:
    """A hash over samples in their order, of what they ask and expect."""

    def __init__(self) -> None:
        self._data = sha256()

    def add(self, sample: Sample) -> str:
        """Take in the next sample; its own hash."""
        found = sample_hash(sample)
        self._data.update(found.encode())
        return found

    def text(self) -> str:
        """The hash over all of them, as 32 hexadecimal digits."""
        return self._data.hexdigest()[:32]


class Selection:
    """Exactly what one call covers, whether it was asked now or before.

    Attributes:
        pairs: What was asked, the repeats of one sample one after the other.
        groups: The group of each sample that has one.
        complete: Whether all that the call covers is in it.
    """

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.groups: dict[str, str] = {}
        self.complete = False
        self._generations: list[str] = []
        self._evaluations: list[str] = []
        self._over_repeats: list[str] = []
        self._starts: dict[str, int] = {}
        self._last_sample: str | None = None
        self._data = Fingerprint()

    def add(self, item: Item, evaluation_ids: Sequence[str]) -> str | None:
        """Take in one question; the hash of its sample when it is the first of that."""
        if not self.add_answer(item.sample, item.request.repeat, item.request.id, evaluation_ids):
            return None
        return self._data.add(item.sample)

    def add_answer(self, sample: Sample, repeat: int, generation_id: str, evaluation_ids: Sequence[str]) -> bool:
        """Take in one answer by its id, "" for none; whether it is the first of its sample.

        The ids are those of its scores, of each answer equally many in the same order.
        """
        self.pairs.append((sample.id, repeat))
        self._generations.append(generation_id)
        self._evaluations.extend(evaluation_ids)
        if sample.id == self._last_sample:
            return False
        self._last_sample = sample.id
        if sample.group is not None:
            self.groups[sample.id] = sample.group
        return True

    def add_over_repeats(self, evaluation_id: str) -> None:
        """Take in the score of a sample over its repeats."""
        self._over_repeats.append(evaluation_id)

    def fingerprint(self) -> str:
        """Hash over the samples in their order: the data that was really asked."""
        return self._data.text()

    def generation_ids(self, sample_id: str) -> list[str]:
        """Ids of the answers to one sample, in the order of its repeats."""
        if not self._starts:
            for place, (name, _) in enumerate(self.pairs):
                self._starts.setdefault(name, place)
        start = stop = self._starts[sample_id]
        while stop < len(self.pairs) and self.pairs[stop][0] == sample_id:
            stop += 1
        return [name for name in self._generations[start:stop] if name]

    def generations(self, table: pa.Table) -> pa.Table:
        """The rows of a table of generations that belong to this call."""
        return with_ids(table, self._generations)

    def evaluations(self, table: pa.Table, places: Iterable[int], *, over_repeats: bool = False) -> pa.Table:
        """The rows of a table of evaluations that belong to this call: not those of other scorers or targets.

        Args:
            table: Any that has ids.
            places: Of the metrics, among the ids that each answer was taken in with.
            over_repeats: The scores over repeats too.
        """
        each = len(self._evaluations) // len(self.pairs) if self.pairs else 1
        ids = list(self._over_repeats) if over_repeats else []
        for place in places:
            ids += self._evaluations[place::each]
        return with_ids(table, ids)


def with_ids(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    """The rows that have one of these ids."""
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table["id"], value_set=texts(ids)))


def sample_hash(sample: Sample) -> str:
    """Equal for samples that ask and score the same."""
    return content_hash([sample.id, sample.input, sample.target, sample.choices, sample.group, sample.metadata])
