"""Metrics of how much of a text is there: SQuAD, ROUGE, BLEU and chrF, edit distance. 1 is the best.

Of several targets the best one counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from themis.scoring.base import PooledMetric, Score
from themis.scoring.extract import whole
from themis.scoring.needs import TextMetric, needed_targets, needed_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records import GenerationRecord, Sample

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_A_TOKEN = re.compile(r"[^a-z0-9]+")


def squad_tokens(text: str) -> list[str]:
    """The words of a text as SQuAD compares them: lower case, without ASCII punctuation, without a, an and the.

    The normalisation of SQuAD's own evaluation script (Rajpurkar et al. 2016, arXiv:1606.05250).
    """
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def f1_of_bags(answer: Sequence[Any], target: Sequence[Any]) -> float:
    """The harmonic mean of precision and recall of the answer's items; with an empty side 1 where both are empty."""
    if not answer or not target:
        return float(not answer and not target)
    return _f1((Counter(answer) & Counter(target)).total(), len(answer), len(target))


def _f1(common: int, n_answer: int, n_target: int) -> float:
    return 2 * common / (n_answer + n_target) if n_answer + n_target else 0.0


@dataclass(frozen=True)
class Squad(TextMetric):
    """SQuAD's token F1, or its exact match, of the whole response (normalisation: squad_tokens), best of the targets.

    Attributes:
        compare: "f1" or "exact".
        name: What the metric is called.
    """

    compare: Literal["f1", "exact"] = "f1"
    name: str = "token_f1"

    def config(self) -> dict[str, Any]:
        return {"compare": self.compare}

    def answer_key(self, answer: str) -> tuple[str, ...]:
        return tuple(squad_tokens(answer))

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        text = needed_text(generation)
        answer = squad_tokens(text)
        targets = [squad_tokens(target) for target in needed_targets(sample)]
        same = [f1_of_bags(answer, each) if self.compare == "f1" else float(answer == each) for each in targets]
        return Score(max(same), whole(text))


@dataclass(frozen=True)
class Rouge(TextMetric):
    """ROUGE's F1 (Lin 2004) of the whole response: of words, of pairs of words, or of the longest common subsequence.

    Words are runs of a to z and digits in lower case, not stemmed, as in the package rouge-score, whose numbers these
    are.

    Attributes:
        kind: "1", "2" or "L".
        name: What the metric is called.
    """

    kind: Literal["1", "2", "L"] = "L"
    name: str = "rougeL"

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        text = needed_text(generation)
        answer = _rouge_words(text)
        scores = [self._f1(answer, _rouge_words(target)) for target in needed_targets(sample)]
        return Score(max(scores), whole(text))

    def _f1(self, answer: list[str], target: list[str]) -> float:
        if self.kind == "L":
            from rapidfuzz.distance import LCSseq

            return _f1(LCSseq.similarity(answer, target), len(answer), len(target))
        ours, theirs = (_ngrams(words, int(self.kind)) for words in (answer, target))
        return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def _rouge_words(text: str) -> list[str]:
    return _NOT_A_TOKEN.sub(" ", text.lower()).split()


def _ngrams(words: list[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


@dataclass(frozen=True)
class CorpusOverlap(TextMetric, PooledMetric):
    """BLEU (Papineni et al. 2002) or chrF (Popović 2015) by sacrebleu's defaults, divided by 100.

    Over a run it is the corpus's number, from summed n-gram counts; the score of one response is sacrebleu's sentence
    score (BLEU: with effective order).

    Attributes:
        measure: "bleu", "chrf" or "chrf++".
        name: What the metric is called.
    """

    measure: Literal["bleu", "chrf", "chrf++"] = "bleu"
    name: str = "bleu"

    def config(self) -> dict[str, Any]:
        return {"measure": self.measure}

    # sacrebleu has no public name for the counts of one sentence of chrF, nor for the number out of summed counts; the
    # tests hold these two methods to its public corpus scores.
    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        text = needed_text(generation)
        references = [[target] for target in needed_targets(sample)]
        corpus, sentence = _sacrebleu(self.measure)
        (counts,) = corpus._extract_corpus_statistics([text], references)  # noqa: SLF001
        score = _share(sentence._compute_score_from_stats(list(counts)))  # noqa: SLF001
        return Score(score, whole(text), value=[int(count) for count in counts])

    def pooled(self, sums: Sequence[float]) -> float:
        corpus, _ = _sacrebleu(self.measure)
        return _share(corpus._compute_score_from_stats(list(sums)))  # noqa: SLF001


def _share(found: Any) -> float:
    """A score of sacrebleu as a share of 1, which its logarithms overstep in the last digit."""
    return min(float(found.score) / 100, 1.0)


@lru_cache(maxsize=4)
def _sacrebleu(measure: str) -> tuple[Any, Any]:
    """What computes a corpus's number, and what computes a sentence's."""
    from sacrebleu.metrics import BLEU, CHRF

    if measure == "bleu":
        return BLEU(), BLEU(effective_order=True)
    chrf = CHRF(word_order=2 if measure == "chrf++" else 0)
    return chrf, chrf


@dataclass(frozen=True)
class EditSimilarity(TextMetric):
    """1 less the Levenshtein distance between response and target, divided by the longer one's length in characters.

    White space around either is left out; case counts.
    """

    name: str = "edit_similarity"

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        from rapidfuzz.distance import Levenshtein

        text = needed_text(generation).strip()
        scores = [Levenshtein.normalized_similarity(text, each.strip()) for each in needed_targets(sample)]
        return Score(max(scores), text or None)


@dataclass(frozen=True)
class ErrorRate(TextMetric, PooledMetric):
    """1 less the error rate: insertions, deletions and substitutions for each unit of the target, over the whole run.

    So that more is better, as everywhere: `word_accuracy` is 1 - WER, `character_accuracy` 1 - CER. Below 0 where a
    response has more errors than the target has units. Case counts, and a run of white space is one space.

    Attributes:
        unit: What is counted.
        name: What the metric is called.
    """

    unit: Literal["words", "characters"] = "words"
    name: str = "word_accuracy"

    def config(self) -> dict[str, Any]:
        return {"unit": self.unit}

    def score(self, sample: Sample, generation: GenerationRecord) -> Score:
        from rapidfuzz.distance import Levenshtein

        text = needed_text(generation)
        answer = self._units(text)
        targets = [self._units(target) for target in needed_targets(sample)]
        counts = [[Levenshtein.distance(answer, each), len(each)] for each in targets if each]
        if not counts:
            raise ValueError(f"the target of sample {sample.id!r} is blank")
        best = max(counts, key=self.pooled)
        return Score(self.pooled(best), whole(text), value=best)

    def pooled(self, sums: Sequence[float]) -> float:
        return 1 - sums[0] / sums[1]

    def _units(self, text: str) -> list[str] | str:
        words = text.split()
        return words if self.unit == "words" else " ".join(words)
