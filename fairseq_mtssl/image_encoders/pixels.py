"""Modules of image encoders that take pixels: normalisation of pixels, transformer layers over a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.image_encoders.base import TransformerOptions, cls_encoder
from fairseq_mtssl.modules.attention import ClsProjection

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POSITION_STD = 0.3
"""Standard deviation of initial positions, of the magnitude of the features to which they are added.

With ViT's 0.02 the arrangement of two objects took 250 updates or more to learn, instead of 30 to 60.
"""


class PixelNorm(nn.Module):
    """Converts RGB pixels to the dtype of the model, normalised to zero mean and unit variance per channel.

    mean, std: per channel, of pixels scaled to [0, 1]. The buffers are not saved in checkpoints.
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
        """Normalise pixels: (M, 3, H, W) uint8 -> float. Raises: ImageError for any other input."""
        is_tensor = isinstance(images, Tensor)
        if not is_tensor or images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            got = f"{images.dtype} {tuple(images.shape)}" if is_tensor else type(images).__name__
            hint = (
                "Raw-image encoders take uint8 RGB pixels (M, 3, H, W); for region features choose `regions`."
            )
            raise ImageError(self.name, f"got {got}", hint)
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)


class GridEncoder(nn.Module):
    """Embeds a grid of features with learned positions, by BERT layers with a CLS token and a projection.

    With positions, "a red circle left of a blue star" can be distinguished from its mirror image.
    """

    def __init__(self, grid: int, options: TransformerOptions) -> None:
        super().__init__()
        dim = options.encoder_embed_dim
        self.positions = nn.Parameter(torch.empty(grid * grid, dim))
        nn.init.normal_(self.positions, std=POSITION_STD)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(options.dropout)
        self.encoder = cls_encoder(options)
        self.projection = ClsProjection(dim, dim)

    def forward(self, cells: Tensor) -> Tensor:
        """Embed grids: (M, grid · grid, dim), row by row -> (M, D)."""
        tokens = self.dropout(self.norm(cells + self.positions))
        return self.projection(self.encoder(tokens))
