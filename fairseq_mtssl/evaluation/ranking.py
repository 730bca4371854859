"""What a query scores when some of its candidates tie: expectations over every order of the tied ones.

A query is described by three counts, all about its *best* relevant candidate (the relevant one of highest
score): `ahead`, how many candidates score higher; `tied`, how many score the same, itself included; and
`tied_relevant`, how many of those are relevant. Relevant candidates of a lower score can never be the first
relevant one, so they do not matter. The tied ones take positions `ahead + 1 … ahead + tied` in random order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import NonFiniteEmbeddingError, RetrievalError


def expected_rank(ahead: np.ndarray, tied: np.ndarray, tied_relevant: np.ndarray) -> np.ndarray:
    """Rank of the first relevant candidate, averaged over the orders of the tied ones.

    ahead, tied, tied_relevant: (Q,) ints; 1 <= tied_relevant <= tied.
    Returns: (Q,) float64, from 1. The smallest of r draws without replacement from 1…n has mean
        (n + 1)/(r + 1); with one relevant candidate this is 1 + ahead + (tied - 1)/2.
    """
    return ahead + (tied + 1.0) / (tied_relevant + 1.0)


def hit_probability(k: int, ahead: np.ndarray, tied: np.ndarray, tied_relevant: np.ndarray) -> np.ndarray:
    """Probability that the top k hold a relevant candidate, over the orders of the tied ones.

    k: >= 1; more than there are candidates is the same as all of them.
    ahead, tied, tied_relevant: (Q,) ints; 1 <= tied_relevant <= tied.
    Returns: (Q,) float64 in [0, 1]. The tied ones fill j = clamp(k - ahead, 0, tied) of the top k places, so
        the query misses with the hypergeometric probability C(tied - tied_relevant, j) / C(tied, j).
    """
    places = np.clip(k - ahead, 0, tied)
    others = tied - tied_relevant
    miss = np.ones(len(places), dtype=np.float64)
    for drawn in range(int(places.max(initial=0))):
        left = np.maximum(others - drawn, 0) / np.maximum(tied - drawn, 1)
        miss = np.where(drawn < places, miss * left, miss)
    return 1.0 - miss


def compare(
    queries: Tensor, candidates: Tensor, query_group: Tensor, candidate_group: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores (Q, C) float32 of every query with every candidate, and which are relevant, (Q, C) bool.

    queries: (Q, D), candidates: (C, D), float64 of `exact_scale`; groups: (Q,) and (C,) ints, equal where
    relevant. Products are summed in float64 and rounded to float32: matrix kernels add in an order that
    depends on the place in the matrix, and equal embeddings must give equal scores wherever they stand.
    """
    return (queries @ candidates.T).float(), query_group[:, None] == candidate_group[None, :]


def expected_precision(scores: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Share of relevant candidates among the top k, averaged over the orders of tied candidates.

    scores: (Q, C) float; relevant: (Q, C) bool; ks: each >= 1, beyond C the same as C.
    Returns: (K, Q) float64 in [0, 1]. Of the candidates that score as the one in place k does, `tied` in
        all, each stands among the top k with probability (k - ahead) / tied.
    """
    top = scores.topk(min(max(ks), scores.shape[1]), dim=1).values  # best first
    rows = []
    for k in ks:
        places = min(k, scores.shape[1])
        edge = top[:, places - 1 : places]
        above, equal = scores > edge, scores == edge
        counted = (above, above & relevant, equal, equal & relevant)
        ahead, ahead_relevant, tied, tied_relevant = (mask.sum(dim=1).double() for mask in counted)
        # whole numbers until the one division, so that all candidates tied give exactly relevant / C
        rows.append((ahead_relevant * tied + (places - ahead) * tied_relevant) / (tied * places))
    return torch.stack(rows)


def tie_counts(scores: Tensor, relevant: Tensor) -> Tensor:
    """Counts about the best relevant candidate: (4, Q) int64 of ahead, tied, tied_relevant, relevant.

    scores: (Q, C) float; relevant: (Q, C) bool, as `compare` gives them.
    """
    best = torch.where(relevant, scores, -torch.inf).amax(dim=1, keepdim=True)
    equal = scores == best
    counted = (scores > best, equal, equal & relevant, relevant)
    # int32 sums of booleans are three times as fast as the int64 default
    return torch.stack([mask.sum(dim=1, dtype=torch.int32) for mask in counted]).long()


def top_candidates(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k candidates of highest dot product for each query; ties in the order of the candidates.

    queries: (Q, D); candidates: (C, D) float. k is clamped to C.
    Returns: indices (Q, k) int64 and scores (Q, k) float32, best first.
    Raises: NonFiniteEmbeddingError.
    """
    if k < 1:
        raise RetrievalError(f"k: got {k}; wanted at least 1")
    _check_finite(queries, "query")
    _check_finite(candidates, "candidate")
    scores = (queries.cpu().double() @ candidates.cpu().double().T).float()
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]
    return order, scores.gather(1, order)


def exact_scale(embeddings: Tensor, side: str) -> Tensor:
    """The rows as float64 on the CPU, times a power of two that keeps products clear of float32's limits.

    No ranking changes: the factor is one for all rows, and a power of two rounds nothing.
    """
    _check_finite(embeddings, side)
    rows = embeddings.detach().to("cpu", torch.float64)
    largest = rows.abs().max()
    return torch.ldexp(rows, -torch.frexp(largest).exponent) if largest > 0 else rows


def _check_finite(embeddings: Tensor, side: str) -> None:
    bad = torch.nonzero(~torch.isfinite(embeddings).all(dim=1)).flatten().tolist()
    if bad:
        raise NonFiniteEmbeddingError(side, bad, len(embeddings))
