"""What several answers to one sample say: whether one of k is right, whether all k are, how good the best of k is.

Each is the expected value over all ways to draw k of the n answers there are, so it is unbiased for every k up to n.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

from themis.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    Array = np.ndarray[Any, Any]


@overload
def pass_at_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k(n: Sequence[int] | Array, c: Sequence[int] | Array, k: int) -> Array: ...
def pass_at_k(n: Any, c: Any, k: int) -> Any:
    """Probability that at least one of k answers is right, from c right ones among n: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, section 2.1; from whole
    numbers, so rounded once. Of sequences it is the array over their pairs.

    Raises:
        UsageError: k is not among 1 to n, or c not among 0 to n.
    """
    return _of_pairs(lambda n, c: (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k), n, c, k)


@overload
def pass_hat_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_hat_k(n: Sequence[int] | Array, c: Sequence[int] | Array, k: int) -> Array: ...
def pass_hat_k(n: Any, c: Any, k: int) -> Any:
    """Probability that all of k answers are right, from c right ones among n: C(c, k) / C(n, k).

    Yao et al. 2024, "tau-bench", arXiv:2406.12045. Of sequences it is the array over their pairs.

    Raises:
        UsageError: k is not among 1 to n, or c not among 0 to n.
    """
    return _of_pairs(lambda n, c: math.comb(c, k) / math.comb(n, k), n, c, k)


def best_of_k(scores: Sequence[float], k: int) -> float:
    """Expected highest score among k of these answers; pass_at_k for scores of 0 and 1.

    The i-th lowest of n is the highest of C(i - 1, k - 1) among C(n, k) draws.

    Raises:
        UsageError: k is not among 1 to the number of scores.
    """
    n = len(scores)
    _check(n, 0, k)
    draws = math.comb(n, k)
    ranked = enumerate(sorted(scores))
    return math.fsum(score * (math.comb(below, k - 1) / draws) for below, score in ranked)


def _of_pairs(of_pair: Callable[[int, int], float], n: Any, c: Any, k: int) -> Any:
    if not hasattr(n, "__len__") and not hasattr(c, "__len__"):
        _check(n, c, k)
        return of_pair(n, c)
    import numpy as np

    pairs = np.stack(np.broadcast_arrays(np.asarray(n), np.asarray(c)), axis=-1).reshape(-1, 2)
    different, place = np.unique(pairs, axis=0, return_inverse=True)
    values = []
    for answers, right in different.tolist():
        _check(answers, right, k)
        values.append(of_pair(answers, right))
    return np.array(values, dtype=float)[place.reshape(-1)]


def _check(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n:
        raise UsageError(f"{c} right answers among {n}: give 0 to {n}")
    if not 1 <= k <= n:
        raise UsageError(f"k = {k} of {n} answers: k can be 1 to {n}; ask for more repeats, or take a smaller k")
