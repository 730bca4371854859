"""The VGS speech head: sizes of the paper, padding, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_grounding import count_parameters

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.attention import BertOptions
from fairseq_mtssl.modules.resdavenet import ResDavenetOptions
from fairseq_mtssl.modules.speech_head import VgsSpeechHead

# see test_resdavenet.py: float32 roundings through 17 convolutions, renormalised at each
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def small(masked: bool = True, embed_dim: int | None = None) -> VgsSpeechHead:
    torch.manual_seed(0)
    resdavenet = ResDavenetOptions(in_channels=8, channels=(8, 12, 16, 24), masked=masked)
    return VgsSpeechHead(BertOptions(24, 4, 32, 0.0), resdavenet, embed_dim)


def test_parts_have_the_parameter_counts_of_the_paper() -> None:
    head = VgsSpeechHead()
    assert count_parameters(head.resdavenet) == 31_064_704
    assert count_parameters(head.cls_projection) == 2_361_600
    assert count_parameters(head.layer) == 7_087_872
    assert count_parameters(head.projection) == 590_592
    assert count_parameters(head) == 31_064_704 + 2_361_600 + 7_087_872 + 590_592


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_masked_embedding_does_not_depend_on_padding(training: bool) -> None:
    frames, cls = torch.randn(3, 60, 24), torch.randn(3, 24)
    lengths = torch.tensor([60, 33, 2])
    short = small().train(training)(frames, lengths, cls)
    longer = torch.cat([frames, torch.full((3, 41, 24), 9.0)], dim=1)
    assert torch.allclose(small().train(training)(longer, lengths, cls), short, **CLOSE)


@pytest.mark.parametrize("masked", [True, False])
def test_no_lengths_means_no_padding(masked: bool) -> None:
    frames, cls = torch.randn(3, 60, 24), torch.randn(3, 24)
    with_lengths = small(masked)(frames, torch.full((3,), 60), cls)
    assert torch.allclose(small(masked)(frames, None, cls), with_lengths, **CLOSE)


def test_frames_and_cls_both_reach_the_embedding_and_padding_does_not() -> None:
    frames = torch.randn(2, 60, 24, requires_grad=True)
    cls = torch.randn(2, 24, requires_grad=True)
    head = small()
    head(frames, torch.tensor([60, 33]), cls).square().sum().backward()
    assert frames.grad is not None and cls.grad is not None
    assert cls.grad.any(dim=1).all()
    assert frames.grad[0].any(dim=1).all() and frames.grad[1, :33].any(dim=1).all()
    assert not frames.grad[1, 33:].any()
    assert all(p.grad is not None for p in head.parameters())


def test_embedding_size_can_differ_from_the_frames() -> None:
    out = small(embed_dim=10)(torch.randn(2, 20, 24), None, torch.randn(2, 24))
    assert out.shape == (2, 10)


def test_channels_that_do_not_end_in_the_frame_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="make them equal"):
        VgsSpeechHead(BertOptions(32, 4), ResDavenetOptions(channels=(8, 12, 16, 24)))
