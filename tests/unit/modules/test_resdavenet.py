"""ResDAVEnet: size, frame counts, and independence of padding when masked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_grounding import count_parameters
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.frame_batch_norm import FrameBatchNorm
from fairseq_mtssl.modules.resdavenet import ResDavenet, ResDavenetOptions, output_lengths

# Float32 convolutions block their sums by the padded length. Each of 17 layers, renormalised to
# order 1, adds a few roundings of 6e-8 of sums of up to 288 products: 1e-4 leaves room, and a
# single frame of padding counted anywhere changes outputs by more than 1e-2.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
SMALL: dict[str, Any] = {"channels": (8, 12, 16, 24), "in_channels": 8}


def small(masked: bool, seed: int = 0) -> ResDavenet:
    torch.manual_seed(seed)
    return ResDavenet(16, ResDavenetOptions(**SMALL, masked=masked))


def padded(clips: list[Tensor], size: int, value: float) -> tuple[Tensor, Tensor]:
    """Clips (T_i, C) to (B, size, C) filled up with `value`, and their lengths."""
    batch = torch.full((len(clips), size, clips[0].shape[1]), value)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return batch, torch.tensor([len(clip) for clip in clips])


def test_network_has_the_parameter_count_of_the_paper() -> None:
    assert count_parameters(ResDavenet()) == 31_064_704


def test_masking_adds_no_weights() -> None:
    assert small(True).state_dict().keys() == small(False).state_dict().keys()


@pytest.mark.parametrize(
    ("frames", "left"), [(399, 25), (400, 25), (401, 26), (17, 2), (16, 1), (1, 1), (0, 0)]
)
def test_sixteen_times_fewer_frames_rounded_up(frames: int, left: int) -> None:
    assert output_lengths(frames, (2, 2, 2, 2)) == left == math.ceil(frames / 16)


def test_lengths_of_a_batch_follow_the_same_arithmetic() -> None:
    lengths = torch.arange(0, 70)
    wanted = [output_lengths(n, (2, 3, 1)) for n in range(70)]
    assert output_lengths(lengths, (2, 3, 1)).tolist() == wanted


@pytest.mark.parametrize("strides", [(2, 2, 2, 2), (1, 2, 3, 2)])
@pytest.mark.parametrize("kernel", [3, 9])
def test_the_convolutions_make_as_many_frames_as_the_arithmetic_says(
    strides: tuple[int, ...], kernel: int
) -> None:
    net = ResDavenet(4, ResDavenetOptions(4, (4, 4, 4, 4), kernel, strides, blocks_per_stage=1)).eval()
    for frames in range(1, 40):
        out, lengths = net(torch.randn(1, frames, 4), torch.tensor([frames]))
        assert lengths is not None
        assert out.shape[1] == lengths.item() == output_lengths(frames, strides)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("value", [0.0, 1e3, float("nan")])
def test_masked_output_and_statistics_do_not_depend_on_padding(training: bool, value: float) -> None:
    clips = [torch.randn(n, 16) for n in (53, 48, 17, 1)]
    results = []
    for size, fill in ((53, 0.0), (64, value), (131, value)):
        net = small(True).train(training)
        batch, lengths = padded(clips, size, fill)
        out, out_lengths = net(batch, lengths)
        valid = torch.cat([row[:n] for row, n in zip(out, out_lengths, strict=True)])
        statistics = torch.cat([b.flatten().float() for b in net.buffers()])
        results.append((valid, statistics))
        for row, n in zip(out, out_lengths, strict=True):
            assert not row[n:].any()
    for valid, statistics in results[1:]:
        assert torch.allclose(valid, results[0][0], **CLOSE)
        assert torch.allclose(statistics, results[0][1], **CLOSE)


def test_masked_rows_of_a_batch_equal_the_clip_alone_in_eval() -> None:
    net = small(True).eval()
    clips = [torch.randn(n, 16) for n in (53, 30, 5)]
    out, lengths = net(*padded(clips, 60, 7.0))
    for row, n, clip in zip(out, lengths, clips, strict=True):
        alone, _ = net(clip[None], None)
        assert torch.allclose(row[:n], alone[0], **CLOSE)


def test_padding_gets_no_gradient_when_masked() -> None:
    frames = torch.randn(2, 50, 16, requires_grad=True)
    out, lengths = small(True)(frames, torch.tensor([50, 21]))
    out.square().sum().backward()
    assert frames.grad is not None
    assert not frames.grad[1, 21:].any()
    assert frames.grad[1, :21].any(dim=1).all()


def test_whatever_lies_in_the_padding_leaves_every_weight_a_finite_gradient() -> None:
    net = small(True)
    out, _ = net(*padded([torch.randn(50, 16), torch.randn(21, 16)], 50, float("nan")))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_full_clips_give_the_same_masked_or_not(training: bool) -> None:
    frames, lengths = torch.randn(3, 40, 16), torch.full((3,), 40)
    masked, _ = small(True).train(training)(frames, lengths)
    plain, plain_lengths = small(False).train(training)(frames, lengths)
    no_lengths, none = small(True).train(training)(frames, None)
    assert none is None
    assert plain_lengths.tolist() == [3, 3, 3]
    assert torch.allclose(masked, plain, **CLOSE)
    assert torch.allclose(no_lengths, plain, **CLOSE)


def test_the_papers_network_sees_padding_but_counts_frames_right() -> None:
    clip = torch.randn(21, 16)
    net = small(False).eval()
    short, _ = net(clip[None], torch.tensor([21]))
    long, lengths = net(*padded([clip], 80, 1.0))
    assert lengths.tolist() == [2]
    assert not torch.allclose(long[:, :2], short, **CLOSE)


@pytest.mark.parametrize("masked", [True, False])
def test_a_batch_of_a_single_frame_trains_on_the_running_statistics(masked: bool) -> None:
    net = small(masked).train()
    before = [buffer.clone() for buffer in net.buffers()]
    frames = torch.randn(1, 1, 16)
    out, _ = net(frames, torch.tensor([1]))
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    assert torch.allclose(out, net.eval()(frames, torch.tensor([1]))[0], **CLOSE)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_clip_without_frames_leaves_the_others_alone_when_masked() -> None:
    torch.manual_seed(1)
    # long enough that no statistics are those of two frames, which turn roundings into large differences
    frames = torch.randn(2, 150, 16)
    together, lengths = small(True)(frames, torch.tensor([150, 0]))
    alone, _ = small(True)(frames[:1], torch.tensor([150]))
    assert lengths.tolist() == [10, 0]
    assert torch.allclose(together[:1], alone, **CLOSE)


def test_masked_batch_norm_is_torchs_over_the_valid_frames_alone() -> None:
    torch.manual_seed(0)
    ours, theirs = FrameBatchNorm(6), nn.BatchNorm1d(6)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    lengths = torch.tensor([9, 4, 1])
    padding = torch.arange(9) >= lengths[:, None]
    frames = (3 + 2 * torch.randn(3, 6, 9)).requires_grad_()
    upstream = torch.randn(14, 6)
    normed = ours(frames, (~padding).float()[:, None])
    got = normed.transpose(1, 2)[~padding]  # (B, C, T) -> (M, C): valid frames
    (slope,) = torch.autograd.grad(got, frames, upstream)
    wanted = theirs(frames.transpose(1, 2)[~padding])
    (wanted_slope,) = torch.autograd.grad(wanted, frames, upstream)
    tight: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # one layer, 14 frames: float32 roundings only
    assert torch.allclose(got, wanted, **tight)
    assert torch.allclose(slope, wanted_slope, **tight)
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], **tight), name


def test_masked_batch_norm_keeps_half_precision_finite_and_in_its_dtype() -> None:
    net = small(True).to(torch.bfloat16)
    out, _ = net(300 * torch.randn(2, 40, 16).to(torch.bfloat16), torch.tensor([40, 11]))
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_impossible_sizes_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ResDavenet(16, ResDavenetOptions(8, (8, 8), 4, (2, 0, 2), blocks_per_stage=0))
    assert len(caught.value.errors) == 4
