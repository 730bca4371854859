"""The image encoder of the paper: embeddings of images from the regions that a Faster R-CNN detects."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.image_encoders.base import (
    ImageEncoder,
    TransformerOptions,
    cls_encoder,
    register_image_encoder,
)
from fairseq_mtssl.modules.attention import BERT_EPS, ClsProjection, init_bert


@dataclass
class RegionOptions(TransformerOptions):
    image_feature_dim: int = field(default=2048, metadata={"help": "width of a region's features"})


@register_image_encoder("regions")
class RegionEncoder(ImageEncoder):
    """BERT layers over (LN(Linear features) + LN(Linear boxes)) / 2; the CLS token's output is projected.

    There is no positional embedding: the order of the regions does not matter. In the paper's size the
    embedding has 1,580,544 parameters, the 6 layers 42,527,232 and the projection 2,361,600.
    Source: Khorrami et al. 2023, arXiv 2306.02972; the embedding is LXMERT's, arXiv 1908.07490.
    """

    Options = RegionOptions
    images = "regions"

    def __init__(self, options: RegionOptions) -> None:
        super().__init__(options)
        self.feature_dim, dim = options.image_feature_dim, options.encoder_embed_dim
        self.feature_projection = nn.Linear(self.feature_dim, dim)
        self.feature_norm = nn.LayerNorm(dim, eps=BERT_EPS)
        self.box_projection = nn.Linear(4, dim)
        self.box_norm = nn.LayerNorm(dim, eps=BERT_EPS)
        for part in (self.feature_projection, self.feature_norm, self.box_projection, self.box_norm):
            init_bert(part)
        self.dropout = nn.Dropout(options.dropout)
        self.encoder = cls_encoder(options)
        self.projection = ClsProjection(dim, dim)

    def draw_as_paper(self) -> None:
        """Draw the CLS token from N(0, 1)."""
        nn.init.normal_(self.encoder.cls)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Embed regions as `ImageEncoder.forward` describes them: -> (M, D), not normalised.

        In the paper an image has 36 regions. Raises: ImageError if regions and boxes do not fit.
        """
        regions, boxes = self._checked(images)
        features = self.feature_norm(self.feature_projection(regions))
        positions = self.box_norm(self.box_projection(boxes))
        return self.projection(self.encoder(self.dropout((features + positions) / 2)))

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
