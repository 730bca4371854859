"""Expectations over ties against hand arithmetic and against random orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairseq_mtssl.errors import NonFiniteEmbeddingError, RetrievalError
from fairseq_mtssl.evaluation.ranking import expected_rank, hit_probability, top_candidates


def row(*numbers: int) -> np.ndarray:
    return np.array(numbers)


def test_without_ties_the_rank_is_one_plus_the_number_ahead() -> None:
    assert expected_rank(row(0, 4), row(1, 1), row(1, 1)).tolist() == [1.0, 5.0]


def test_one_relevant_among_tied_candidates_takes_their_mean_rank() -> None:
    # 3 ahead, then 4 tied in places 4..7: the mean place is 5.5 = 1 + 3 + 3/2
    assert expected_rank(row(3), row(4), row(1)).tolist() == [5.5]


def test_the_first_of_several_relevant_tied_candidates_has_a_lower_rank() -> None:
    # 2 relevant of 3 tied: first at place 1 with 2/3, at place 2 with 1/3: 4/3
    assert expected_rank(row(0), row(3), row(2)).tolist() == pytest.approx([4 / 3])


def test_hit_probability_by_hand() -> None:
    # 1 ahead, 4 tied of which 2 relevant; k = 3 leaves 2 places: a miss is (2/4)(1/3) = 1/6
    assert hit_probability(3, row(1), row(4), row(2)) == pytest.approx([5 / 6])
    # k covers only the candidates ahead
    assert hit_probability(1, row(1), row(4), row(2)).tolist() == [0.0]
    # k covers all of the tied candidates
    assert hit_probability(5, row(1), row(4), row(2)).tolist() == [1.0]
    # 3 irrelevant candidates cannot fill 4 places
    assert hit_probability(4, row(0), row(5), row(2)).tolist() == [1.0]


def test_hit_probability_and_rank_agree_with_drawn_orders() -> None:
    generator = np.random.default_rng(0)
    ahead, tied, relevant, k, draws = 2, 9, 3, 5, 40_000
    orders = generator.permuted(np.tile(np.arange(tied), (draws, 1)), axis=1)
    first = (orders < relevant).argmax(axis=1) + 1 + ahead
    # 40k draws: standard errors 0.0025 and about 0.008; four of them
    assert hit_probability(k, row(ahead), row(tied), row(relevant))[0] == pytest.approx(
        (first <= k).mean(), abs=0.01
    )
    assert expected_rank(row(ahead), row(tied), row(relevant))[0] == pytest.approx(first.mean(), abs=0.03)


def test_top_candidates_come_best_first_and_ties_keep_their_order() -> None:
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[1.0, 9.0], [3.0, 0.0], [1.0, 5.0], [2.0, 0.0]])
    order, scores = top_candidates(queries, candidates, 10)
    assert order.tolist() == [[1, 3, 0, 2]]
    assert scores.tolist() == [[3.0, 2.0, 1.0, 1.0]]
    assert top_candidates(queries, candidates, 2)[0].tolist() == [[1, 3]]


def test_top_candidates_refuse_nan_and_k_zero() -> None:
    good = torch.ones(1, 2)
    with pytest.raises(NonFiniteEmbeddingError, match="candidate embeddings: 1 of 2 rows"):
        top_candidates(good, torch.tensor([[1.0, 1.0], [1.0, float("nan")]]), 1)
    with pytest.raises(RetrievalError, match="at least 1"):
        top_candidates(good, good, 0)
