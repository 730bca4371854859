"""Frame distances against one pair at a time; zero frames, equal frames, and refused input."""

from __future__ import annotations

import abx_cases
import numpy as np
import pytest
import torch
from oracles import abx_oracle

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.frame_distance import frame_distance


@pytest.mark.parametrize(
    ("kind", "distance"),
    [
        ("normal", "angular"),
        ("zeros", "angular"),
        ("normal", "euclidean"),
        ("probabilities", "kl"),
        ("units",) * 2,
    ],
)
def test_every_pair_equals_one_at_a_time(kind: str, distance: str) -> None:
    frames = abx_cases.make_features(kind, 30, 5, np.random.default_rng(0))
    rows, columns = torch.arange(12), torch.arange(5, 30)
    found = frame_distance(torch.from_numpy(frames), distance)(rows, columns)
    slow = getattr(abx_oracle, distance)
    wanted = [[slow(frames[i], frames[j]) for j in columns] for i in rows]
    # float32 of numbers of order 1; cosines are rounded to float32, too
    torch.testing.assert_close(found, torch.tensor(wanted), atol=2e-6, rtol=2e-6)


def test_a_zero_frame_is_at_1_from_others_and_at_0_from_another() -> None:
    frames = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-1e-20, 0.0], [0.0, 3.0]])
    every = torch.arange(5)
    wanted = [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 0.5], [1, 1, 1, 0, 0.5], [1, 1, 0.5, 0.5, 0]]
    torch.testing.assert_close(frame_distance(frames, "angular")(every, every), torch.tensor(wanted).float())


@pytest.mark.parametrize("distance", ["angular", "euclidean", "kl"])
def test_equal_frames_have_equal_distances_at_every_position(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    two = torch.randn(2, 77, generator=generator).softmax(1)
    frames = two[torch.arange(200) % 2]
    found = frame_distance(frames, distance)(torch.arange(131), torch.arange(200))
    assert len(found.unique()) == 2 and found.min() == 0
    assert bool((found[0, ::2] == 0).all())


def test_half_precision_is_accepted() -> None:
    frames = torch.eye(3, dtype=torch.float16)
    found = frame_distance(frames, "angular")(torch.arange(3), torch.arange(3))
    torch.testing.assert_close(found, 0.5 * (1 - torch.eye(3)))


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 frames hold NaN or infinity"):
        frame_distance(torch.tensor([[1.0], [torch.inf]]), "euclidean")
    with pytest.raises(ConfigError, match="wanted probabilities"):
        frame_distance(torch.tensor([[0.5, 0.6]]), "kl")
    with pytest.raises(ConfigError, match="wanted one of angular"):
        frame_distance(torch.ones(1, 1), "cosine")
