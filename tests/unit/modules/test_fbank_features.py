"""The filterbank feature extractor: where its frames lie, what it normalises, what padding does to it."""

from __future__ import annotations

import pytest
import torch

from fairseq_mtssl.frames import conv_length, parse_conv_layers
from fairseq_mtssl.modules import fbank_features
from fairseq_mtssl.modules.fbank_features import EXAMPLE, FbankFeatures, fbank_errors, normalise

LAYERS = parse_conv_layers("[(80,400,160)] + [(12,5,2,2)] * 2")


def build(bias: bool = True) -> FbankFeatures:
    torch.manual_seed(0)
    return FbankFeatures(LAYERS, conv_bias=bias)


def batch(*lengths: int, width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    sizes = torch.tensor(lengths)
    source = torch.randn(len(lengths), max(*lengths, width))
    source[torch.arange(source.size(1)) >= sizes[:, None]] = 0
    return source, sizes


@pytest.mark.parametrize("bias", [True, False])
def test_a_clip_has_the_same_features_in_any_batch_and_zeros_past_its_end(bias: bool) -> None:
    module = build(bias).eval()
    lengths = (9_000, 6_400, 400, 5_000)
    source, sizes = batch(*lengths, width=12_000)
    found = module(source, sizes)
    assert found.shape == (4, 12, conv_length(12_000, LAYERS))
    for row, size in enumerate(lengths):
        frames = conv_length(size, LAYERS)
        alone = module(source[row : row + 1, :size], sizes[row : row + 1])
        assert alone.shape == (1, 12, frames)
        torch.testing.assert_close(found[row, :, :frames], alone[0], atol=1e-5, rtol=1e-5)
        assert found[row, :, frames:].eq(0).all()


def test_a_frame_is_centred_on_the_window_of_every_fourth_label_of_100_hz(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two kernels of 5 see 13 windows: frame i sees samples 640 i − 960 … 640 i + 1359, about 640 i + 200."""
    monkeypatch.setattr(fbank_features, "normalise", lambda energies, frames: energies)
    module = build()
    source, sizes = batch(12_000)
    frame, first, last = 5, 640 * 5 - 960, 640 * 5 + 1360
    wanted = module(source, sizes)[0, :, frame]
    outside, before, after = source.clone(), source.clone(), source.clone()
    outside[0, :first] += 1
    outside[0, last:] += 1
    before[0, first : first + 160] *= 3
    after[0, last - 160 : last] *= 3
    torch.testing.assert_close(module(outside, sizes)[0, :, frame], wanted, atol=1e-4, rtol=1e-4)
    for changed in (before, after):
        assert (module(changed, sizes)[0, :, frame] - wanted).abs().max() > 1e-2


def test_each_bin_has_mean_0_and_variance_1_over_the_frames_of_its_own_row() -> None:
    torch.manual_seed(0)
    energies = 5 * torch.randn(2, 50, 4) + torch.arange(4.0)
    found = normalise(energies, torch.tensor([50, 20]))
    for row, count in enumerate((50, 20)):
        torch.testing.assert_close(found[row, :count].mean(0), torch.zeros(4), atol=1e-5, rtol=0)
        # 1e-3 is added to a variance of 25
        spread = found[row, :count].var(0, unbiased=False)
        torch.testing.assert_close(spread, torch.ones(4), atol=1e-3, rtol=0)
        assert found[row, count:].eq(0).all()


def test_gain_changes_nothing_and_silence_and_a_single_frame_are_finite() -> None:
    module = build()
    source, sizes = batch(9_000)
    torch.testing.assert_close(module(4 * source, sizes), module(source, sizes), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(module(torch.zeros(1, 5_000), torch.tensor([5_000]))).all()
    assert torch.isfinite(module(source[:, :400], torch.tensor([400]))).all()


def test_every_weight_is_trained() -> None:
    module = build()
    source, sizes = batch(9_000, 6_400)
    module(source, sizes).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())


@pytest.mark.parametrize(
    "text",
    [
        "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "[(80,400,160)]",
        "[(80,400,320)] + [(512,5,2,2)] * 2",
        "[(80,400,160,1)] + [(512,5,2,2)] * 2",
        "[(80,400,160)] + [(512,5,2)] * 2",
        "[(80,400,160)] + [(512,5,2,1)] * 2",
    ],
)
def test_layers_that_are_no_centred_convolutions_over_windows_are_told(text: str) -> None:
    (error,) = fbank_errors(parse_conv_layers(text))
    assert "feature_extractor=fbank" in error and EXAMPLE in error
    assert fbank_errors(parse_conv_layers(EXAMPLE)) == []
