"""One door to every image encoder: by kind, with plain sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.raw_image_encoder import CnnImageEncoder, PatchImageEncoder
from fairseq_mtssl.modules.region_encoder import RegionEncoder
from fairseq_mtssl.modules.timm_image_encoder import TimmImageEncoder

KINDS = ("regions", "cnn", "patches", "timm:<name>")


def takes_regions(kind: str) -> bool:
    """Whether this kind takes region features ({"regions", "boxes"}) rather than uint8 pixels."""
    return kind == "regions"


def build_image_encoder(
    kind: str,
    *,
    dim: int = 768,
    layers: int = 6,
    heads: int = 12,
    ffn_dim: int = 3072,
    dropout: float = 0.1,
    embed_dim: int | None = None,
    projection_dim: int | None = None,
    feature_dim: int = 2048,
    image_size_px: int = 224,
    patch_size_px: int = 16,
    channels: Sequence[int] = (24, 48, 96),
    grid: int = 4,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build an image encoder; each kind takes the sizes it knows and leaves the others.

    kind: `regions` (feature_dim), `cnn` (channels, grid), `patches` (image_size_px, patch_size_px)
        or `timm:<name>` (image_size_px, weights: a local file); all but timm also dim, layers,
        heads, ffn_dim, dropout.
    embed_dim: D of the image embedding, `dim` by default; projection_dim: hidden size of the last
        projection, 2 · dim by default (2 · features for timm).
    Returns: a module from images ({"regions", "boxes"} for `regions`, else uint8 (M, 3, H, W)) to
        (M, D), not normalised.
    Raises: ConfigError for an unknown kind or sizes that do not fit.
    """
    name = kind.removeprefix("timm:")
    if name != kind and name:
        return TimmImageEncoder(name, weights, embed_dim or dim, image_size_px, projection_dim)
    if weights is not None:
        raise ConfigError(
            "image encoder", [f"`{kind}` takes no weights file ({weights}); only timm:<name> does"]
        )
    if kind == "regions":
        return RegionEncoder(feature_dim, dim, layers, heads, ffn_dim, dropout, embed_dim, projection_dim)
    if kind == "cnn":
        return CnnImageEncoder(
            dim, layers, heads, ffn_dim, dropout, channels, grid, embed_dim, projection_dim
        )
    if kind == "patches":
        return PatchImageEncoder(
            image_size_px, patch_size_px, dim, layers, heads, ffn_dim, dropout, embed_dim, projection_dim
        )
    raise ConfigError("image encoder", [f"unknown kind `{kind}`; choose one of {', '.join(KINDS)}"])
