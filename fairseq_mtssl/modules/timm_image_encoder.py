"""Image embeddings from a `timm` network by name; pretrained weights only from a local file."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.modules.attention import ClsProjection
from fairseq_mtssl.modules.raw_image_encoder import IMAGENET_MEAN, IMAGENET_STD, PixelNorm

Weights = dict[str, Tensor]


class TimmImageEncoder(nn.Module):
    """A timm network without its classifier, its pooled features projected. Never downloads.

    name: as timm lists it, e.g. `vit_small_patch16_224`.
    weights: a local .pt, .pth or .safetensors state dict of that network, or None for random ones;
        classifier weights in it are ignored, every other key and shape must fit.
    image_size_px: side of the images where the network is built for one size (ViTs); None keeps timm's.
    embed_dim: D of the image embedding; projection_dim: hidden size of the projection (twice the
        network's feature size by default).
    Raises: ConfigError when timm is missing or does not know the name; CheckpointError for weights
        that are missing or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        embed_dim: int = 768,
        image_size_px: int | None = None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        timm = _import_timm(name)
        self.network = _create(timm, name, image_size_px)
        settings = getattr(self.network, "default_cfg", None) or {}
        self.pixels = PixelNorm(
            settings.get("mean", IMAGENET_MEAN),
            settings.get("std", IMAGENET_STD),
            f"image encoder timm:{name}",
        )
        if weights is not None:
            _load(self.network, Path(weights), name, settings.get("classifier"))
        features = getattr(self.network, "head_hidden_size", None) or self.network.num_features
        self.projection = ClsProjection(features, projection_dim or 2 * features, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """images: (M, 3, H, W) uint8, of the size the network was built for -> (M, D), not normalised."""
        return self.projection(self.network(self.pixels(images)))


def _import_timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"image encoder timm:{name}",
            [f"timm cannot be imported ({error}); `pip install timm`, or choose `cnn` or `patches`"],
        ) from error


def _create(timm: Any, name: str, image_size_px: int | None) -> Any:
    """Build the network without classifier; image_size_px reaches only networks of a fixed size."""
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise ConfigError(
            "image encoder", [f"timm knows no `{name}`; near: {near or 'see timm.list_models()'}"]
        )
    if image_size_px is None:
        return timm.create_model(name, pretrained=False, num_classes=0)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size_px)
    except TypeError as error:  # convolutional networks take any size and no such argument
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=False, num_classes=0)


def _load(network: nn.Module, path: Path, name: str, classifier: str | tuple[str, ...] | None) -> None:
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    found = {k: v for k, v in _read(path).items() if not k.startswith(tuple(f"{head}." for head in heads))}
    wanted = network.state_dict()
    errors = [f"missing {key}" for key in wanted if key not in found]
    errors += [f"unexpected {key}" for key in found if key not in wanted]
    errors += [
        f"{key} is {tuple(value.shape)}, wanted {tuple(wanted[key].shape)}"
        for key, value in found.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if errors:
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise CheckpointError(
            path,
            f"does not fit timm's {name}: {'; '.join(errors[:5])}{more}",
            f"Give a state dict of timm's {name} at the same image size, or another timm name.",
        )
    network.load_state_dict(found)


def _read(path: Path) -> Weights:
    """Tensors of a local file; a state dict, or one under `state_dict` or `model`."""
    if not path.is_file():
        raise CheckpointError(
            path, "no such file", "Nothing is downloaded: give a local .pt, .pth or .safetensors."
        )
    try:
        if path.suffix == ".safetensors":
            read: Any = importlib.import_module("safetensors.torch").load_file(str(path))
        else:
            read = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise CheckpointError(path, "safetensors is not installed", "`pip install safetensors`.") from error
    except Exception as error:  # each format has its own errors; all mean the same to the user
        hint = "Save the network's plain state_dict() with torch.save or safetensors."
        raise CheckpointError(path, f"cannot be read as weights ({error})", hint) from error
    for key in ("state_dict", "model"):
        if isinstance(read, Mapping) and isinstance(read.get(key), Mapping):
            read = read[key]
    if not isinstance(read, Mapping) or not all(isinstance(value, Tensor) for value in read.values()):
        raise CheckpointError(path, "holds no state dict", "Save the network's plain state_dict().")
    return dict(read)
