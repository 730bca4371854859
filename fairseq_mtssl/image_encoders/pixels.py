"""What image encoders of pixels share: the normalisation of pixels, and transformer layers over a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.image_encoders.base import TransformerOptions, cls_encoder
from fairseq_mtssl.modules.attention import ClsProjection

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
        """cells: (M, grid · grid, dim), row by row -> (M, D)."""
        tokens = self.dropout(self.norm(cells + self.positions))
        return self.projection(self.encoder(tokens))
