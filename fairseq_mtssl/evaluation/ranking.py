"""Scores of ranked candidates with ties: expectations over all orders of the tied candidates.

A query is described by three counts about its *best* relevant candidate (the relevant one of highest score):
`ahead`, the number of candidates with a higher score; `tied`, the number with the same score, itself
included; and `tied_relevant`, the number of relevant ones among these. Relevant candidates with a lower
score can never be the first relevant one, so they do not matter. The tied candidates take the ranks
`ahead + 1 … ahead + tied` in random order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import NonFiniteEmbeddingError, RetrievalError


def expected_rank(ahead: np.ndarray, tied: np.ndarray, tied_relevant: np.ndarray) -> np.ndarray:
    """Return the rank of the first relevant candidate, averaged over the orders of the tied candidates.

    ahead, tied, tied_relevant: (Q,) ints; 1 <= tied_relevant <= tied.
    Returns: (Q,) float64, from 1. The smallest of r draws without replacement from 1…n has mean
        (n + 1)/(r + 1); with one relevant candidate this is 1 + ahead + (tied - 1)/2.
    """
    return ahead + (tied + 1.0) / (tied_relevant + 1.0)


def hit_probability(k: int, ahead: np.ndarray, tied: np.ndarray, tied_relevant: np.ndarray) -> np.ndarray:
    """Return the probability that the top k hold a relevant candidate, over the orders of tied candidates.

    k: >= 1; a k beyond the number of candidates means all of them.
    ahead, tied, tied_relevant: (Q,) ints; 1 <= tied_relevant <= tied.
    Returns: (Q,) float64 in [0, 1]. Tied candidates fill j = clamp(k - ahead, 0, tied) of the top k places,
        and none of them is relevant with the hypergeometric probability C(tied - tied_relevant, j) / C(tied,
        j).
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
    """Return the scores of all queries and candidates, (Q, C) float32, and which are relevant, (Q, C) bool.

    queries: (Q, D), candidates: (C, D), float64 from `exact_scale`; groups: (Q,) and (C,) ints, equal for
    relevant pairs. Products are summed in float64 and rounded to float32: matrix kernels add in an order that
    depends on the position in the matrix, but equal embeddings must have equal scores at every position.
    """
    return (queries @ candidates.T).float(), query_group[:, None] == candidate_group[None, :]


def expected_precision(scores: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the share of relevant candidates among the top k, averaged over the orders of tied candidates.

    scores: (Q, C) float; relevant: (Q, C) bool; ks: each >= 1; a k beyond C means C.
    Returns: (K, Q) float64 in [0, 1]. Each of the `tied` candidates whose score equals that at rank k is
        among the top k with probability (k - ahead) / tied.
    """
    top = scores.topk(min(max(ks), scores.shape[1]), dim=1).values  # best first
    rows = []
    for k in ks:
        places = min(k, scores.shape[1])
        edge = top[:, places - 1 : places]
        above, equal = scores > edge, scores == edge
        counted = (above, above & relevant, equal, equal & relevant)
        ahead, ahead_relevant, tied, tied_relevant = (mask.sum(dim=1).double() for mask in counted)
        # only one division, so that the result is exactly relevant / C if all candidates tie
        rows.append((ahead_relevant * tied + (places - ahead) * tied_relevant) / (tied * places))
    return torch.stack(rows)


def tie_counts(scores: Tensor, relevant: Tensor) -> Tensor:
    """Count what the module docstring describes: (4, Q) int64 of ahead, tied, tied_relevant, relevant.

    scores: (Q, C) float; relevant: (Q, C) bool, both from `compare`.
    """
    best = torch.where(relevant, scores, -torch.inf).amax(dim=1, keepdim=True)
    equal = scores == best
    counted = (scores > best, equal, equal & relevant, relevant)
    # int32 sums of booleans are three times as fast as the int64 default
    return torch.stack([mask.sum(dim=1, dtype=torch.int32) for mask in counted]).long()


def top_candidates(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k candidates with the highest dot products per query; ties keep the order of the candidates.

    queries: (Q, D); candidates: (C, D) float. k is clamped to C.
    Returns: indices (Q, k) int64 and scores (Q, k) float32, best first.
    Raises: RetrievalError for k below 1, NonFiniteEmbeddingError for NaN or infinity.
    """
    if k < 1:
        raise RetrievalError(f"k: got {k}; wanted at least 1")
    _check_finite(queries, "query")
    _check_finite(candidates, "candidate")
    scores = (queries.cpu().double() @ candidates.cpu().double().T).float()
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]
    return order, scores.gather(1, order)


def exact_scale(embeddings: Tensor, side: str) -> Tensor:
    """Convert rows to float64 on the CPU, scaled by a power of two so that products fit into float32.

    All rows have the same factor, and scaling by a power of two is exact, so no ranking changes.
    side: how an error names the rows. Raises: NonFiniteEmbeddingError for NaN or infinity.
    """
    _check_finite(embeddings, side)
    rows = embeddings.detach().to("cpu", torch.float64)
    largest = rows.abs().max()
    return torch.ldexp(rows, -torch.frexp(largest).exponent) if largest > 0 else rows


def _check_finite(embeddings: Tensor, side: str) -> None:
    bad = torch.nonzero(~torch.isfinite(embeddings).all(dim=1)).flatten().tolist()
    if bad:
        raise NonFiniteEmbeddingError(side, bad, len(embeddings))
