"""Lengths of convolution stacks against real convolutions."""

from __future__ import annotations

import pytest
import torch

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import (
    conv_length,
    frame_rate_hz,
    hop_samples,
    min_samples,
    padding_mask,
    parse_conv_layers,
)

WAV2VEC2 = parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")


@pytest.mark.parametrize("samples", [400, 401, 719, 720, 1000, 5555])
def test_lengths_equal_those_of_real_convolutions(samples: int) -> None:
    x = torch.zeros(1, 1, samples)
    for _, kernel, stride in WAV2VEC2:
        x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride)
    assert conv_length(samples, WAV2VEC2) == x.size(-1)


@pytest.mark.parametrize("samples", [400, 401, 559, 560, 719, 720, 1039, 1040, 5555])
def test_lengths_equal_those_of_real_convolutions_with_padding(samples: int) -> None:
    """Log-mel windows followed by centred convolutions: one frame per 640 samples."""
    layers = parse_conv_layers("[(80,400,160)] + [(512,5,2,2)] * 2")
    x = torch.zeros(1, 1, samples)
    for _, kernel, stride, *padding in layers:
        x = torch.nn.functional.conv1d(x, torch.zeros(1, 1, kernel), stride=stride, padding=sum(padding))
    assert conv_length(samples, layers) == x.size(-1) == (samples - 400) // 640 + 1
    assert conv_length(torch.tensor([0, 399, samples]), layers).tolist() == [0, 0, x.size(-1)]
    assert (min_samples(layers), hop_samples(layers), frame_rate_hz(layers)) == (400, 640, 25.0)


def test_a_clip_shorter_than_the_receptive_field_has_no_frame() -> None:
    assert min_samples(WAV2VEC2) == 400
    assert conv_length(torch.tensor([0, 1, 399, 400, 16000]), WAV2VEC2).tolist() == [0, 0, 0, 1, 49]


def test_the_wav2vec2_stack_gives_50_frames_a_second() -> None:
    assert hop_samples(WAV2VEC2) == 320
    assert frame_rate_hz(WAV2VEC2) == 50.0


@pytest.mark.parametrize(
    "text",
    [
        *("", "512", "[(512,10)]", "[(512,10,0)]", "__import__('os').getcwd()", "[1, 2]", "[]"),
        *("[(512,5,2,-1)]", "[(512,4,2,2)]", "[(512,5,2,2,0)]"),
    ],
)
def test_anything_but_a_list_of_convolutions_is_refused_and_never_executed(text: str) -> None:
    with pytest.raises(ConfigError, match="conv_feature_layers"):
        parse_conv_layers(text)


def test_padding_is_everything_past_the_length() -> None:
    assert padding_mask(torch.tensor([1, 3]), 3).tolist() == [[False, True, True], [False, False, False]]
