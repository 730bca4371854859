"""The interface of image encoders, their common options, and the registry of image encoders.

To add one, write a file with a subclass of `ImageEncoder` under `@register_image_encoder(NAME)`, import it in
`fairseq_mtssl/image_encoders/__init__.py` or name it as a plugin, and train it with model.image_encoder=NAME.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, List

from torch import Tensor, nn

from fairseq_mtssl.modules.attention import BertOptions, ClsEncoder
from fairseq_mtssl.registry import Registry


@dataclass
class ImageOptions:
    """The options of every image encoder; they take the values of the model's fields."""

    encoder_embed_dim: int = field(default=768, metadata={"help": "dimensions D of an embedding"})
    image_size: int = field(default=224, metadata={"help": "side of the square images in pixels"})


@dataclass
class TransformerOptions(ImageOptions):
    """The options of an image encoder with transformer layers over regions, cells or patches."""

    encoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of the feed-forward layers"})
    encoder_attention_heads: int = field(default=12, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "dropout, [0, 1)"})
    image_layers: int = field(
        default=6, metadata={"help": "transformer layers over regions, cells or patches"}
    )


def cls_encoder(options: TransformerOptions) -> ClsEncoder:
    """Build the BERT layers, with a CLS token, that the options describe."""
    bert = BertOptions(
        options.encoder_embed_dim,
        options.encoder_attention_heads,
        options.encoder_ffn_embed_dim,
        options.dropout,
    )
    return ClsEncoder(bert, options.image_layers)


class ImageEncoder(nn.Module):
    """Embeds images, each independently of the others of its batch.

    Options: a dataclass with a field for each option, where every field has a default and a help text. A
    field with the name of a field of the model takes that value; the others are given in
    model.image_encoder_options. A file of pretrained weights should be the option `image_weights`, which is
    null when a checkpoint is loaded, because the checkpoint has the weights.
    images: the kind of input: "pixels", read from the image files of the manifest, or "regions", read from
    the HDF5 file task.region_features.
    """

    Options: ClassVar[type[Any]] = ImageOptions
    images: ClassVar[str] = "pixels"

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, images: Any) -> Tensor:
        """Embed images.

        images: pixels, of shape (M, 3, image_size, image_size) uint8 in RGB; or regions, a dictionary with
        "regions" of shape (M, R, F) and "boxes" of shape (M, R, 4), which are x1, y1, x2, y2 divided by the
        image's width, height, width, height.
        Returns: (M, encoder_embed_dim), not normalised.
        Raises: ImageError for input that the encoder does not take.
        """
        raise NotImplementedError

    def draw_as_paper(self) -> None:
        """Called with model.bert_init=true: draw weights anew as the code of arXiv 2306.02972 does.

        By default all weights are kept, since they may be pretrained.
        """

    @classmethod
    def config_errors(cls, options: Any) -> List[str]:
        """Return the errors in the options, each as "field value: wanted …"."""
        return []


IMAGE_ENCODERS: Registry[type[ImageEncoder]] = Registry(
    "model.image_encoder", "image encoder", "image encoders"
)
register_image_encoder = IMAGE_ENCODERS.register


def encoder_named(name: str) -> type[ImageEncoder]:
    """Return the image encoder of a name; for "timm:vit_tiny" the one registered as "timm:<name>".

    Raises: ConfigError for a name that is not registered.
    """
    kind, _, variant = name.partition(":")
    pattern = f"{kind}:<name>"
    return IMAGE_ENCODERS.named(pattern if variant and pattern in IMAGE_ENCODERS.names() else name)


def takes_regions(name: str) -> bool:
    """Return whether the image encoder of a name takes region features. Raises: ConfigError."""
    return encoder_named(name).images == "regions"
