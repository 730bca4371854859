"""DTW of batches against one pair at a time and hand arithmetic, and its ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import abx_oracle

from fairseq_mtssl.evaluation import dtw as module
from fairseq_mtssl.evaluation.dtw import dtw


def batch(matrices: list[np.ndarray]) -> list[float]:
    """Put matrices side by side in one buffer, so that the rows of a matrix are not contiguous."""
    tall, wide = max(len(matrix) for matrix in matrices), sum(matrix.shape[1] for matrix in matrices)
    buffer = torch.full((tall, wide), 1e9)
    starts, column = [], 0
    for matrix in matrices:
        buffer[: len(matrix), column : column + matrix.shape[1]] = torch.from_numpy(matrix.astype(np.float32))
        starts.append(column)
        column += matrix.shape[1]
    shapes = torch.tensor([matrix.shape for matrix in matrices])
    starts_and_strides = torch.tensor(starts), torch.full((len(matrices),), wide)
    return dtw(buffer.reshape(-1), *starts_and_strides, shapes[:, 0], shapes[:, 1]).tolist()


def random_matrices(count: int, values: int | None) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 12, size=(count, 2))
    if values is None:
        return [rng.random(tuple(shape)).astype(np.float32) for shape in shapes]
    return [rng.integers(values, size=tuple(shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("values", [None, 2, 3])  # few distinct values give many ties
def test_pairs_of_all_sizes_equal_one_at_a_time(values: int | None) -> None:
    matrices = random_matrices(150, values)
    # equal to the bit, since both add in the same order
    assert batch(matrices) == [abx_oracle.dtw(each) for each in matrices]


def test_matrices_compared_one_at_a_time_have_the_distances_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices = random_matrices(60, None)
    wanted = batch(matrices)
    monkeypatch.setattr(module, "BATCH_CELLS", 1)
    assert batch(matrices) == wanted


def test_the_mean_distance_of_the_best_path_is_that_worked_out_by_hand() -> None:
    # one frame against three: the path has length 3, (1 + 2 + 6) / 3
    assert batch([np.array([[1.0, 2.0, 6.0]])]) == [3.0]
    # the path is the diagonal, (1 + 0 + 1) / 3
    assert batch([np.array([[1.0, 5, 5], [5, 0, 5], [5, 5, 1]])]) == [pytest.approx(2 / 3)]
    # if all distances are 0, the length of the path does not matter
    assert batch([np.zeros((2, 3))]) == [0.0]


def test_a_tie_of_left_and_up_goes_left() -> None:
    # both ways around the corner cost 1, but their lengths differ, so that the result shows which was taken
    distances = np.array([[0.0, 0, 0], [9, 9, 0], [0, 9, 1]])
    assert batch([distances]) == [abx_oracle.dtw(distances)]
    tied = np.array([[0.0, 2, 1], [0, 2, 2], [1, 1, 0]])
    assert batch([tied, tied.T]) == [abx_oracle.dtw(tied), abx_oracle.dtw(tied.T)]


def test_no_pairs_give_none() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert dtw(torch.zeros(3), nothing, nothing, nothing, nothing).shape == (0,)
