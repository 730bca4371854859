"""Image embeddings from pixels: a small residual network or ViT patches, both trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError, ImageError
from fairseq_mtssl.modules.attention import ClsEncoder, ClsProjection, init_bert

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of the order of the features they are added to: with ViT's 0.02 the layout of two objects took
# 250 updates or more to learn instead of 30 to 60 (see test_image_encoder.py).
POSITION_STD = 0.3


class PixelNorm(nn.Module):
    """uint8 RGB (M, 3, H, W) → zero mean, unit variance by channel, in the dtype of the model.

    mean, std: of pixels scaled to [0, 1]. Nothing enters the state dict.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        name: str = "image encoder",
    ) -> None:
        super().__init__()
        self.name = name
        means, stds = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / (255 * stds), persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(M, 3, H, W) uint8 -> same shape, float. Raises: ImageError for anything else."""
        if (
            not isinstance(images, Tensor)
            or images.dtype != torch.uint8
            or images.dim() != 4
            or images.shape[1] != 3
        ):
            got = (
                f"{images.dtype} {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            hint = (
                "Raw-image encoders take uint8 RGB pixels (M, 3, H, W); for region features choose `regions`."
            )
            raise ImageError(self.name, f"got {got}", hint)
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)


class GridEncoder(nn.Module):
    """A grid of features with learned positions → CLS over BERT layers → image embedding.

    Positions keep the layout, so that "a red circle left of a blue star" can be told from its mirror.
    """

    def __init__(
        self,
        grid: int,
        dim: int,
        embed_dim: int | None,
        layers: int,
        heads: int,
        ffn_dim: int,
        dropout: float,
        projection_dim: int | None,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(grid * grid, dim))
        nn.init.normal_(self.positions, std=POSITION_STD)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = ClsEncoder(dim, layers, heads, ffn_dim, dropout)
        self.projection = ClsProjection(dim, projection_dim or 2 * dim, embed_dim or dim)

    def forward(self, cells: Tensor) -> Tensor:
        """cells: (M, grid · grid, dim), row by row -> (M, D)."""
        tokens = self.dropout(self.norm(cells + self.positions))
        return self.projection(self.encoder(tokens))


class ResidualBlock2d(nn.Module):
    """conv 3×3, group norm, ReLU, twice, plus the input (1×1 conv + norm), ReLU; stride in the first."""

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
        """(M, C_in, H, W) -> (M, C, ceil(H / stride), ceil(W / stride))."""
        hidden = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(hidden + self.shortcut(x))


class CnnImageEncoder(nn.Module):
    """A small residual network, its features on a grid, BERT layers over the grid.

    A stride-2 stem and one stride-2 block per entry of `channels` (an image of grid · 2^(1 + stages)
    pixels gives the grid exactly: 64 by default; others are average-pooled to it). Group norm: an
    image's embedding never depends on the others of its batch. 0.5 M parameters by default.

    dim: of the layers over the grid; embed_dim: D of the image embedding (`dim` by default).
    """

    def __init__(
        self,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        ffn_dim: int = 256,
        dropout: float = 0.1,
        channels: Sequence[int] = (24, 48, 96),
        grid: int = 4,
        embed_dim: int | None = None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not channels or grid < 1:
            errors = [f"channels {tuple(channels)} and grid {grid}; need at least one stage and one cell"]
            raise ConfigError("image encoder cnn", errors)
        self.grid = grid
        self.pixels = PixelNorm(name="image encoder cnn")
        stem = (nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), _group_norm(channels[0]), nn.ReLU())
        widths = [channels[0], *channels]
        blocks = (ResidualBlock2d(a, b, 2) for a, b in pairwise(widths))
        self.convolutions = nn.Sequential(*stem, *blocks)
        self.cells = nn.Linear(channels[-1], dim)
        self.tokens = GridEncoder(grid, dim, embed_dim, layers, heads, ffn_dim, dropout, projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        """images: (M, 3, H, W) uint8 -> (M, D), not normalised."""
        features = self.convolutions(self.pixels(images))
        if tuple(features.shape[2:]) != (self.grid, self.grid):
            features = F.adaptive_avg_pool2d(features, self.grid)
        cells = features.flatten(2).transpose(1, 2)  # (M, C, G, G) -> (M, G·G, C)
        return self.tokens(self.cells(cells))


class PatchImageEncoder(nn.Module):
    """ViT: linear patches with learned positions, CLS, BERT layers, CLS projected.

    image_size_px: side of the (square) images; patch_size_px must divide it.
    embed_dim: D of the image embedding (`dim` by default).
    Source: Dosovitskiy et al. 2021, arXiv 2010.11929 (here with post-LN layers, as the rest of the model).
    """

    def __init__(
        self,
        image_size_px: int = 224,
        patch_size_px: int = 16,
        dim: int = 768,
        layers: int = 6,
        heads: int = 12,
        ffn_dim: int = 3072,
        dropout: float = 0.1,
        embed_dim: int | None = None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        if patch_size_px < 1 or image_size_px < 1 or image_size_px % patch_size_px != 0:
            error = (
                f"patches of {patch_size_px} px do not tile images of {image_size_px} px; choose a divisor"
            )
            raise ConfigError("image encoder patches", [error])
        self.image_size_px = image_size_px
        self.pixels = PixelNorm(name="image encoder patches")
        self.patches = nn.Linear(3 * patch_size_px**2, dim)
        init_bert(self.patches)
        self.patch_size_px = patch_size_px
        grid = image_size_px // patch_size_px
        self.tokens = GridEncoder(grid, dim, embed_dim, layers, heads, ffn_dim, dropout, projection_dim)
        init_bert(self.tokens.norm)

    def forward(self, images: Tensor) -> Tensor:
        """images: (M, 3, S, S) uint8 with S = image_size_px -> (M, D), not normalised."""
        pixels = self.pixels(images)
        if tuple(pixels.shape[2:]) != (self.image_size_px, self.image_size_px):
            size = f"{pixels.shape[3]}×{pixels.shape[2]} px"
            wanted = f"{self.image_size_px}×{self.image_size_px} px"
            hint = f"This encoder has positions for {wanted}: resize the images."
            raise ImageError("image encoder patches", f"got images of {size}", hint)
        patches = F.pixel_unshuffle(pixels, self.patch_size_px)  # (M, 3, S, S) -> (M, 3·P·P, G, G)
        return self.tokens(self.patches(patches.flatten(2).transpose(1, 2)))  # -> (M, G·G, 3·P·P)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Up to 8 groups, as many as divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)
