"""Image embeddings from a network of timm, whose pretrained weights are read from a local file."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.image_encoders.base import ImageEncoder, ImageOptions, register_image_encoder
from fairseq_mtssl.image_encoders.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelNorm
from fairseq_mtssl.modules.attention import ClsProjection

Weights = dict[str, Tensor]


@dataclass
class TimmOptions(ImageOptions):
    image_encoder: str = field(default="timm:", metadata={"help": "timm:<name>, a name that timm lists"})
    image_weights: Optional[str] = field(
        default=None, metadata={"help": "local file of pretrained weights (timm:<name>)"}
    )


@register_image_encoder("timm:<name>")
class TimmImageEncoder(ImageEncoder):
    """A network of timm without its classifier, whose pooled features are projected. Nothing is downloaded.

    image_encoder names the network, as timm:vit_small_patch16_224 does; a network for images of one size is
    built for image_size. image_weights is a .pt, .pth or .safetensors file with a state dict of that network,
    whose classifier is ignored and whose other keys and shapes must all fit; null: random weights.
    Raises: ConfigError if timm is missing or does not know the name; CheckpointError if the weights are
    missing or do not fit.
    """

    Options = TimmOptions

    def __init__(self, options: TimmOptions) -> None:
        super().__init__(options)
        name, weights = options.image_encoder.removeprefix("timm:"), options.image_weights
        timm = _import_timm(name)
        self.network = _create(timm, name, options.image_size)
        settings = getattr(self.network, "default_cfg", None) or {}
        self.pixels = PixelNorm(
            settings.get("mean", IMAGENET_MEAN),
            settings.get("std", IMAGENET_STD),
            f"image encoder timm:{name}",
        )
        if weights is not None:
            _load(self.network, Path(weights), name, settings.get("classifier"))
        features = getattr(self.network, "head_hidden_size", None) or self.network.num_features
        self.projection = ClsProjection(features, options.encoder_embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images of the network's size: (M, 3, H, W) uint8 -> (M, D), not normalised."""
        return self.projection(self.network(self.pixels(images)))


def _import_timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"image encoder timm:{name}",
            [f"timm cannot be imported ({error}); `pip install timm`, or choose `cnn` or `patches`"],
        ) from error


def _create(timm: Any, name: str, image_size_px: int) -> Any:
    """Build the network without its classifier; image_size_px has an effect on networks for one size only."""
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise ConfigError(
            "image encoder", [f"timm knows no `{name}`; near: {near or 'see timm.list_models()'}"]
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size_px)
    except TypeError as error:  # convolutional networks take images of any size, and have no such argument
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=False, num_classes=0)


def _load(network: nn.Module, path: Path, name: str, classifier: str | tuple[str, ...] | None) -> None:
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    prefixes = tuple(f"{head}." for head in heads)
    weights = {name: weight for name, weight in _read(path).items() if not name.startswith(prefixes)}
    wanted = network.state_dict()
    errors = [f"missing {key}" for key in wanted if key not in weights]
    errors += [f"unexpected {key}" for key in weights if key not in wanted]
    errors += [
        f"{key} is {tuple(value.shape)}, wanted {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if errors:
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise CheckpointError(
            path,
            f"does not fit timm's {name}: {'; '.join(errors[:5])}{more}",
            f"Give a state dict of timm's {name} at the same image size, or another timm name.",
        )
    network.load_state_dict(weights)


def _read(path: Path) -> Weights:
    """Read the tensors of a local file, which holds a state dict, or one under `state_dict` or `model`."""
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
    except Exception as error:  # each format raises its own errors, which mean the same to the user
        hint = "Save the network's plain state_dict() with torch.save or safetensors."
        raise CheckpointError(path, f"cannot be read as weights ({error})", hint) from error
    for key in ("state_dict", "model"):
        if isinstance(read, Mapping) and isinstance(read.get(key), Mapping):
            read = read[key]
    if not isinstance(read, Mapping) or not all(isinstance(value, Tensor) for value in read.values()):
        raise CheckpointError(path, "holds no state dict", "Save the network's plain state_dict().")
    return dict(read)
