"""Retrieval by brute force: every order of the candidates is tried, and the ranking of each is read off.

Nothing here is shared with the fast path: no hypergeometric, no counts, exact fractions, one query at a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations


def enumerate_query(
    scores: Sequence[float], relevant: Sequence[bool], ks: Sequence[int]
) -> tuple[dict[int, Fraction], Fraction]:
    """One query: probability of a hit at each k and expected rank of the first relevant candidate.

    Every permutation of the candidates is sorted (stably) by score, so that each order of the tied ones comes
    equally often. C! work: up to about 7 candidates.
    """
    ranks = []
    for order in permutations(range(len(scores))):
        ranking = sorted(order, key=lambda candidate: -scores[candidate])
        ranks.append(next(place for place, c in enumerate(ranking, start=1) if relevant[c]))
    hits = {k: Fraction(sum(rank <= k for rank in ranks), len(ranks)) for k in ks}
    return hits, Fraction(sum(ranks), len(ranks))


def enumerate_direction(
    scores: Sequence[Sequence[float]], relevant: Sequence[Sequence[bool]], ks: Sequence[int]
) -> tuple[dict[int, float], float]:
    """All queries: R@k in percent and the median rank, over the queries that have a relevant candidate."""
    answers = [enumerate_query(s, r, ks) for s, r in zip(scores, relevant, strict=True) if any(r)]
    recalls = {k: float(100 * sum(hits[k] for hits, _ in answers) / len(answers)) for k in ks}
    return recalls, float(statistics.median(rank for _, rank in answers))


def enumerate_precisions(
    scores: Sequence[Sequence[float]], relevant: Sequence[Sequence[bool]], ks: Sequence[int]
) -> dict[int, float]:
    """P@k in percent over the queries that have a relevant candidate: the share of the top k, or of all."""
    shares: dict[int, list[Fraction]] = {k: [] for k in ks}
    for row, right in zip(scores, relevant, strict=True):
        if not any(right):
            continue
        rankings = [sorted(order, key=lambda c: -row[c]) for order in permutations(range(len(row)))]
        for k in ks:
            found = [Fraction(sum(right[c] for c in r[:k]), len(r[:k])) for r in rankings]
            shares[k].append(sum(found, Fraction(0)) / len(found))
    return {k: float(100 * sum(found, Fraction(0)) / len(found)) for k, found in shares.items()}


def integer_scores(queries: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> list[list[int]]:
    """Dot products of integer vectors, exactly."""
    return [[sum(a * b for a, b in zip(q, c, strict=True)) for c in candidates] for q in queries]
