"""A small residual network over pixels, trained from scratch."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, List

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.image_encoders.base import ImageEncoder, TransformerOptions, register_image_encoder
from fairseq_mtssl.image_encoders.pixels import GridEncoder, PixelNorm


class ResidualBlock2d(nn.Module):
    """Two 3×3 convolutions with group norms, the first with a stride, and a 1×1 convolution as shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = _group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = _group_norm(channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride, bias=False), _group_norm(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block: (M, C_in, H, W) -> (M, C, ceil(H / stride), ceil(W / stride))."""
        hidden = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(hidden + self.shortcut(x))


@dataclass
class CnnOptions(TransformerOptions):
    image_channels: List[int] = field(
        default_factory=lambda: [24, 48, 96], metadata={"help": "channels of the convolutions (cnn)"}
    )
    image_grid: int = field(default=4, metadata={"help": "side of the grid of cells made of an image (cnn)"})


@register_image_encoder("cnn")
class CnnImageEncoder(ImageEncoder):
    """A small residual network whose features, arranged in a grid, go through BERT layers.

    The network has a stem of stride 2 and one block of stride 2 for each of `image_channels`. Images of
    grid · 2^(1 + blocks) pixels, 64 by default, give the grid exactly; the features of others are
    average-pooled to it. Its norms are group norms, so that an embedding never depends on the other images of
    the batch. With 2 layers of 128 dimensions it has 0.5 M parameters.
    """

    Options = CnnOptions

    def __init__(self, options: CnnOptions) -> None:
        super().__init__(options)
        channels, self.grid = options.image_channels, options.image_grid
        self.pixels = PixelNorm(name="image encoder cnn")
        stem = (nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), _group_norm(channels[0]), nn.ReLU())
        widths = [channels[0], *channels]
        blocks = (ResidualBlock2d(width_in, width, 2) for width_in, width in pairwise(widths))
        self.convolutions = nn.Sequential(*stem, *blocks)
        self.cells = nn.Linear(channels[-1], options.encoder_embed_dim)
        self.tokens = GridEncoder(self.grid, options)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: (M, 3, H, W) uint8 -> (M, D), not normalised."""
        features = self.convolutions(self.pixels(images))
        if tuple(features.shape[2:]) != (self.grid, self.grid):
            features = F.adaptive_avg_pool2d(features, self.grid)
        cells = features.flatten(2).transpose(1, 2)  # (M, C, G, G) -> (M, G·G, C)
        return self.tokens(self.cells(cells))

    @classmethod
    def config_errors(cls, options: Any) -> List[str]:
        channels, grid = list(options.image_channels), options.image_grid
        if channels and grid >= 1:
            return []
        return [f"image_channels {channels} and image_grid {grid}: wanted at least one block and one cell"]


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of up to 8 groups, a number that divides the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)
