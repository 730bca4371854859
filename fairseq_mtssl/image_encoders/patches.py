"""A vision transformer over patches of pixels, trained from scratch."""

from dataclasses import dataclass, field
from typing import Any, List

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.image_encoders.base import ImageEncoder, TransformerOptions, register_image_encoder
from fairseq_mtssl.image_encoders.pixels import GridEncoder, PixelNorm
from fairseq_mtssl.modules.attention import init_bert


@dataclass
class PatchOptions(TransformerOptions):
    image_patch_size: int = field(default=16, metadata={"help": "side of a patch, pixels (patches)"})


@register_image_encoder("patches")
class PatchImageEncoder(ImageEncoder):
    """A vision transformer: BERT layers over linear projections of patches with learned positions.

    The images are squares of image_size pixels, a multiple of image_patch_size.
    Source: Dosovitskiy et al. 2021, arXiv 2010.11929, but with layer norms after each block, as in BERT.
    """

    Options = PatchOptions

    def __init__(self, options: PatchOptions) -> None:
        super().__init__(options)
        self.image_size_px, self.patch_size_px = options.image_size, options.image_patch_size
        self.pixels = PixelNorm(name="image encoder patches")
        self.patches = nn.Linear(3 * self.patch_size_px**2, options.encoder_embed_dim)
        init_bert(self.patches)
        self.tokens = GridEncoder(self.image_size_px // self.patch_size_px, options)
        init_bert(self.tokens.norm)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: (M, 3, S, S) uint8 with S = image_size_px -> (M, D), not normalised."""
        pixels = self.pixels(images)
        if tuple(pixels.shape[2:]) != (self.image_size_px, self.image_size_px):
            size = f"{pixels.shape[3]}×{pixels.shape[2]} px"
            wanted = f"{self.image_size_px}×{self.image_size_px} px"
            hint = f"This encoder has positions for {wanted}: resize the images."
            raise ImageError("image encoder patches", f"got images of {size}", hint)
        patches = F.pixel_unshuffle(pixels, self.patch_size_px)  # (M, 3, S, S) -> (M, 3·P·P, G, G)
        return self.tokens(self.patches(patches.flatten(2).transpose(1, 2)))  # -> (M, G·G, 3·P·P)

    @classmethod
    def config_errors(cls, options: Any) -> List[str]:
        patch, image = options.image_patch_size, options.image_size
        if patch >= 1 and image >= 1 and image % patch == 0:
            return []
        return [f"image_patch_size {patch}: patches do not tile images of {image} px; choose a divisor"]
