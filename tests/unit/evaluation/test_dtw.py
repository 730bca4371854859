"""DTW of batches against one pair at a time, by hand, and its ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import abx_oracle

from fairseq_mtssl.evaluation import dtw as module
from fairseq_mtssl.evaluation.dtw import dtw


def batch(matrices: list[np.ndarray]) -> list[float]:
    """Matrices side by side in one buffer, so that no row of one is followed by its next."""
    tall, wide = max(len(each) for each in matrices), sum(each.shape[1] for each in matrices)
    buffer = torch.full((tall, wide), 1e9)
    starts, column = [], 0
    for each in matrices:
        buffer[: len(each), column : column + each.shape[1]] = torch.from_numpy(each.astype(np.float32))
        starts.append(column)
        column += each.shape[1]
    shapes = torch.tensor([each.shape for each in matrices])
    starts_and_strides = torch.tensor(starts), torch.full((len(matrices),), wide)
    return dtw(buffer.reshape(-1), *starts_and_strides, shapes[:, 0], shapes[:, 1]).tolist()


def random_matrices(count: int, values: int | None) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 12, size=(count, 2))
    if values is None:
        return [rng.random(tuple(shape)).astype(np.float32) for shape in shapes]
    return [rng.integers(values, size=tuple(shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("values", [None, 2, 3])  # few values: ties all over the paths
def test_pairs_of_all_sizes_equal_one_at_a_time(values: int | None) -> None:
    matrices = random_matrices(150, values)
    # bit for bit: the same sums in the same order
    assert batch(matrices) == [abx_oracle.dtw(each) for each in matrices]


def test_small_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = random_matrices(60, None)
    wanted = batch(matrices)
    monkeypatch.setattr(module, "BATCH_CELLS", 1)
    assert batch(matrices) == wanted


def test_by_hand() -> None:
    # one frame against three: the whole row, a path of three
    assert batch([np.array([[1.0, 2.0, 6.0]])]) == [3.0]
    # the diagonal 1 + 0 + 1 in three steps
    assert batch([np.array([[1.0, 5, 5], [5, 0, 5], [5, 5, 1]])]) == [pytest.approx(2 / 3)]
    # all 0: diagonals are preferred, then left, and the length does not matter
    assert batch([np.zeros((2, 3))]) == [0.0]


def test_a_tie_of_left_and_up_goes_left() -> None:
    # both detours around the corner cost 1; left then up … the order of rows and columns shows in the length
    distances = np.array([[0.0, 0, 0], [9, 9, 0], [0, 9, 1]])
    assert batch([distances]) == [abx_oracle.dtw(distances)]
    tied = np.array([[0.0, 2, 1], [0, 2, 2], [1, 1, 0]])
    assert batch([tied, tied.T]) == [abx_oracle.dtw(tied), abx_oracle.dtw(tied.T)]


def test_no_pairs_give_none() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert dtw(torch.zeros(3), nothing, nothing, nothing, nothing).shape == (0,)
