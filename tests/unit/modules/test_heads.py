"""Label heads, and the accuracy of the regression."""

from __future__ import annotations

import pytest
import torch

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.heads import build_label_head, identified


def test_cosine_logits_are_cosines_over_the_temperature() -> None:
    torch.manual_seed(0)
    head = build_label_head("cosine", 6, 9, 4, 0.1)
    frames = torch.randn(5, 6)
    expected = (
        torch.cosine_similarity(head.final_proj(frames)[:, None], head.label_embs_concat[None], dim=-1) / 0.1
    )
    torch.testing.assert_close(head(frames), expected, atol=1e-5, rtol=1e-5)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear or cosine"):
        build_label_head("mlp", 6, 9, 4, 0.1)


def test_a_prediction_is_right_when_its_own_target_is_the_nearest_of_its_row() -> None:
    targets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [9.0, 9.0], [0.0, 0.0]])
    rows = torch.tensor([0, 0, 0, 1, 1])
    assert int(identified(targets, targets, rows)) == 5
    assert int(identified(targets + 0.4, targets, rows)) == 5
    moved = targets.clone()
    moved[0] = torch.tensor([0.8, 0.0])  # nearer to the next one's
    assert int(identified(moved, targets, rows)) == 4


def test_a_constant_prediction_is_right_for_at_most_one_frame_of_a_row() -> None:
    torch.manual_seed(0)
    targets = torch.randn(30, 4)
    rows = torch.arange(30) // 10
    assert int(identified(torch.zeros(30, 4), targets, rows)) == 3
    same = torch.zeros(30, 4)
    assert int(identified(same, same, rows)) == 0
