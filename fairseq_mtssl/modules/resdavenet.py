"""ResDAVEnet: a residual convolutional network over speech frames (Hsu et al. 2019, arXiv 1909.08782)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import Length, padding_mask
from fairseq_mtssl.modules.frame_batch_norm import FrameBatchNorm


def output_lengths(lengths: Length, strides: Sequence[int]) -> Length:
    """Frames left after each stage: ceil(T / stride), stage after stage.

    Exact for odd kernels padded by kernel // 2 and for the unpadded 1×1 shortcut.
    lengths: an int or (B,) int; a length of 0 stays 0.
    """
    for stride in strides:
        lengths = (lengths + (stride - 1)) // stride
    return lengths


def zero_padding(x: Tensor, keep: Tensor | None) -> Tensor:
    """Set padded frames of (B, C, T), which are finite, to 0; unchanged without a mask."""
    return x if keep is None else x * keep.to(x.dtype)


class ResidualBlock(nn.Module):
    """conv, BN, ReLU, conv, BN, plus the input (1×1 conv + BN where the shape changes), ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        pad = kernel // 2
        self.conv1 = nn.Conv1d(in_channels, channels, kernel, stride, pad, bias=False)
        self.norm1 = FrameBatchNorm(channels)
        self.conv2 = nn.Conv1d(channels, channels, kernel, 1, pad, bias=False)
        self.norm2 = FrameBatchNorm(channels)
        self.shortcut_conv: nn.Conv1d | None = None
        self.shortcut_norm: FrameBatchNorm | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut_conv = nn.Conv1d(in_channels, channels, 1, stride, bias=False)
            self.shortcut_norm = FrameBatchNorm(channels)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """x: (B, C_in, T), zero where padded; keep: (B, 1, ceil(T / stride)), 0 where the output is
        padded and 1 elsewhere, or None."""
        hidden = zero_padding(F.relu(self.norm1(self.conv1(x), keep)), keep)
        hidden = self.norm2(self.conv2(hidden), keep)
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut_conv(x), keep)
        return zero_padding(F.relu(hidden + x), keep)


class ResDavenet(nn.Module):
    """Speech frames to fewer, wider frames: 16 times fewer in the paper's size.

    Linear in_dim → in_channels, BN, ReLU; then one stage per entry of `channels`, each of
    `blocks_per_stage` residual blocks of which the first has the stage's stride.
    31,064,704 parameters in the paper's size.

    masked: padded frames are zeroed before every convolution and batch-norm statistics are taken
        over valid frames only, so that valid output frames do not depend on the amount of padding
        (padded ones are 0). Without it the network sees the padding, as the paper's does.
    Raises: ConfigError for an even kernel or lists that do not fit, all errors at once.
    """

    def __init__(
        self,
        in_dim: int = 768,
        channels: Sequence[int] = (128, 256, 512, 768),
        kernel: int = 9,
        blocks_per_stage: int = 2,
        in_channels: int = 128,
        strides: Sequence[int] = (2, 2, 2, 2),
        masked: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(channels, kernel, blocks_per_stage, strides)
        self.strides = tuple(strides)
        self.masked = masked
        self.input = nn.Linear(in_dim, in_channels)
        self.input_norm = FrameBatchNorm(in_channels)
        stages = []
        width = in_channels
        for stage_width, stride in zip(channels, strides, strict=True):
            blocks = []
            for index in range(blocks_per_stage):
                blocks.append(ResidualBlock(width, stage_width, kernel, stride if index == 0 else 1))
                width = stage_width
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        self.out_dim = width

    def draw_convolutions(self) -> None:
        """Draw every convolution anew from N(0, 2 / (kernel · channels out)).

        As the published code of arXiv 2306.02972. torch's own weights are √6 times smaller where a
        convolution has as many channels out as in.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                fan_out = module.kernel_size[0] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Convolve and subsample.

        frames: (B, T, in_dim); lengths: (B,) int, valid frames, or None when nothing is padded.
        Returns: (B, T', channels[-1]) and its (B,) valid lengths (None for None);
            T' = `output_lengths(T, strides)`.
        """
        keep = self._keep(lengths, frames)
        if keep is not None:  # not by a product: whatever lies in the padding must not get in
            frames = frames.masked_fill(keep.transpose(1, 2) == 0, 0.0)
        x = self.input(frames).transpose(1, 2)  # (B, T, C) -> (B, C, T), channels first until the end
        x = zero_padding(F.relu(self.input_norm(x, keep)), keep)
        for blocks, stride in zip(self.stages, self.strides, strict=True):
            lengths = None if lengths is None else output_lengths(lengths, (stride,))
            keep = self._keep(lengths, frames, output_lengths(x.shape[2], (stride,)))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, keep)
        return x.transpose(1, 2), lengths

    def _keep(self, lengths: Tensor | None, frames: Tensor, size: int | None = None) -> Tensor | None:
        """(B, 1, size) of the type of `frames`, (B, T, ·): 1 at valid frames, 0 at padded ones; size: T."""
        if not self.masked or lengths is None:
            return None
        padded = padding_mask(lengths, frames.shape[1] if size is None else size)
        return (~padded).to(frames.dtype)[:, None]  # (B, T) -> (B, 1, T): the same for every channel


def _check_sizes(channels: Sequence[int], kernel: int, blocks_per_stage: int, strides: Sequence[int]) -> None:
    errors = []
    if kernel < 1 or kernel % 2 == 0:
        errors.append(f"kernel {kernel} is not odd; frame counts need an odd width")
    if len(channels) != len(strides) or not channels:
        errors.append(f"{len(channels)} channels for {len(strides)} strides; give one of each a stage")
    if blocks_per_stage < 1:
        errors.append(f"{blocks_per_stage} blocks a stage; give at least 1")
    if any(stride < 1 for stride in strides):
        errors.append(f"strides {tuple(strides)}: each must be at least 1")
    if errors:
        raise ConfigError("ResDAVEnet", errors)
