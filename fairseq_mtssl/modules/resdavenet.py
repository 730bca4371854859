"""ResDAVEnet: a residual convolutional network over speech frames (Hsu et al. 2019, arXiv 1909.08782)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import Length, padding_mask
from fairseq_mtssl.modules.frame_batch_norm import FrameBatchNorm


def output_lengths(lengths: Length, strides: Sequence[int]) -> Length:
    """Return the numbers of frames after all stages, each of which makes ceil(T / stride) of T frames.

    This is exact for odd kernels padded by kernel // 2 and for the 1×1 shortcut without padding.
    lengths: an int or (B,) int; a length of 0 stays 0.
    """
    for stride in strides:
        lengths = (lengths + (stride - 1)) // stride
    return lengths


def zero_padding(x: Tensor, keep: Tensor | None) -> Tensor:
    """Set padded frames of (B, C, T), which are finite, to 0; unchanged without a mask."""
    return x if keep is None else x * keep.to(x.dtype)


class ResidualBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the input (after a 1×1 conv and BN if its shape differs), ReLU."""

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
        """Compute the block: (B, C_in, T), zero at padding -> (B, C, ceil(T / stride)).

        keep: (B, 1, ceil(T / stride)), 0 where the output is padding and 1 elsewhere, or None.
        """
        hidden = zero_padding(F.relu(self.norm1(self.conv1(x), keep)), keep)
        hidden = self.norm2(self.conv2(hidden), keep)
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut_conv(x), keep)
        return zero_padding(F.relu(hidden + x), keep)


@dataclass(frozen=True)
class ResDavenetOptions:
    """The options of ResDAVEnet; the defaults are those of the paper.

    in_channels: channels before the first stage; channels, strides: of each stage; kernel: width of the
    convolutions in frames, odd; blocks_per_stage: number of residual blocks.
    masked: padded frames are zeroed before every convolution and batch-norm statistics are taken over valid
        frames only, so that valid output frames do not depend on the amount of padding (padded ones are 0).
        False: the network sees the padding, as that of the paper does.
    """

    in_channels: int = 128
    channels: Sequence[int] = (128, 256, 512, 768)
    kernel: int = 9
    strides: Sequence[int] = (2, 2, 2, 2)
    blocks_per_stage: int = 2
    masked: bool = False

    def errors(self) -> list[str]:
        """Return the errors in the options."""
        errors = []
        channels, strides = self.channels, self.strides
        if self.kernel < 1 or self.kernel % 2 == 0:
            errors.append(f"kernel {self.kernel} is not odd; frame counts need an odd width")
        if len(channels) != len(strides) or not channels:
            errors.append(f"{len(channels)} channels for {len(strides)} strides; give one of each per stage")
        if self.blocks_per_stage < 1:
            errors.append(f"{self.blocks_per_stage} blocks per stage; give at least 1")
        if any(stride < 1 for stride in strides):
            errors.append(f"strides {tuple(strides)}: each must be at least 1")
        return errors


class ResDavenet(nn.Module):
    """Turns speech frames into fewer, wider frames; in the paper's size into a sixteenth of their number.

    A linear layer, a batch norm and a ReLU are followed by the stages, in each of which the first residual
    block has the stride of the stage. In the paper's size there are 31,064,704 parameters.

    in_dim: width of the frames. Raises: ConfigError naming every error of the options.
    """

    def __init__(self, in_dim: int = 768, options: ResDavenetOptions | None = None) -> None:
        super().__init__()
        options = options or ResDavenetOptions()
        if options.errors():
            raise ConfigError("ResDAVEnet", options.errors())
        self.strides = tuple(options.strides)
        self.masked = options.masked
        self.input = nn.Linear(in_dim, options.in_channels)
        self.input_norm = FrameBatchNorm(options.in_channels)
        stages = []
        width = options.in_channels
        for stage_width, stride in zip(options.channels, options.strides, strict=True):
            blocks = []
            for index in range(options.blocks_per_stage):
                blocks.append(ResidualBlock(width, stage_width, options.kernel, stride if index == 0 else 1))
                width = stage_width
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)

    def draw_convolutions(self) -> None:
        """Draw the weights of all convolutions anew from N(0, 2 / (kernel · channels out)).

        The published code of arXiv 2306.02972 does so. torch's own weights are √6 times smaller in a
        convolution with as many channels out as in.
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
        if keep is not None:  # not by a product, since padding may hold NaN or infinity
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
        """Return (B, 1, size), 1 at valid frames and 0 at padding, or None; of the type of frames, (B, T, ·).

        size: frames of the padded batch; None: T.
        """
        if not self.masked or lengths is None:
            return None
        padded = padding_mask(lengths, frames.shape[1] if size is None else size)
        return (~padded).to(frames.dtype)[:, None]  # (B, T) -> (B, 1, T): the same for every channel
