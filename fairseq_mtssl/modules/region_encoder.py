"""Image embedding from region features (Faster R-CNN boxes), the paper's image branch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.modules.attention import ClsEncoder, ClsProjection, init_bert

LN_EPS = 1e-12


class RegionEncoder(nn.Module):
    """(LN(Linear features) + LN(Linear boxes)) / 2, dropout, CLS, BERT layers, CLS projected.

    No positional embedding: the order of the regions does not matter.
    Parameters in the paper's size: embedding 1,580,544, CLS 768, 6 layers 42,527,232,
    projection 2,361,600.

    feature_dim: of a region; dim: of the layers; embed_dim: D of the image embedding (`dim` by
    default); projection_dim: hidden size of the last projection (2 · dim by default).
    Source: arXiv 2306.02972; LXMERT's visual embedding, arXiv 1908.07490.
    """

    def __init__(
        self,
        feature_dim: int = 2048,
        dim: int = 768,
        layers: int = 6,
        heads: int = 12,
        ffn_dim: int = 3072,
        dropout: float = 0.1,
        embed_dim: int | None = None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.feature_projection = nn.Linear(feature_dim, dim)
        self.feature_norm = nn.LayerNorm(dim, eps=LN_EPS)
        self.box_projection = nn.Linear(4, dim)
        self.box_norm = nn.LayerNorm(dim, eps=LN_EPS)
        for part in (self.feature_projection, self.feature_norm, self.box_projection, self.box_norm):
            init_bert(part)
        self.dropout = nn.Dropout(dropout)
        self.encoder = ClsEncoder(dim, layers, heads, ffn_dim, dropout)
        self.projection = ClsProjection(dim, projection_dim or 2 * dim, embed_dim or dim)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Embed images.

        images: {"regions": (M, R, feature_dim), "boxes": (M, R, 4) = x1, y1, x2, y2 divided by the
        image's width, height, width, height}; R = 36 in the paper.
        Returns: (M, D), not normalised.
        Raises: ImageError when the two do not fit.
        """
        regions, boxes = self._checked(images)
        features = self.feature_norm(self.feature_projection(regions))
        places = self.box_norm(self.box_projection(boxes))
        return self.projection(self.encoder(self.dropout((features + places) / 2)))

    def _checked(self, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        hint = f"Give regions (M, R, {self.feature_dim}) and boxes (M, R, 4), or choose a raw-image encoder."
        if not isinstance(images, Mapping) or not {"regions", "boxes"} <= set(images):
            raise ImageError("region encoder", f"got {type(images).__name__} without regions and boxes", hint)
        regions, boxes = images["regions"], images["boxes"]
        if (
            regions.dim() != 3
            or regions.shape[2] != self.feature_dim
            or tuple(boxes.shape) != (*regions.shape[:2], 4)
        ):
            got = f"regions {tuple(regions.shape)} and boxes {tuple(boxes.shape)}"
            raise ImageError("region encoder", f"got {got}", hint)
        dtype = self.feature_projection.weight.dtype
        return regions.to(dtype), boxes.to(dtype)
